"""Floating-point operations and parameters of a job's own network, counted on tensors that have a shape and no values.

The modules are the tasks' (`mto.bench.workloads`), at their true size; torch's counter sees their matrix products,
convolutions and attention. Attention is counted as plain products, whatever kernel a device takes for it.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from mto.bench.work import Work
from mto.bench.workloads import batch_of, model_of
from mto.config.job import Ade20kJob, CocoJob, Job, KnnJob

#: Operators that hand a tensor on, or only take room for one.
NOTHING_MOVED = {
    f"aten::{name}"
    for name in ("detach", "lift_fresh", "_unsafe_view", "empty", "empty_like", "empty_strided", "new_empty")
}
IMAGES = 2  # a batch norm and mixup want more than one


def count(job: Job) -> Work:
    """Counts what a job does with an image.

    Mask R-CNN's heads have as many regions as the sampler may give (a quarter of them with a mask) in training, and as
    many proposals and detections as it may keep in a test. UPerNet is evaluated on the windows of a 4:3 image.
    """
    with torch.device("meta"):
        model: Any = model_of(job)
    model = model.to("meta")  # what was made of NumPy's arrays
    passes: Any = {"ade20k": _upernet, "coco": _maskrcnn, "knn": _compared}.get(job.task, _own)
    with Moved() as moved:
        train, evaluate = passes(job, model)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    every = sum(value.numel() for value in model.state_dict().values())
    encoder = model.method.encoder_state(model.teacher) if job.task == "pretrain" else {}
    sizes = trained, every - trained, sum(value.numel() for value in encoder.values())
    return Work(train, evaluate, *sizes, moved.bytes / IMAGES if job.task == "pretrain" else 0.0)


class Moved(TorchDispatchMode):
    """Sums the bytes that operators other than products read and write, each tensor once; views move nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not (func.is_view or func._overloadpacket in flop_registry or func._schema.name in NOTHING_MOVED):
            leaves = tree_leaves((args, kwargs, out))
            tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
            self.bytes += sum(min(tensor.nbytes, tensor.untyped_storage().nbytes()) for tensor in tensors)
        return out


def flops(call: Any, *, backward: bool) -> int:
    """Counts the floating-point operations of a call; with ``backward`` also those of its outputs' gradients."""
    with (
        patch.object(torch, "autocast", lambda *args, **kwargs: nullcontext()),  # it knows no device without values
        sdpa_kernel(SDPBackend.MATH),
        torch.set_grad_enabled(backward),
        FlopCounterMode(display=False) as counter,
    ):
        outputs = call()
        if backward:
            torch.stack([output.sum() for output in outputs]).sum().backward()
    return counter.get_total_flops()


def _own(job: Job, model: Any) -> tuple[float, float]:
    """Counts the operations of training on and evaluating an image, where the model takes its batch as it is."""
    batch = model.data_preprocessor(batch_of(job, IMAGES))  # moves it to the model's "meta"
    if hasattr(model, "mto"):
        model.mto._validate = False  # a look at a mask's values, which here has none
    if job.task == "heterogeneity":
        images, mask = batch["image"], batch["mask"]
        return 0.0, flops(lambda: model.eval()(images, mask, images, mode="tensor"), backward=False) / IMAGES
    train = flops(lambda: [model.train()(**batch, mode="loss")["loss"]], backward=True) / IMAGES
    if job.task == "pretrain":
        return train, 0.0
    return train, flops(lambda: model.eval()(**batch, mode="predict"), backward=False) / IMAGES


def _compared(job: KnnJob, model: Any) -> tuple[float, float]:
    side = job.data.eval.crop
    images = torch.empty(IMAGES, 3, side, side, device="meta")
    return 0.0, flops(lambda: model.eval().forward_features(images), backward=False) / IMAGES


def _upernet(job: Ade20kJob, model: Any) -> tuple[float, float]:
    side = job.crop_size
    images = torch.empty(IMAGES, 3, side, side, device="meta")

    def both() -> list[Tensor]:
        features = model.extract_feat(images)
        return [model.decode_head(features), model.auxiliary_head(features)]

    def main() -> Tensor:
        return model.decode_head(model.extract_feat(images))

    train = flops(both, backward=True) / IMAGES
    return train, windows(job) * flops(_evaluated(model, main), backward=False) / IMAGES


def windows(job: Ade20kJob) -> int:
    """Counts the sliding windows of a 4:3 image, resized as a test image is (mmsegmentation's `slide_inference`)."""
    long, short = max(job.resize), min(job.resize)
    shorter = min(short, round(long * 3 / 4))
    total = 1
    for side in (shorter, round(shorter * 4 / 3)):
        total *= -(-max(side - job.crop_size, 0) // job.slide_stride) + 1
    return total


def _maskrcnn(job: CocoJob, model: Any) -> tuple[float, float]:
    side, detector = job.image_size, job.detector
    images = torch.empty(IMAGES, 3, side, side, device="meta")

    def outputs(boxes: int, masks: int) -> list[Tensor]:
        features = model.extract_feat(images)
        found = [level for part in model.rpn_head(features) for level in part]
        heads = ((model.roi_head.bbox_head, boxes, 7), (model.roi_head.mask_head, masks, 14))
        for head, regions, cells in heads:
            shape = (IMAGES * regions, detector.channels, cells, cells)
            out = head(torch.empty(shape, device="meta", requires_grad=torch.is_grad_enabled()))
            found += out if isinstance(out, tuple) else [out]
        return found

    samples, test = detector.roi_samples, model.test_cfg["rcnn"]["max_per_img"]
    train = flops(lambda: outputs(samples, samples // 4), backward=True) / IMAGES
    tested = _evaluated(model, lambda: outputs(detector.proposals_test, test))
    return train, flops(tested, backward=False) / IMAGES


def _evaluated(model: nn.Module, call: Any) -> Any:
    model.eval()
    return call
