"""COCO's annotations as both training and evaluation want them: the one reader, and the one list of what they ask.

Annotation files that people have are COCO's own, exports of tools, and relabellings. What is left out and has one
meaning is filled in; what mmdetection would drop, or pycocotools fail on after all training, is told before. Without
torch; the masks are pycocotools'.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mto.errors import UserError
from mto.storage import again

Content = dict[str, Any]


def read(path: Path) -> Content:
    """Returns an annotation file's content, completed by `complete`.

    Raises:
        UserError: it is no JSON, or training or evaluation would fail on it; the line has the first problem.
    """
    try:
        content = complete(json.loads(again(path.read_bytes, path)))
        found = list(problems(content))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not COCO's instances as JSON ({type(error).__name__}: {error})") from error
    if found:
        more = f" ({len(found)} problems; `python -m mto verify coco` lists them)" if len(found) > 1 else ""
        raise UserError(f"{path}: {found[0]}{more}")
    return content


def complete(content: Content) -> Content:
    """Gives annotations what exporters leave out, in place; of COCO's own files it alters nothing.

    * Categories in the order of their ids: a label is a place among them, in training, validation and metric alike.
    * ``iscrowd`` is 0, ``area`` the mask's, ids are 1, 2, ... where they repeat or one is 0, which pycocotools takes
      for "none".
    * A polygon that is no list of polygons becomes one; polygons of less than three points go, where others are left:
      pycocotools would take them for boxes.

    Raises:
        ValueError, KeyError, TypeError: it is not what COCO's format says.
    """
    content["categories"].sort(key=lambda category: category["id"])
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    ids = [annotation["id"] for annotation in content["annotations"]]
    if len(set(ids)) != len(ids) or 0 in ids:
        for number, annotation in enumerate(content["annotations"], start=1):
            annotation["id"] = number
    for annotation in content["annotations"]:
        annotation.setdefault("iscrowd", 0)
        mask = annotation.get("segmentation")
        if isinstance(mask, list) and mask:
            if not any(isinstance(polygon, list) for polygon in mask):
                mask = [mask]
            annotation["segmentation"] = [polygon for polygon in mask if _has_area(polygon)] or mask
        if "area" not in annotation and mask and annotation["image_id"] in sizes:
            annotation["area"] = _area(annotation["segmentation"], *sizes[annotation["image_id"]])
    return content


def problems(content: Content) -> Iterator[str]:
    """Yields what does not join, of a completed file."""
    images = {image["id"]: image for image in content["images"]}
    categories = {category["id"]: category["name"] for category in content["categories"]}
    for key, found in (("images", images), ("categories", categories)):
        if len(found) != len(content[key]):
            yield f"{key}: ids repeat"
    usable = 0
    for annotation in content["annotations"]:
        name = f"annotation {annotation['id']}"
        if annotation["image_id"] not in images:
            yield f"{name}: no image {annotation['image_id']}"
            continue
        if annotation["category_id"] not in categories:
            yield f"{name}: no category {annotation['category_id']}"
        box = annotation["bbox"]
        if len(box) != 4 or not all(math.isfinite(x) for x in box) or min(box[2:]) < 0:
            yield f"{name}: bbox {box} is no x, y, width, height"
        if annotation["iscrowd"] not in (0, 1):
            yield f"{name}: iscrowd is {annotation['iscrowd']}, and not 0 or 1"
        if what := _wrong_mask(annotation, images[annotation["image_id"]]):
            yield f"{name}: {what}"
        elif not math.isfinite(annotation["area"]):
            yield f"{name}: area is {annotation['area']}"
        usable += not annotation["iscrowd"]
    if not usable:
        yield "no annotation: nothing could be trained or measured"


def undrawable(content: Content) -> Iterator[str]:
    """Yields which masks of a completed file pycocotools cannot draw, as it must where they are measured on."""
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    for annotation in content["annotations"]:
        if annotation["image_id"] in sizes and annotation.get("segmentation"):
            try:
                _area(annotation["segmentation"], *sizes[annotation["image_id"]])
            except Exception as error:
                yield f"annotation {annotation['id']}: pycocotools cannot draw its segmentation ({error})"


def left_out(content: Content) -> int:
    """Counts the objects of a completed file without a polygon of three points, which training passes over."""
    given = [annotation.get("segmentation") for annotation in content["annotations"]]
    return sum(isinstance(mask, list) and bool(mask) and not any(map(_has_area, mask)) for mask in given)


def polygons(mask: dict[str, Any]) -> list[list[float]]:
    """Returns a mask of run lengths as rectangles of whole pixels, which together are the mask exactly.

    mmdetection's training pipeline keeps polygons, since boxes of jittered bitmaps would be rounded to pixels, and
    drops what is none.
    """
    from pycocotools import mask as coco

    height, width = mask["size"]
    code = coco.frPyObjects(mask, height, width) if isinstance(mask["counts"], list) else mask
    pixels = np.pad(coco.decode(code), ((1, 1), (0, 0))).astype(np.int8)
    edges = np.diff(pixels, axis=0)  # (height + 1, width): 1 where a run of a column begins, -1 where it has ended
    open_: dict[tuple[int, int], int] = {}
    found: list[list[float]] = []
    for column in range(width + 1):
        steps = edges[:, column] if column < width else np.zeros(1, np.int8)
        runs = set(zip(np.flatnonzero(steps > 0).tolist(), np.flatnonzero(steps < 0).tolist(), strict=True))
        for top, bottom in sorted(open_.keys() - runs):
            left = open_.pop((top, bottom))
            found.append([float(x) for x in (left, top, column, top, column, bottom, left, bottom)])
        for run in runs - open_.keys():
            open_[run] = column
    return found


def _wrong_mask(annotation: dict[str, Any], image: dict[str, Any]) -> str | None:
    mask = annotation.get("segmentation")
    if not mask:
        return "no segmentation (Mask R-CNN needs polygons)"
    if isinstance(mask, dict):
        if mask["size"] != [image["height"], image["width"]]:
            return (
                f"run lengths for {mask['size']}, but its image is {[image['height'], image['width']]} (height, width)"
            )
        return None if isinstance(mask["counts"], str | list) else "its run lengths have no counts"
    if not isinstance(mask, list) or not all(isinstance(polygon, list) for polygon in mask):
        return "its segmentation is neither polygons nor run lengths"
    if not all(np.isfinite(np.asarray(polygon, dtype=float)).all() for polygon in mask):
        return "a polygon has coordinates that are no numbers"
    return None


def _has_area(polygon: Any) -> bool:
    return isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0


def _area(mask: Any, height: int, width: int) -> float:
    """Returns a mask's area in pixels, as pycocotools' own ``annToRLE`` draws it.

    Raises:
        ValueError: a polygon has less than three points.
    """
    from pycocotools import mask as coco

    if isinstance(mask, list):
        if not all(_has_area(polygon) for polygon in mask):
            raise ValueError("a polygon has less than 3 points, or half a point")
        return float(coco.area(coco.merge(coco.frPyObjects(mask, height, width))))
    return float(coco.area(coco.frPyObjects(mask, height, width) if isinstance(mask["counts"], list) else mask))
