"""Semantic segmentation: UPerNet on a pre-trained encoder, through mmsegmentation, on ADE20K.

Out: metrics.json, history.jsonl. In: ``encoder``. Metrics in percent, after the last iteration, of single-scale sliding
windows: ``mIoU``, ``mAcc``, ``aAcc``. The job's keys are explained in ``mto.openmmlab.upernet``.
"""

from __future__ import annotations

from mto.config.job import Ade20kJob
from mto.tasks.dense import run_dense
from mto.tasks.task import Task

METRICS = {name: f"ade20k/{name}" for name in ("mIoU", "mAcc", "aAcc")}


def run(task: Task[Ade20kJob]) -> None:
    from mto.openmmlab.libraries import load_mmseg

    load_mmseg()
    from mmseg.evaluation import IoUMetric

    from mto.openmmlab.upernet import build_dataset, build_model

    run_dense(
        task,
        build_model=build_model,
        build_dataset=build_dataset,
        splits=("training", "validation"),
        metric=IoUMetric(iou_metrics=["mIoU"], prefix="ade20k"),
        names=METRICS,
    )
