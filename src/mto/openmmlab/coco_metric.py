"""COCO's average precisions, each process evaluating the images that it saw.

pycocotools matches detections to objects image by image, which takes minutes of one core on val2017, and then
accumulates over images, which takes seconds. mmdet's metric does both on rank 0 alone, while the other GPUs wait in a
collective that ends the job after NCCL's ten minutes. Here only the second part is rank 0's. The numbers are mmdet's
to the last digit: the matches of all ranks are put in the order in which pycocotools would have made them.
"""

from __future__ import annotations

import copy
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from mmdet.datasets.api_wrappers import COCO, COCOeval
from mmdet.evaluation import CocoMetric
from mmengine.fileio import load
from torch import distributed

from mto.openmmlab.annotations import Annotations
from mto.openmmlab.libraries import quiet

NAMES = ("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l")
#: What `COCOeval.accumulate` reads of a match.
READ = ("dtScores", "dtMatches", "dtIgnore", "gtIgnore")
PATIENCE = timedelta(hours=2)

#: Of one image: (category and area range, counted as pycocotools does; what `READ` names).
Matches = list[tuple[int, dict[str, Any]]]
#: Of one rank, for "bbox" and "segm": whether it detected anything, and the matches in each image that it saw.
Share = dict[str, tuple[bool, dict[int, Matches]]]


class SharedCocoMetric(CocoMetric):
    """mmdet's metric without its wait. ``evaluate`` gives rank 0 the numbers, and the other ranks nothing.

    Args:
        annotations: of the validation images, COCO's JSON.
    """

    def __init__(self, annotations: Path) -> None:
        with quiet():
            super().__init__(metric=["bbox", "segm"])
            self._coco_api = Annotations(annotations)

    def evaluate(self, size: int) -> dict[str, float]:
        with quiet():
            shares = self._gather(self.share())
            self.results.clear()
            return self.join(shares) if shares else {}

    def share(self) -> Share:
        """Returns this rank's share: whether it detected anything, and its matches, of boxes and of masks."""
        # A label is a place among the categories in the order of their ids.
        self.cat_ids = self._coco_api.get_cat_ids(cat_names=self.dataset_meta["classes"])
        images = [detected["img_id"] for _, detected in self.results]
        detections = self._detections()
        return {kind: (bool(found.anns), self._matches(kind, found, images)) for kind, found in detections.items()}

    def join(self, shares: list[Share]) -> dict[str, float]:
        """Returns the metrics over all ranks' images; none if nothing was detected in any of them.

        Raises:
            RuntimeError: an image of the annotations was not evaluated, or twice.
        """
        metrics: dict[str, float] = {}
        for kind in self.metrics:
            if not any(share[kind][0] for share in shares):
                break
            images = sorted(image for share in shares for image in share[kind][1])
            if images != sorted(self._coco_api.get_img_ids()):
                raise RuntimeError("the images that were evaluated are not those of the annotations, each once")
            evaluation = self._evaluation(kind, _coco(self._coco_api, []), images)
            params = evaluation.params
            evaluation._paramsEval = copy.deepcopy(params)
            evaluation.evalImgs = [None] * (len(params.catIds) * len(params.areaRng) * len(images))
            places = {image: place for place, image in enumerate(images)}
            for share in shares:
                for image, matches in share[kind][1].items():
                    for row, match in matches:
                        evaluation.evalImgs[row * len(images) + places[image]] = match
            evaluation.accumulate()
            evaluation.summarize()
            metrics |= {f"coco/{kind}_{name}": round(float(evaluation.stats[n]), 3) for n, name in enumerate(NAMES)}
        return metrics

    def _detections(self) -> dict[str, COCO]:
        """Returns what this rank detected, of each kind, as pycocotools wants it."""
        predictions: dict[str, list[dict[str, Any]]] = {kind: [] for kind in self.metrics}
        if self.results:
            with tempfile.TemporaryDirectory() as folder:
                files = self.results2json([detected for _, detected in self.results], f"{folder}/results")
                predictions = {kind: load(files[kind]) for kind in self.metrics}
        for prediction in predictions["segm"]:
            prediction.pop("bbox")  # or an object's size would be its box's
        return {kind: _coco(self._coco_api, found) for kind, found in predictions.items()}

    def _matches(self, kind: str, detections: COCO, images: list[int]) -> dict[int, Matches]:
        matches: dict[int, Matches] = {image: [] for image in images}
        if images:
            evaluation = self._evaluation(kind, detections, images)
            evaluation.evaluate()
            ids = evaluation.params.imgIds  # sorted by now
            for place, match in enumerate(evaluation.evalImgs):
                if match is not None:
                    kept = {name: np.asarray(match[name]) for name in READ}
                    kept["dtMatches"] = kept["dtMatches"] != 0  # of the matched object's number only that there is one
                    matches[ids[place % len(ids)]].append((place // len(ids), kept))
        return matches

    def _evaluation(self, kind: str, detections: COCO, images: list[int]) -> COCOeval:
        evaluation = COCOeval(self._coco_api, detections, kind)
        evaluation.params.catIds, evaluation.params.imgIds = sorted(self.cat_ids), images
        evaluation.params.maxDets, evaluation.params.iouThrs = list(self.proposal_nums), self.iou_thrs
        return evaluation

    def _gather(self, share: Any) -> list[Any]:
        """Returns every rank's share on rank 0, and nothing elsewhere. Over gloo: no GPU is busy with waiting."""
        if not distributed.is_initialized():
            return [share]
        group: Any = distributed.new_group(backend="gloo", timeout=PATIENCE)
        shares = [None] * distributed.get_world_size() if distributed.get_rank() == 0 else None
        distributed.gather_object(share, shares, group=group)
        return shares or []


def _coco(truth: COCO, predictions: list[dict[str, Any]]) -> COCO:
    """Returns detections in the images of ``truth``; pycocotools' own way fails where there is none."""
    if predictions:
        return truth.loadRes(predictions)
    empty = COCO()
    empty.dataset = {"images": truth.dataset["images"], "categories": truth.dataset["categories"], "annotations": []}
    empty.createIndex()
    return empty
