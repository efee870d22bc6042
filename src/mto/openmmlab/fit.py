"""What the two dense tasks share: seeded loaders, parameter groups, rates per iteration, one call of the engine."""

from collections.abc import Callable
from typing import Any

import cv2
from mmengine.dataset import BaseDataset, pseudo_collate
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from torch import Tensor, nn

from mto.config.job import Ade20kJob, CocoJob
from mto.data.imagenet import build_loader
from mto.data.rng import SeededDataset, seeded
from mto.data.sampler import EpochSampler
from mto.openmmlab.libraries import quiet
from mto.openmmlab.readable import Readable
from mto.training.contract import Length, Validation, Work
from mto.training.loop import Loop, train
from mto.training.optim import StepWrapper, build_optimizer, parameter_groups
from mto.training.schedule import Schedule


def train_dense(
    work: Work[Ade20kJob | CocoJob],
    *,
    weights: dict[str, Tensor],
    build_model: Callable[..., BaseModel],
    train_set: BaseDataset,
    val_set: BaseDataset,
    metric: BaseMetric,
    no_decay: frozenset[str] = frozenset(),
    decay_vectors: bool = False,
) -> Loop:
    """Trains for the job's ``iterations`` or ``epochs``, evaluates at the end; the history has the result.

    Args:
        work: the task.
        weights: of the pre-trained encoder.
        build_model: of (job, weights).
        no_decay, decay_vectors: see `parameter_groups`.

    Returns:
        The finished loop.
    """
    job, hardware = work.job, work.hardware
    optim = job.optim
    plan = hardware.plan(optim.batch_size)
    with seeded(job.seed, "init"), quiet():
        model = build_model(job, weights)
        model.init_weights()  # of the heads; PlainViT has no such method and keeps the encoder's
    if hardware.world_size > 1 and hardware.gpus:  # SyncBN exists on GPUs alone
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    groups = parameter_groups(
        model,
        weight_decay=optim.weight_decay,
        no_decay=no_decay,
        decay_vectors=decay_vectors,
        layer_decay=optim.layer_decay,
        depth=job.encoder.depth,
        prefix="backbone.",
    )
    cv2.setNumThreads(0)  # its threads would compete with the loader's workers
    ranks: dict[str, Any] = {"rank": hardware.rank, "world_size": hardware.world_size}
    loading: dict[str, Any] = {"collate_fn": pseudo_collate, "pin_memory": hardware.gpus > 0}
    order = EpochSampler(len(train_set), seed=job.seed, shuffle=True, drop_last_to=plan.size, infinite=True, **ranks)
    readable = SeededDataset(Readable(train_set, job.task), job.seed)
    train_loader = build_loader(readable, order, plan.micro, hardware.workers, **loading)
    val_loader = build_loader(
        SeededDataset(Readable(val_set, job.task), job.seed),
        EpochSampler(len(val_set), seed=job.seed, shuffle=False, **ranks),
        1,  # test images differ in size
        hardware.workers,
        **loading,
    )
    steps_per_epoch = len(train_set) // plan.size
    if isinstance(job, CocoJob):
        length = Length.in_epochs(job.epochs, steps_per_epoch, validate_every=job.epochs)
    else:
        total = job.iterations
        length = Length(total, total, min(job.save_interval, total), total)
    metric.collect_dir = str(work.progress / "collected")  # else mmengine leaves a folder where Snakemake was started
    evaluator = Evaluator(metric)
    evaluator.dataset_meta = val_set.metainfo
    if not MMLogger.check_instance_created("mto"):  # else the libraries' own reports would be mixed with ours
        MMLogger.get_instance("mto", log_level="ERROR")
    return train(
        work,
        model,
        StepWrapper(
            build_optimizer(groups, optim),
            accumulation=plan.accumulation,
            clip_grad=optim.clip_grad,
            precision=job.precision,
            device=hardware.device,
        ),
        schedule_of(job, steps_per_epoch if isinstance(job, CocoJob) else 1),
        length,
        train_loader,
        Validation(val_loader, evaluator),
    )


def schedule_of(job: Ade20kJob | CocoJob, steps_per_unit: int) -> Schedule:
    """Returns the rates of mmcv's (poly) and detectron2's (cosine) dense recipes.

    The shape begins at step 0, a linear warm-up from ``warmup_ratio`` of the rate covers its first
    ``warmup_iterations``, and every group scales alike.

    detectron2's warm-up ends at the cosine's value there, ours at the peak: 0.025 % more, at 25 epochs of COCO.

    Args:
        steps_per_unit: optimiser steps in the unit that the job's length is counted in.
    """
    shape = job.schedule
    return Schedule(
        kind=shape.kind,
        total=job.epochs if isinstance(job, CocoJob) else job.iterations,
        warmup=shape.warmup_iterations / steps_per_unit,
        warmup_lr=shape.warmup_ratio * job.optim.lr,
        min_lr=shape.min_lr,
        power=shape.power,
        warmup_prefix=False,
        scale_min_lr=True,
    )
