"""Fine-tune a pre-trained encoder on labelled images, with timm's augmentation, mixup and layer-wise decay.

Out: metrics.json, history.jsonl. In: ``encoder``. Metrics in percent: ``top1``, ``top5`` after the last epoch, and the
best over epochs, ``top1_best`` (chosen on the validation set, as SimMIM, BootMAE and ConMIM report; MAE: the last).
With ``ema_decay`` the averaged weights' accuracy replaces the raw one after half of the schedule
(BootMAE:run_class_finetuning.py:615-630), and ``top1_raw`` keeps the latter.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader

from mto.config.job import FinetuneJob, LinearJob
from mto.data.device.pixels import Pixels
from mto.data.imagenet import ClassificationDataset, build_loader
from mto.data.rng import seeded
from mto.data.sampler import EpochSampler
from mto.data.transforms import eval_transform, finetune_train_transform
from mto.errors import UserError
from mto.methods.encoder import build_classifier, load_encoder
from mto.tasks.task import Task
from mto.training.classifier import Accuracy, FineTuned
from mto.training.contract import Length, Validation
from mto.training.log import HISTORY, read_history
from mto.training.loop import train
from mto.training.optim import StepWrapper, build_optimizer, parameter_groups
from mto.training.schedule import Schedule


def run(task: Task[FinetuneJob]) -> None:
    job, hardware, optim = task.job, task.hardware, task.job.optim
    plan = hardware.plan(optim.batch_size)
    with task.naming_encoder():
        model = build_model(job, task.read_encoder())
    if model.mixup is not None and plan.micro % 2:
        raise UserError(
            f"mixup takes images in pairs, and a micro-batch has {plan.micro}; change --micro-batch or --gpus"
        )
    groups = parameter_groups(
        model.net,
        weight_decay=optim.weight_decay,
        no_decay=set(optim.no_decay),
        layer_decay=optim.layer_decay,
        depth=job.encoder.depth,
    )
    loader, validation = loaders(task, finetune_train_transform(job), plan.size, plan.micro)
    steps = loader.sampler.used // plan.size  # type: ignore[attr-defined]
    loop = train(
        task,
        model,
        StepWrapper(
            build_optimizer(groups, optim),
            accumulation=plan.accumulation,
            clip_grad=optim.clip_grad,
            precision=job.precision,
            device=hardware.device,
        ),
        Schedule.from_job(job.schedule, job.epochs),
        Length.in_epochs(job.epochs, steps, validate_every=job.eval_interval),
        loader,
        validation,
    )
    if hardware.rank == 0:
        task.finish(accuracy(task.progress / HISTORY, job.epochs), loop.log.usage)


def build_model(job: FinetuneJob, encoder: dict[str, Tensor] | None) -> FineTuned:
    """Builds the classifier on an encoder's weights (None: fresh ones), and if asked its running average."""
    classes = job.data.num_classes
    with seeded(job.seed, "init"):
        net = build_classifier(**job.encoder.written(), num_classes=classes)
    if encoder is not None:
        load_encoder(net, encoder)
    return FineTuned(
        net,
        num_classes=classes,
        augment=job.data.augment,
        ema_decay=job.ema_decay,
        precision=job.precision,
        pixels=Pixels.of(job),
    )


def loaders(
    task: Task[FinetuneJob] | Task[LinearJob], transform, batch_size: int, micro: int
) -> tuple[DataLoader, Validation]:
    """Builds the training batches and the validation, for the linear probe too."""
    job, hardware = task.job, task.hardware
    ranks: dict[str, Any] = {"rank": hardware.rank, "world_size": hardware.world_size}
    train_data = ClassificationDataset(job, "train", transform)
    val_data = ClassificationDataset(job, "val", eval_transform(job))
    train_sampler = EpochSampler(
        len(train_data), seed=job.seed, shuffle=True, drop_last_to=batch_size, infinite=True, **ranks
    )
    pin = hardware.gpus > 0
    val_sampler = EpochSampler(len(val_data), seed=job.seed, shuffle=False, **ranks)
    return (
        build_loader(train_data, train_sampler, micro, hardware.workers, pin_memory=pin),
        Validation(build_loader(val_data, val_sampler, micro, hardware.workers, pin_memory=pin), Accuracy()),
    )


def accuracy(history: Path, epochs: int) -> dict[str, float]:
    """Returns top1, top5, top1_best (and top1_raw, of the weights that are not averaged) from the validation rows."""
    rows = [row for row in read_history(history) if "top1" in row]
    reported = []
    for row in rows:
        averaged = "top1_ema" in row and 2 * row["epoch"] > epochs
        suffix = "_ema" if averaged else ""
        reported.append({"top1": row[f"top1{suffix}"], "top5": row[f"top5{suffix}"]})
    metrics = reported[-1] | {"top1_best": max(row["top1"] for row in reported)}
    return metrics | ({"top1_raw": rows[-1]["top1"]} if "top1_ema" in rows[-1] else {})
