"""The operator bridge against torchvision, against a naive reference, and where it ends."""

import importlib.util
import sys

import pytest
import torch
import torchvision

from mto.openmmlab import ops

BRIDGED = ops.install()  # False where mmcv was compiled: then its own operators must give the same numbers


def boxes_and_scores(n: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    corner = 40 * torch.rand(n, 2, generator=generator)
    size = 4 + 20 * torch.rand(n, 2, generator=generator)
    return torch.cat([corner, corner + size], dim=1), torch.rand(n, generator=generator)


def greedy_nms(boxes: torch.Tensor, scores: torch.Tensor, threshold: float, offset: int) -> list[int]:
    kept: list[int] = []
    for i in scores.argsort(descending=True).tolist():
        overlaps = []
        for j in kept:
            low, high = torch.maximum(boxes[i, :2], boxes[j, :2]), torch.minimum(boxes[i, 2:], boxes[j, 2:])
            inter = (high - low + offset).clamp(min=0).prod()
            areas = [(b[2:] - b[:2] + offset).prod() for b in (boxes[i], boxes[j])]
            overlaps.append(float(inter / (sum(areas) - inter)))
        if all(overlap <= threshold for overlap in overlaps):
            kept.append(i)
    return kept


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("threshold", [0.3, 0.6])
def test_nms_keeps_what_a_greedy_reference_keeps(offset, threshold):
    from mmcv.ops import nms

    boxes, scores = boxes_and_scores()
    dets, kept = nms(boxes, scores, threshold, offset=offset)
    assert kept.tolist() == greedy_nms(boxes, scores, threshold, offset)
    assert 0 < len(kept) < len(boxes)
    assert torch.equal(dets, torch.cat([boxes, scores[:, None]], dim=1)[kept])


def naive_roi_align(image: torch.Tensor, roi: torch.Tensor, size: int, scale: float, samples: int) -> torch.Tensor:
    """Mean of bilinear samples in each bin, pixel centres at half integers (aligned); (C, H, W), the roi inside."""
    x1, y1, x2, y2 = (roi * scale - 0.5).tolist()
    out = torch.zeros(image.shape[0], size, size)
    for row in range(size):
        for column in range(size):
            for i in range(samples):
                for j in range(samples):
                    y = y1 + (y2 - y1) * (row + (i + 0.5) / samples) / size
                    x = x1 + (x2 - x1) * (column + (j + 0.5) / samples) / size
                    top, left = int(y), int(x)
                    dy, dx = y - top, x - left
                    value = image[:, top, left] * (1 - dy) * (1 - dx) + image[:, top, left + 1] * (1 - dy) * dx
                    value = value + image[:, top + 1, left] * dy * (1 - dx) + image[:, top + 1, left + 1] * dy * dx
                    out[:, row, column] += value / samples**2
    return out


def test_roi_align_equals_a_naive_reference():
    from mmcv.ops import roi_align

    images = torch.randn(2, 3, 12, 16, generator=torch.Generator().manual_seed(1))
    rois = torch.tensor([[0, 4.0, 4.0, 20.0, 18.0], [1, 6.5, 3.2, 26.0, 20.9]])
    got = roi_align(images, rois, (3, 3), 0.5, 2, "avg", True)
    for k, roi in enumerate(rois):
        torch.testing.assert_close(got[k], naive_roi_align(images[int(roi[0])], roi[1:], 3, 0.5, 2))


@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize("aligned", [True, False])
def test_roi_align_and_its_gradient_equal_torchvision(sampling_ratio, aligned):
    from mmcv.ops import roi_align

    boxes, _ = boxes_and_scores(9)
    rois = torch.cat([torch.arange(9)[:, None] % 2, boxes], dim=1)
    ours = torch.randn(2, 4, 20, 18, generator=torch.Generator().manual_seed(2)).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    got = roi_align(ours, rois, (5, 4), 0.25, sampling_ratio, "avg", aligned)
    want = torchvision.ops.roi_align(theirs, rois, (5, 4), 0.25, sampling_ratio, aligned)
    weights = torch.randn(want.shape, generator=torch.Generator().manual_seed(3))
    (got * weights).sum().backward()
    (want * weights).sum().backward()
    assert torch.equal(got, want)
    assert torch.equal(ours.grad, theirs.grad)


def test_half_precision_is_computed_in_float32():
    """As under autocast: scores or features of 16 bits beside boxes of 32."""
    from mmcv.ops import nms, roi_align

    boxes, scores = boxes_and_scores()
    scores = scores.bfloat16()
    assert torch.equal(nms(boxes, scores.float(), 0.5)[1], nms(boxes, scores, 0.5)[1])
    images = torch.randn(1, 2, 20, 20, generator=torch.Generator().manual_seed(4)).bfloat16()
    rois = torch.cat([torch.zeros(3, 1), boxes[:3]], dim=1).bfloat16()
    got = roi_align(images, rois, (2, 2), 0.25, 2, "avg", True)
    assert torch.equal(got, roi_align(images.float(), rois.float(), (2, 2), 0.25, 2, "avg", True).bfloat16())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradients_in_half_precision_are_those_of_float32_rounded(dtype):
    """torchvision has no bfloat16: the gradient comes back in the features' type, computed in float32."""
    from mmcv.ops import roi_align

    boxes, _ = boxes_and_scores(9)
    rois = torch.cat([torch.arange(9)[:, None] % 2, boxes], dim=1)
    generator = torch.Generator().manual_seed(5)
    half = torch.randn(2, 4, 20, 18, generator=generator).to(dtype).requires_grad_()
    single = half.detach().float().requires_grad_()
    weights = torch.randn(9, 4, 5, 4, generator=generator).to(dtype)
    (roi_align(half, rois.to(dtype), (5, 4), 0.25, 2, "avg", True) * weights).sum().backward()
    (roi_align(single, rois.to(dtype).float(), (5, 4), 0.25, 2, "avg", True) * weights.float()).sum().backward()
    assert half.grad.dtype == dtype
    assert single.grad.abs().max() > 0.1
    assert torch.equal(half.grad, single.grad.to(dtype))


@pytest.mark.skipif(not BRIDGED, reason="mmcv is compiled here")
def test_an_operator_that_is_not_bridged_says_what_to_do():
    from mmcv.ops import roi_align, soft_nms

    boxes, scores = boxes_and_scores(5)
    with pytest.raises(NotImplementedError, match=r"'softnms' is not bridged.*compile mmcv"):
        soft_nms(boxes, scores)
    with pytest.raises(NotImplementedError, match="pool_mode='avg'"):
        roi_align(torch.zeros(1, 1, 4, 4), torch.zeros(1, 5), (2, 2), 1.0, 0, "max", True)


def test_a_compiled_mmcv_is_left_alone(monkeypatch):
    compiled = importlib.util.module_from_spec(importlib.util.spec_from_loader("mmcv._ext", loader=None))
    monkeypatch.setitem(sys.modules, "mmcv._ext", compiled)
    assert ops.install() is False
    assert sys.modules["mmcv._ext"] is compiled
    monkeypatch.delitem(sys.modules, "mmcv._ext")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: compiled.__spec__)
    assert ops.install() is False
    assert "mmcv._ext" not in sys.modules
