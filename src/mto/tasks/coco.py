"""Object detection and instance segmentation: Mask R-CNN on a pre-trained encoder, through mmdetection, on COCO.

Out: metrics.json, history.jsonl. In: ``encoder``. Metrics in percent, after the last epoch: ``box_ap``, ``mask_ap``
(mean over IoU 0.5 to 0.95), ``box_ap50``, ``mask_ap50``. The job's keys are explained in ``mto.openmmlab.maskrcnn``.
"""

from __future__ import annotations

from typing import Any

from mto.config.job import CocoJob
from mto.tasks.dense import run_dense
from mto.tasks.task import Task

#: our names -> the metric's
METRICS = {
    "box_ap": "coco/bbox_mAP",
    "mask_ap": "coco/segm_mAP",
    "box_ap50": "coco/bbox_mAP_50",
    "mask_ap50": "coco/segm_mAP_50",
}

#: No weight decay for positions, relative tables and norms; biases and LayerScale have it (MIMDet:configs/benchmarking)
DECAY: dict[str, Any] = {"no_decay": frozenset({"pos_embed", "table"}), "decay_vectors": True}


def run(task: Task[CocoJob]) -> None:
    from mto.openmmlab.libraries import load_mmdet

    load_mmdet()
    from mto.openmmlab.coco_metric import SharedCocoMetric
    from mto.openmmlab.maskrcnn import annotation_file, build_dataset, build_model

    run_dense(
        task,
        build_model=build_model,
        build_dataset=build_dataset,
        splits=("train2017", "val2017"),
        metric=SharedCocoMetric(annotation_file(task.job, "val2017")),
        names=METRICS,
        unit=100,
        **DECAY,
    )
