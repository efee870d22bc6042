"""What a network keeps alters no bit of what it computes, whatever it is made of and however it is run."""

import copy
import itertools
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import formula
from mto import MaskedTokenOptimization
from mto.methods import MAE, BootMAE, ConMIM, SimMIM
from mto.methods.encoder import build_classifier
from mto.methods.memory import spare
from mto.names import MEMORIES
from mto.training.mim import MaskedImageModel

SIZE = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 3, "num_heads": 2, "drop_path": 0.3}
DECODER = {"decoder_embed_dim": 16, "decoder_depth": 2, "decoder_num_heads": 2}
BUILD = {
    "simmim": lambda: SimMIM(**SIZE),
    "mae": lambda: MAE(**SIZE, **DECODER),
    "bootmae": lambda: BootMAE(**SIZE, **DECODER),
    "conmim": lambda: ConMIM(**SIZE, projector_dim=16, output_dim=8),
}
LEANER = [memory for memory in MEMORIES if memory != "fast"]


def model_of(name: str, memory: str) -> MaskedImageModel:
    torch.manual_seed(0)
    model = MaskedImageModel(BUILD[name](), MaskedTokenOptimization(), num_masked=12).train()
    spare(model, memory)
    return model


def inputs(name: str) -> list[torch.Tensor]:
    images = formula.images("images", 4, 16)
    mask = formula.mask_of(formula.mask_noise("mask", 4, 16), 12)
    return [images, mask, *([images.flip(0)] if name == "conmim" else [])]


def trained(name: str, memory: str, precision: torch.dtype) -> list[torch.Tensor]:
    """Two passes with all that is logged and compared: losses, gradients, buffers, and the next random numbers."""
    model, found = model_of(name, memory), []
    model.measure_gradients = True
    torch.manual_seed(1)
    for _ in range(2):
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            out = model(*inputs(name))
        out["loss"].backward()
        found += [value.detach() for value in out.values()]
    found += [p.grad for p in model.parameters() if p.grad is not None]
    return [*found, *model.buffers(), torch.rand(3)]


@pytest.mark.parametrize(("name", "precision"), itertools.product(BUILD, [torch.float32, torch.bfloat16]))
def test_every_method_has_the_same_bits(name, precision, monkeypatch):
    monkeypatch.setattr("mto.methods.memory.MANY", 1)  # so small a network has too few tokens for its weights
    fast = trained(name, "fast", precision)
    for memory in LEANER:
        spared = trained(name, memory, precision)
        assert len(spared) == len(fast)
        for a, b in zip(fast, spared, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


class Products(TorchDispatchMode):
    """Counts matrix products, and all operators."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        self.count["products"] += name in ("mm", "addmm", "bmm", "baddbmm", "convolution") or "attention" in name
        self.count["operators"] += 1
        return func(*args, **(kwargs or {}))


def counted(name: str, memory: str) -> Counter[str]:
    model = model_of(name, memory)
    with Products() as seen:
        model(*inputs(name))["loss"].backward()
    return seen.count


@pytest.mark.parametrize("name", BUILD)
def test_lean_repeats_no_matrix_product_and_least_repeats_blocks(name):
    fast, lean, least = (counted(name, memory) for memory in MEMORIES)
    assert lean["products"] == fast["products"] < least["products"]
    assert fast["operators"] < lean["operators"] < least["operators"]


@pytest.mark.parametrize("memory", LEANER)
@pytest.mark.parametrize("name", ["mae", "simmim"])
def test_fine_tuning_and_second_derivatives_have_the_same_bits(name, memory):
    found = []
    for option in ("fast", memory):
        torch.manual_seed(0)
        net = build_classifier(name, num_classes=5, **SIZE, init_values=0.1 if name == "simmim" else None).train()
        for block in net.blocks:
            block.attn.fused_attn = False  # which has no second derivative
        spare(net, option)
        torch.manual_seed(1)
        images = formula.images("images", 4, 16).requires_grad_()
        (slope,) = torch.autograd.grad(net(images).square().sum(), images, create_graph=True)
        slope.square().sum().backward()
        found.append([slope.detach(), images.grad, *(p.grad for p in net.parameters() if p.grad is not None)])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("memory", LEANER)
def test_it_can_be_taken_back_and_copies_are_their_own(memory):
    plain = model_of("conmim", "fast")
    types, names = [type(module) for module in plain.modules()], list(plain.state_dict())
    spare(plain, memory)
    spare(plain, memory)
    assert [type(module) for module in plain.modules()] != types
    assert list(plain.state_dict()) == names
    copied = copy.deepcopy(plain.method)
    with torch.no_grad():
        for parameter in plain.method.parameters():
            parameter.zero_()
        tokens, _ = copied.encode(inputs("conmim")[0], None)
        assert tokens.abs().sum() > 0
    spare(plain, "fast")
    assert [type(module) for module in plain.modules()] == types
