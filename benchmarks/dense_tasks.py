"""What the dense tasks' parts cost at their true sizes, before and after: ratios of time, and the peak of memory.

    OMP_NUM_THREADS=1 python benchmarks/dense_tasks.py resizing prediction attention evaluation

Numbers are in docs/speed.md.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch._decomp.decompositions import _upsample_linear_vec
from torch.nn.attention import SDPBackend, sdpa_kernel
from turns import turns

from mto.methods.encoder import build_encoder
from mto.openmmlab.backbone import Block
from mto.openmmlab.libraries import load_mmdet, load_mmseg, quiet
from mto.openmmlab.rel_pos import RelativePositionBias
from mto.openmmlab.upsampling import Bilinear

Ways = dict[str, Callable[[], object]]


def slow(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """What torch resizes by on a GPU where kernels must be deterministic."""
    return _upsample_linear_vec(x, size, False, None)


def resizing() -> Ways:
    """UPerNet's logits of a crop, 128 -> 512, forward and backward."""
    x, grad = torch.randn(1, 150, 128, 128, requires_grad=True), torch.randn(1, 150, 512, 512)
    native = partial(F.interpolate, size=(512, 512), mode="bilinear", align_corners=False)
    return {
        "decomposed (before)": lambda: slow(x, (512, 512)).backward(grad),
        "ours": lambda: Bilinear.apply(x, (512, 512)).backward(grad),
        "torch's, not deterministic on a GPU": lambda: native(x).backward(grad),
    }


def prediction() -> Ways:
    """From the averaged logits of an ADE20K image, 512 x 683, to the classes of its pixels, 1024 x 1366."""
    load_mmseg()
    from mto.openmmlab.upernet import largest

    logits, size = torch.randn(150, 512, 683), (1024, 1366)
    return {
        "decomposed (before)": lambda: slow(logits[None], size)[0].argmax(0),
        "all logits at once": lambda: F.interpolate(logits[None], size, mode="bilinear")[0].argmax(0),
        "ours": lambda: largest(logits, size),
    }


def attention(train: bool, images: int) -> Ways:
    """A global block of Mask R-CNN's ViT-B: 64 x 64 tokens of an image of 1024, twelve heads, a bias of positions."""
    vit = build_encoder("conmim", img_size=224, depth=1, init_values=0.1)
    block = Block(vit.blocks[0], None, None).train(train)
    table = RelativePositionBias((64, 64), 12, class_token=False)
    torch.nn.init.normal_(table.table)
    x = torch.randn(images, 4096, 768)

    def run(dimensions: int, fused: bool) -> None:
        block.attn.fused_attn = fused
        with torch.set_grad_enabled(train):
            bias = table((64, 64))
            out = block(x, (64, 64), bias if dimensions == 3 else bias[None], None)
            if train:
                out.sum().backward()

    if train:
        return {"torch's function": lambda: run(4, True), "timm's products": lambda: run(4, False)}

    def in_one_kernel() -> None:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):  # or an error
            run(4, True)

    return {"three dimensions (before)": lambda: run(3, True), "four (ours)": in_one_kernel}


def evaluation() -> Ways:
    """COCO's AP of 80 images, 100 detections each, 80 classes: all on one rank, or the longest of eight shares."""
    load_mmdet()
    from mmdet.evaluation import CocoMetric

    from mto.openmmlab.coco_metric import SharedCocoMetric

    file, results = _detections(80, 100, 80)
    classes = {"classes": tuple(str(n) for n in range(80))}
    with quiet():
        metrics = [CocoMetric(ann_file=file, metric=["bbox", "segm"]), SharedCocoMetric(Path(file))]
    for metric in metrics:
        metric.dataset_meta = classes

    def before() -> None:
        with quiet():
            metrics[0].compute_metrics(results)

    def share(rank: int, ranks: int) -> dict:
        metrics[1].results = results[rank::ranks]
        with quiet():
            return metrics[1].share()

    shares = [share(rank, 8) for rank in range(8)]

    def join() -> None:
        with quiet():
            metrics[1].join(shares)

    return {
        "mmdet's on one rank (before)": before,
        "one of eight shares": lambda: share(0, 8),
        "joining them, on rank 0": join,
    }


def _detections(images: int, each: int, classes: int) -> tuple[str, list]:
    from pycocotools import mask as rle

    random = np.random.default_rng(0)

    def boxes(number: int) -> np.ndarray:
        corner = random.uniform(0, 400, (number, 2))
        return np.concatenate([corner, corner + random.uniform(8, 200, (number, 2))], axis=1).astype(np.float32)

    def masks(boxes: np.ndarray) -> list[dict]:
        codes = rle.frPyObjects([[a, b, c, b, c, d, a, d] for a, b, c, d in boxes.astype(float).tolist()], 640, 640)
        return [{"size": code["size"], "counts": code["counts"].decode()} for code in codes]

    annotations, results = [], []
    for image in range(1, images + 1):
        truth, labels = boxes(7), random.integers(0, classes, 7)
        for (a, b, c, d), label, mask in zip(truth.tolist(), labels.tolist(), masks(truth), strict=True):
            annotation = {"id": len(annotations) + 1, "image_id": image, "category_id": label + 1, "iscrowd": 0}
            annotations.append(
                annotation | {"bbox": [a, b, c - a, d - b], "area": (c - a) * (d - b), "segmentation": mask}
            )
        which = random.integers(0, 7, each)
        found = truth[which] + random.normal(0, 6, (each, 4)).astype(np.float32).cumsum(axis=1) * [1, 1, 0.5, 0.5]
        found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 2)
        wrong = random.random(each) < 0.5
        found_labels = np.where(wrong, random.integers(0, classes, each), labels[which])
        result = {"img_id": image, "bboxes": found.astype(np.float32), "scores": random.random(each).astype(np.float32)}
        results.append(({"img_id": image}, result | {"labels": found_labels, "masks": masks(found.clip(0, 639))}))
    content = {
        "images": [{"id": n + 1, "width": 640, "height": 640, "file_name": ""} for n in range(images)],
        "categories": [{"id": n + 1, "name": str(n)} for n in range(classes)],
        "annotations": annotations,
    }
    path = Path(tempfile.mkdtemp()) / "instances.json"
    path.write_text(json.dumps(content))
    return str(path), results


PARTS: dict[str, Callable[[], Ways]] = {
    "resizing": resizing,
    "prediction": prediction,
    "attention": partial(attention, False, 1),
    "attention-training": partial(attention, True, 1),
    "evaluation": evaluation,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", nargs="+", choices=PARTS)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    for part in arguments.part:
        print(part, flush=True)
        turns(PARTS[part](), arguments.rounds)


if __name__ == "__main__":
    main()
