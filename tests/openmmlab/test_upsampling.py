"""Bilinear resizing with a deterministic gradient, and the prediction that never holds all logits at full size."""

import itertools
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mto.bench.measure import Operators
from mto.openmmlab.libraries import load_mmseg
from mto.openmmlab.upsampling import Bilinear, resize, weights

#: UPerNet's own (pooled maps, the pyramid's levels, the logits), an odd pair, smaller, the same.
SIZES = [((1, 1), (16, 16)), ((3, 6), (16, 16)), ((16, 16), (32, 32)), ((32, 32), (128, 128)), ((5, 7), (13, 8))]
SIZES += [((9, 12), (4, 5)), ((6, 6), (6, 6))]


def draw(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize(("source", "target"), SIZES)
def test_values_are_torchs_and_the_gradient_is_the_transpose(source, target):
    x, grad = draw(2, 3, *source, dtype=torch.float64).requires_grad_(), draw(2, 3, *target, dtype=torch.float64)
    want = F.interpolate(x, target, mode="bilinear", align_corners=False)
    got = Bilinear.apply(x, target)
    assert torch.equal(got, want)
    (expected,) = torch.autograd.grad(want, x, grad)
    (found,) = torch.autograd.grad(got, x, grad)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_the_gradient_of_bfloat16_is_summed_in_float32():
    """16 x 16 terms of one: bfloat16 would stop adding at 256 / 2."""
    x = torch.zeros(1, 1, 2, 2, dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        Bilinear.apply(x, (64, 64)).sum().backward()
    assert x.grad.dtype == torch.bfloat16
    assert (x.grad == 1024).all()


def test_weights_of_a_row_sum_to_one_at_each_target():
    for source, target in itertools.product((1, 2, 5, 16), (1, 3, 16, 37)):
        found = weights(source, target, torch.float64, torch.device("cpu"))
        assert found.shape == (source, target)
        torch.testing.assert_close(found.sum(0), torch.ones(target, dtype=torch.float64))


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.filterwarnings("ignore:.*CUDA is not available")
def test_on_a_deterministic_gpu_it_is_one_kernel(deterministic):
    """On a GPU that is not there. torch's own way gathers four neighbours, which its gradient puts back one by one."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode() as mode:
        x = mode.from_tensor(draw(2, 3, 8, 8)).to("cuda").requires_grad_()
        with Operators() as ours:
            out = resize(x, (32, 32), mode="bilinear", align_corners=False)
        with Operators() as torchs:
            F.interpolate(x, (32, 32), mode="bilinear", align_corners=False)
    assert out.shape == (2, 3, 32, 32)
    assert [name for name in ours.counts if name.startswith("aten")] == ["aten::upsample_bilinear2d"]
    assert torchs.counts["aten::_unsafe_index"] == 4


def test_the_gradient_is_two_products():
    out = Bilinear.apply(draw(2, 3, 8, 8).requires_grad_(), (32, 32))
    with Operators() as counted:
        out.backward(torch.ones_like(out))
    assert counted.counts["aten::mm"] == counted.counts["aten::bmm"] == 1
    assert not any("index" in name for name in counted.counts)


def test_all_of_mmsegs_modules_resize_by_it():
    """Whoever imports mmseg's function by name must be known to `install`."""
    load_mmseg()
    from mmseg.models import FCNHead, UPerHead
    from mmseg.models.utils import wrappers

    from mto.openmmlab.upernet import Segmentor

    used = {parent.__module__ for cls in (FCNHead, UPerHead, Segmentor) for parent in cls.__mro__}
    used.add("mmseg.models.decode_heads.psp_head")
    used.discard("mto.openmmlab.upernet")
    still = [name for name in used if getattr(sys.modules[name], "resize", None) is wrappers.resize]
    assert still == []
    for options in ({"size": (6, 9), "mode": "bilinear", "align_corners": False}, {"scale_factor": 2.0}):
        assert torch.equal(resize(draw(1, 2, 3, 4), **options), wrappers.resize(draw(1, 2, 3, 4), **options))


@pytest.mark.parametrize("classes", [1, 2, 16, 17, 150])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_classes_are_those_of_all_logits_at_once(classes, dtype):
    """bfloat16 has many equal logits: the first of equals is taken, as by argmax."""
    load_mmseg()
    from mto.openmmlab.upernet import largest

    logits = draw(classes, 12, 9).to(dtype)
    want = F.interpolate(logits[None], (40, 31), mode="bilinear", align_corners=False)[0].argmax(0)
    assert torch.equal(largest(logits, (40, 31)), want)


def test_a_prediction_is_mmsegs():
    load_mmseg()
    from mmseg.models import EncoderDecoder
    from mmseg.structures import SegDataSample

    from mto.openmmlab.upernet import Segmentor

    logits = draw(2, 20, 12, 9)

    def samples() -> list[SegDataSample]:
        return [SegDataSample(metainfo={"ori_shape": shape}) for shape in ((40, 31), (12, 9))]

    stand_in = type("StandIn", (), {"align_corners": False})()
    want = EncoderDecoder.postprocess_result(stand_in, logits, samples())
    got = Segmentor.postprocess_result(stand_in, logits, samples())
    for ours, theirs in zip(got, want, strict=True):
        assert torch.equal(ours.pred_sem_seg.data, theirs.pred_sem_seg.data)
        assert "seg_logits" not in ours
