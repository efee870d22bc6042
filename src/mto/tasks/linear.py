"""Linear probe: heads on a frozen encoder.

Out: metrics.json, history.jsonl. In: ``encoder``. Metrics in percent: ``top1``, ``top5`` after the last epoch and
``top1_best`` over epochs. When ``probe.layer`` is a list (BEiT's protocol for ConMIM: a head on every block, trained
together), ``top1`` is the best layer's, ``best_layer`` says which, and ``top1_layer<l>`` has them all.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from mto.config.job import LinearJob
from mto.data.device.pixels import Pixels
from mto.data.rng import seeded
from mto.data.transforms import linear_train_transform
from mto.methods.encoder import build_encoder, load_encoder
from mto.tasks.finetune import loaders
from mto.tasks.task import Task
from mto.training.classifier import LinearProbe
from mto.training.contract import Length
from mto.training.log import HISTORY, read_history
from mto.training.loop import train
from mto.training.optim import StepWrapper, build_optimizer, parameter_groups
from mto.training.schedule import Schedule


def run(task: Task[LinearJob]) -> None:
    job, hardware, optim = task.job, task.hardware, task.job.optim
    plan = hardware.plan(optim.batch_size)
    with task.naming_encoder():
        model = build_model(job, task.read_encoder())
    # BEiT's AdamW decays the heads' biases too (BEiT:run_linear_eval.py:125); LARS is used without decay.
    groups = parameter_groups(model, weight_decay=optim.weight_decay, decay_vectors=True)
    loader, validation = loaders(task, linear_train_transform(job), plan.size, plan.micro)
    steps = loader.sampler.used // plan.size  # type: ignore[attr-defined]
    loop = train(
        task,
        model,
        StepWrapper(
            build_optimizer(groups, optim),
            accumulation=plan.accumulation,
            precision=job.precision,
            device=hardware.device,
        ),
        Schedule.from_job(job.schedule, job.epochs),
        Length.in_epochs(job.epochs, steps, validate_every=job.eval_interval),
        loader,
        validation,
    )
    if hardware.rank == 0:
        task.finish(accuracy(task.progress / HISTORY, model.layers), loop.log.usage)


def build_model(job: LinearJob, encoder: dict[str, Tensor] | None) -> LinearProbe:
    """Builds fresh heads on a pre-trained encoder's weights (None: fresh ones too)."""
    probe = job.probe
    with seeded(job.seed, "init"):
        frozen = build_encoder(**job.encoder.written())
        if encoder is not None:
            load_encoder(frozen, encoder)
        return LinearProbe(
            frozen,
            num_classes=job.data.num_classes,
            feature=probe.feature,
            layers=probe.layer if isinstance(probe.layer, list) else [probe.layer],
            norm=probe.norm,
            batch_norm=probe.batch_norm,
            std=probe.head_std,
            precision=job.precision,
            pixels=Pixels.of(job),
        )


def accuracy(history: Path, layers: list[int]) -> dict[str, Any]:
    """Returns the metrics that this module names, from the validation rows."""
    if len(layers) == 1:
        rows = [row for row in read_history(history) if "top1" in row]
        return {"top1": rows[-1]["top1"], "top5": rows[-1]["top5"], "top1_best": max(row["top1"] for row in rows)}
    names = [f"top1_layer{layer}" for layer in layers]
    rows = [row for row in read_history(history) if names[0] in row]
    last = {name: rows[-1][name] for name in names}
    best = max(layers, key=lambda layer: last[f"top1_layer{layer}"])
    return {
        "top1": last[f"top1_layer{best}"],
        "top5": rows[-1][f"top5_layer{best}"],
        "top1_best": max(row[name] for row in rows for name in names),
        "best_layer": best,
        **last,
    }
