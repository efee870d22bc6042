"""COCO's annotations for mmdet and for pycocotools: completed and checked, and with masks of run lengths kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmdet.datasets.api_wrappers import COCO
from mmdet.datasets.transforms import LoadAnnotations

from mto.data import coco


class LoadMasks(LoadAnnotations):
    """mmdet's reader of boxes and polygons, which drops masks of run lengths: here they become polygons."""

    def _process_masks(self, results: dict[str, Any]) -> list[Any]:
        for instance in results["instances"]:
            if isinstance(instance["mask"], dict) and not instance["ignore_flag"]:
                instance["mask"] = coco.polygons(instance["mask"])
        return super()._process_masks(results)


class Annotations(COCO):
    """pycocotools' index of an annotation file, completed and checked (`mto.data.coco.read`)."""

    def __init__(self, annotation_file: str | Path | None = None) -> None:
        super().__init__()
        if annotation_file is not None:
            self.dataset = coco.read(Path(annotation_file))
            self.createIndex()
            self.img_ann_map, self.cat_img_map = self.imgToAnns, self.catToImgs
