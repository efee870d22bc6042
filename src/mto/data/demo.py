"""The demo datasets: scikit-learn's 1,797 handwritten digits in the layouts of ImageNet, ADE20K and COCO.

Real pixels (8 x 8, UCI's optical recognition of handwritten digits), smoothly enlarged; scenes are digits on a ground
that is itself an enlarged digit. The files are the same bytes on every run.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

IMAGENET_CLASSES = [f"digit{d}" for d in range(10)]
#: annotation value d + 1 is digit d, 11 the ground; 0 ("other", ignored) rims each digit, where ink and ground blend
ADE20K_CLASSES = [*(f"digit {d}" for d in range(10)), "ground"]
COCO_CLASSES = [f"digit {d}" for d in range(10)]

TRAIN, VAL = 1440, 357  # all of them, in a share of 4 to 1
JPEG: dict[str, Any] = {"quality": 95, "subsampling": 0}
INK, RIM = 0.45, 0.15  # opacity from which a pixel is the digit; opacity from which it is no longer the ground


class Digits(NamedTuple):
    """(n, 8, 8) intensities in [0, 1], (n,) digits, and (n,) places in scikit-learn's set."""

    images: np.ndarray
    labels: np.ndarray
    places: np.ndarray


def _splits(train: int, val: int, seed: int) -> dict[str, Digits]:
    """Chooses disjoint digits for both splits, every class as often as any other."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    total = len(labels)
    if min(train, val) < 1 or train + val > total:
        raise ValueError(f"train {train} and val {val} must be at least 1 and together at most {total} digits")
    order = np.random.default_rng(seed).permutation(total)
    turn = np.zeros(total, dtype=int)  # how many of the same class come before: sorting by it deals the classes in turn
    for digit in range(10):
        same = labels[order] == digit
        turn[same] = np.arange(same.sum())
    order = order[np.argsort(turn, kind="stable")]
    images = images.reshape(-1, 8, 8).astype("float32") / 16
    places = {"train": order[val : val + train], "val": order[:val]}
    return {split: Digits(images[chosen], labels[chosen], chosen) for split, chosen in places.items()}


def _enlarge(intensity: np.ndarray, size: int) -> np.ndarray:
    """Enlarges (8, 8) to (size, size), bicubic, in [0, 1]."""
    return np.asarray(Image.fromarray(intensity).resize((size, size), Image.Resampling.BICUBIC)).clip(0, 1)


def _to_image(values: np.ndarray) -> Image.Image:
    return Image.fromarray((values * 255).round().astype("uint8"))


def make_imagenet(out: Path, *, size: int = 24, train: int = TRAIN, val: int = VAL, seed: int = 0) -> dict[str, int]:
    """Writes ``{train,val}/digit<d>/<number>.png``, grey RGB images of ``size`` pixels; returns each split's count."""
    splits = _splits(train, val, seed)
    for split, digits in splits.items():
        for name in IMAGENET_CLASSES:
            (out / split / name).mkdir(parents=True)
        for intensity, label, place in zip(*digits, strict=True):
            image = _to_image(_enlarge(intensity, size)).convert("RGB")
            image.save(out / split / IMAGENET_CLASSES[label] / f"{place:04d}.png")
    return {split: len(digits.labels) for split, digits in splits.items()}


class Instance(NamedTuple):
    """One digit of a scene: its class, (H, W) bool pixels that show it, (H, W) opacity before anything covers it."""

    label: int
    mask: np.ndarray
    opacity: np.ndarray


class Scene(NamedTuple):
    """(H, W, 3) colours in [0, 1], and the digits seen in it."""

    image: np.ndarray
    instances: list[Instance]


def _scenes(digits: Digits, number: int, size: int, rng: np.random.Generator) -> Iterator[Scene]:
    """Yields scenes of up to four digits, a third to a half as high as the scene; a later one may cover an earlier."""
    for _ in range(number):
        ground = _enlarge(digits.images[rng.integers(len(digits.labels))], size)
        image = (0.05 + 0.2 * ground)[..., None] * rng.uniform(0.5, 1, size=3)
        instances: list[Instance] = []
        for _ in range(rng.integers(2, 5)):
            chosen = rng.integers(len(digits.labels))
            side = int(rng.integers(size // 3, size // 2 + 1))
            top, left = rng.integers(0, size - side + 1, size=2)
            opacity = np.zeros((size, size), dtype="float32")
            opacity[top : top + side, left : left + side] = _enlarge(digits.images[chosen], side)
            colour = rng.uniform(0.55, 1, size=3)
            mask = opacity >= INK
            below = [i for i in instances if (i.mask & mask).sum() > 0.15 * min(i.mask.sum(), mask.sum())]
            if below:  # too little of one of the two would be left to see
                continue
            image = image + opacity[..., None] * (colour - image)
            instances = [i._replace(mask=i.mask & ~mask) for i in instances]
            instances.append(Instance(int(digits.labels[chosen]), mask, opacity))
        yield Scene(image.clip(0, 1), instances)


def make_ade20k(out: Path, *, size: int = 64, train: int = 80, val: int = 20, seed: int = 0) -> dict[str, int]:
    """Writes square scenes in ADE20K's layout, and returns their number by folder.

    They are ``images/*/*.jpg``, and ``annotations/*/*.png``: 0 where ignored, then `ADE20K_CLASSES` from 1 on.
    """
    counts = {}
    for split, (digits, number) in _scene_splits(train, val, seed).items():
        folder = {"train": "training", "val": "validation"}[split]
        for kind in ("images", "annotations"):
            (out / kind / folder).mkdir(parents=True)
        scenes = _scenes(digits, number, size, np.random.default_rng([seed, 1, split == "val"]))
        for place, scene in enumerate(scenes, 1):
            name = f"ADE_{split}_{place:08d}"
            _to_image(scene.image).save(out / "images" / folder / f"{name}.jpg", **JPEG)
            Image.fromarray(_annotate(scene)).save(out / "annotations" / folder / f"{name}.png")
        counts[folder] = number
    return counts


def _annotate(scene: Scene) -> np.ndarray:
    """Returns a scene's (H, W) uint8 annotation: 0 ignored, digit + 1, ground."""
    ink = np.max([i.opacity for i in scene.instances], axis=0)
    labels = np.where(ink < RIM, ADE20K_CLASSES.index("ground") + 1, 0).astype("uint8")
    for instance in scene.instances:
        labels[instance.mask] = instance.label + 1
    return labels


def make_coco(out: Path, *, size: int = 64, train: int = 80, val: int = 20, seed: int = 0) -> dict[str, int]:
    """Writes square scenes in COCO's layout, and returns their number by folder.

    ``annotations/instances_*2017.json`` has boxes, polygons and areas; category ids 1..10 are digits 0..9.
    """
    (out / "annotations").mkdir(parents=True)
    counts = {}
    for split, (digits, number) in _scene_splits(train, val, seed).items():
        folder = out / f"{split}2017"
        folder.mkdir()
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        scenes = _scenes(digits, number, size, np.random.default_rng([seed, 2, split == "val"]))
        for image_id, scene in enumerate(scenes, 1):
            name = f"{image_id:012d}.jpg"
            _to_image(scene.image).save(folder / name, **JPEG)
            images.append({"id": image_id, "file_name": name, "height": size, "width": size, "license": 1})
            for instance in scene.instances:
                annotations.append(_annotation(instance, image_id, len(annotations) + 1))
        content = {
            "info": {"description": "digits of scikit-learn's load_digits in scenes", "version": "1.0"},
            "licenses": [{"id": 1, "name": "CC BY 4.0", "url": "https://creativecommons.org/licenses/by/4.0/"}],
            "categories": [{"id": d + 1, "name": n, "supercategory": "digit"} for d, n in enumerate(COCO_CLASSES)],
            "images": images,
            "annotations": annotations,
        }
        (out / "annotations" / f"instances_{split}2017.json").write_text(
            json.dumps(content, sort_keys=True), encoding="utf-8"
        )
        counts[folder.name] = number
    return counts


def _annotation(instance: Instance, image_id: int, annotation_id: int) -> dict[str, Any]:
    from pycocotools import mask as rle

    polygons = _polygons(instance.mask)
    encoded = rle.merge(rle.frPyObjects([polygon.ravel().tolist() for polygon in polygons], *instance.mask.shape))
    low, high = np.min([p.min(0) for p in polygons], 0), np.max([p.max(0) for p in polygons], 0)
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": instance.label + 1,
        "bbox": [*low.tolist(), *(high - low).tolist()],
        "area": float(rle.area(encoded)),
        "iscrowd": 0,
        "segmentation": [polygon.ravel().tolist() for polygon in polygons],
    }


def _polygons(mask: np.ndarray) -> list[np.ndarray]:
    """Outlines a mask's parts: (n, 2) each, as (x, y); pixel i spans i to i + 1. Holes are filled, as in COCO."""
    from contourpy import FillType, contour_generator

    # Padded, so that a part at the border closes; the centre of padded pixel i is at i - 0.5.
    contours: Any = contour_generator(z=np.pad(mask.astype(float), 1), fill_type=FillType.OuterOffset)
    points, offsets = contours.filled(0.5, 2.0)
    return [part[: offset[1] - 1] - 0.5 for part, offset in zip(points, offsets, strict=True)]


def _scene_splits(train: int, val: int, seed: int) -> dict[str, tuple[Digits, int]]:
    """Returns for each split the digits its scenes are made of (no digit is in both) and the number of scenes."""
    splits = _splits(TRAIN, VAL, seed)
    return {"train": (splits["train"], train), "val": (splits["val"], val)}
