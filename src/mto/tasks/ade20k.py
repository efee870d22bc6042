"""Semantic segmentation: UPerNet on a pre-trained encoder, through mmsegmentation, on ADE20K.

Out: metrics.json, history.jsonl. In: ``encoder``. Metrics in percent, after the last iteration, of single-scale sliding
windows: ``mIoU``, ``mAcc``, ``aAcc``. The job's keys are explained in ``mto.openmmlab.upernet``.
"""

from __future__ import annotations

from mto.tasks.measured import percentages
from mto.tasks.task import Task

METRICS = ("mIoU", "mAcc", "aAcc")


def run(task: Task) -> None:
    from mto.openmmlab.libraries import load_mmseg, quiet

    load_mmseg()
    from mmseg.evaluation import IoUMetric

    from mto.openmmlab.training import last_validation, train_dense
    from mto.openmmlab.upernet import build_dataset, build_model

    with quiet():
        train_set, val_set = (build_dataset(task.job, split) for split in ("training", "validation"))
    runner = train_dense(
        job=task.job,
        hardware=task.hardware,
        weights=task.read_encoder(),
        work_dir=task.progress,
        lock=task.lock,
        build_model=build_model,
        train_set=train_set,
        val_set=val_set,
        metric=IoUMetric(iou_metrics=["mIoU"], prefix="ade20k"),
    )
    if task.hardware.rank == 0:
        measured = last_validation(task.progress, task.name, "ade20k/mIoU")
        metrics = {name: measured[f"ade20k/{name}"] for name in METRICS}
        task.finish(percentages(task.name, metrics), runner.log_hook.usage)
