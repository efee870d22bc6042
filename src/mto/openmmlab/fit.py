"""What the two dense tasks share: seeded loaders, parameter groups, rates per iteration, one call of the engine."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
from mmengine.dataset import BaseDataset, pseudo_collate
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.model import BaseModel
from torch import Tensor, nn

from mto.data.imagenet import build_loader
from mto.data.rng import SeededDataset, seeded
from mto.data.sampler import EpochSampler
from mto.openmmlab.libraries import quiet
from mto.openmmlab.readable import Readable
from mto.runtime.lock import Lock
from mto.training.engine import Engine, train
from mto.training.hardware import Hardware
from mto.training.optim import StepWrapper, build_optimizer, parameter_groups
from mto.training.schedule import Schedule


def train_dense(
    *,
    job: dict[str, Any],
    hardware: Hardware,
    weights: dict[str, Tensor],
    work_dir: Path,
    lock: Lock,
    build_model: Callable[..., BaseModel],
    train_set: BaseDataset,
    val_set: BaseDataset,
    metric: BaseMetric,
    no_decay: frozenset[str] = frozenset(),
    decay_vectors: bool = False,
) -> Engine:
    """Trains for the job's ``iterations`` or ``epochs``, evaluates at the end; the history has the result.

    Args:
        weights: of the pre-trained encoder.
        work_dir, lock: see `mto.training.engine.train`.
        build_model: of (job, weights).
        no_decay, decay_vectors: see `parameter_groups`.

    Returns:
        The finished runner.
    """
    optim = job["optim"]
    plan = hardware.plan(optim["batch_size"])
    with seeded(job["seed"], "init"), quiet():
        model = build_model(job, weights)
        model.init_weights()  # of the heads; PlainViT has no such method and keeps the encoder's
    if hardware.world_size > 1 and hardware.gpus:  # SyncBN exists on GPUs alone
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    groups = parameter_groups(
        model,
        weight_decay=optim["weight_decay"],
        no_decay=no_decay,
        decay_vectors=decay_vectors,
        layer_decay=optim["layer_decay"],
        depth=job["encoder"]["depth"],
        prefix="backbone.",
    )
    by_epoch = "epochs" in job
    cv2.setNumThreads(0)  # its threads would compete with the loader's workers
    ranks: dict[str, Any] = {"rank": hardware.rank, "world_size": hardware.world_size}
    loading: dict[str, Any] = {"collate_fn": pseudo_collate, "pin_memory": hardware.gpus > 0}
    order = EpochSampler(len(train_set), seed=job["seed"], shuffle=True, drop_last_to=plan.size, infinite=True, **ranks)
    readable = SeededDataset(Readable(train_set, job["task"]), job["seed"])
    train_loader = build_loader(readable, order, plan.micro, hardware.workers, **loading)
    val_loader = build_loader(
        SeededDataset(Readable(val_set, job["task"]), job["seed"]),
        EpochSampler(len(val_set), seed=job["seed"], shuffle=False, **ranks),
        1,  # test images differ in size
        hardware.workers,
        **loading,
    )
    steps_per_epoch = len(train_set) // plan.size
    length: dict[str, Any] = {"max_epochs": job["epochs"]} if by_epoch else {"max_iters": job["iterations"]}
    interval = job["epochs"] if by_epoch else job["iterations"]
    metric.collect_dir = str(work_dir / "collected")  # else mmengine leaves a folder where Snakemake was started
    return train(
        model=model,
        train_loader=train_loader,
        val_loader=val_loader,
        val_evaluator=Evaluator(metric),
        val_interval=interval,
        optim_wrapper=StepWrapper(
            build_optimizer(groups, optim),
            accumulation=plan.accumulation,
            clip_grad=optim["clip_grad"],
            precision=job["precision"],
            device=hardware.device,
        ),
        schedule=schedule_of(job, steps_per_epoch if by_epoch else 1),
        work_dir=work_dir,
        job=job,
        lock=lock,
        seed=job["seed"],
        hardware=hardware,
        batch_size=plan.size,
        log_interval=job["log_interval"],
        save_interval=min(job.get("save_interval", interval), interval),
        **length,
    )


def schedule_of(job: dict[str, Any], steps_per_unit: int) -> Schedule:
    """The rates of mmcv's (poly) and detectron2's (cosine) dense recipes: the shape begins at step 0, a linear warm-up
    from ``warmup_ratio`` of the rate covers its first ``warmup_iterations``, and every group scales alike.

    detectron2's warm-up ends at the cosine's value there, ours at the peak: 0.025 % more, at 25 epochs of COCO.

    Args:
        steps_per_unit: optimiser steps in the unit that the job's length is counted in.
    """
    shape = job["schedule"]
    return Schedule(
        kind=shape["kind"],
        total=job.get("epochs") or job["iterations"],
        warmup=shape["warmup_iterations"] / steps_per_unit,
        warmup_lr=shape["warmup_ratio"] * job["optim"]["lr"],
        min_lr=shape["min_lr"],
        power=shape.get("power", 1.0),
        warmup_prefix=False,
        scale_min_lr=True,
    )
