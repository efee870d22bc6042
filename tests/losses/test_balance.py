"""Shares of the method's gradient turned into weights, against gradients taken apart."""

import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mto.losses.balance import Balance
from mto.losses.mto import TERMS, MaskedTokenOptimization
from mto.methods import MAE, BootMAE, ConMIM, SimMIM

MASKED, SHARE = 12, 0.15
SIZE = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0}


def networks(width: int = 16):
    """The four methods, tiny."""
    torch.manual_seed(0)
    size = SIZE | {"embed_dim": width}
    return {
        "simmim": SimMIM(**size, drop_path=0.0),
        "mae": MAE(**size, decoder_embed_dim=width, decoder_depth=2, decoder_num_heads=2),
        "bootmae": BootMAE(**size, decoder_embed_dim=width, decoder_depth=1),
        "conmim": ConMIM(**size, projector_dim=16, output_dim=8),
    }


def losses(network, mto, copies: int = 1):
    """A method's loss, MTO's terms, and X^0 of each stream, of four images, each given `copies` times."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(4, 3, 16, 16, generator=generator).repeat(copies, 1, 1, 1)
    order = torch.stack([torch.randperm(16, generator=generator) for _ in range(4)])
    mask = (order < MASKED).repeat(copies, 1)
    targets = network.teacher_targets(network.make_teacher(), images, images.flip(-1))
    out = network(images, mask, num_masked=MASKED, return_hidden=True, **targets)
    terms = mto.streams(out["hidden"], mask, num_masked=MASKED, measure=False)
    return (
        out["loss"],
        {name: terms[f"loss_{name}"] for name in mto.settings["terms"]},
        [stream.tokens[0] for stream in out["hidden"].values()],
    )


def norms(loss, tensors):
    """Each image's norm of the gradient, image by image and in float64."""
    found = torch.autograd.grad(loss, tensors, retain_graph=True, allow_unused=True)
    there = [g.double() for g in found if g is not None]
    return [math.sqrt(sum(float(g[image].square().sum()) for g in there)) for image in range(len(tensors[0]))]


def balanced(**balance):
    weights = {f"{term}_weight": SHARE for term in TERMS}
    return MaskedTokenOptimization(**weights, balance=balance)


@pytest.mark.parametrize("width", [16, 64])
@pytest.mark.parametrize("method", ["simmim", "mae", "bootmae", "conmim"])
def test_the_weighted_gradient_of_a_typical_image_is_the_share_asked_for(method, width):
    mto, network = balanced(largest=1e9), networks(width)[method]
    loss, terms, embeddings = losses(network, mto)
    mto.balance.measure(loss, terms, embeddings)
    of_method = norms(loss, embeddings)
    for name, value in terms.items():
        shares = [
            part / whole for part, whole in zip(norms(mto.weight(name) * value, embeddings), of_method, strict=True)
        ]
        assert statistics.geometric_mean(shares) == pytest.approx(SHARE, rel=1e-4)


@settings(max_examples=20, deadline=None)
@given(
    scales=st.lists(st.floats(1e-3, 1e3), min_size=4, max_size=4),
    tokens=st.integers(1, 5),
    seed=st.integers(0, 1000),
)
def test_scaling_a_loss_changes_no_weighted_gradient(scales, tokens, seed):
    """What a loss is measured in cannot matter: the weight takes it out."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, tokens, 3, generator=generator, requires_grad=True)
    directions = torch.randn(4, *x.shape, generator=generator)
    plain, scaled = (Balance(TERMS, largest=1e12) for _ in range(2))  # beyond what the scales ask for
    for balance, by in ((plain, [1.0] * 4), (scaled, scales)):
        method, *terms = ((scale * x * d).sum() for scale, d in zip(by, directions, strict=True))
        balance.measure(method, dict(zip(TERMS, terms, strict=True)), [x])
    for name, scale in zip(TERMS, scales[1:], strict=True):
        torch.testing.assert_close(scaled.factor(name), plain.factor(name) * scales[0] / scale, rtol=1e-4, atol=0)


def test_no_image_asks_for_more_than_the_largest_factor_or_less_than_its_inverse():
    scale = torch.tensor([1e-9, 1.0, 1.0, 1e9]).view(4, 1, 1)
    for images, expected in ((slice(0, 2), 10.0), (slice(2, 4), 0.1), (slice(0, 4), 1.0)):
        x, balance = torch.ones(len(scale[images]), 1, 1, requires_grad=True), Balance(["e"], largest=100.0)
        balance.measure(x.sum(), {"e": (scale[images] * x).sum()}, [x])
        assert balance.factor("e").item() == pytest.approx(expected)


@pytest.mark.parametrize("method", ["simmim", "mae"])
def test_the_size_of_the_batch_does_not_enter(method):
    network, factors = networks()[method], []
    for copies in (1, 3):
        mto = balanced()
        mto.balance.measure(*losses(network, mto, copies))
        factors.append(torch.stack([mto.balance.factor(name) for name in TERMS]))
    torch.testing.assert_close(factors[1], factors[0], rtol=1e-4, atol=0)


def test_logarithms_are_averaged_over_time_and_what_is_no_number_is_passed_over():
    x, balance = torch.ones(1, 1, 4, requires_grad=True), Balance(["e"], memory=0.25)
    assert balance.factor("e").isnan()  # no step may be taken on it
    factors = []
    for strength in (2.0, 4.0, math.inf, 6.0):
        balance.measure((strength * x).sum(), {"e": x.sum()}, [x])
        factors.append(balance.factor("e").item())
    second = 2**0.25 * 4**0.75
    assert factors == pytest.approx([2, second, second, second**0.25 * 6**0.75])


def test_one_image_decides_nothing():
    """A hundredfold gradient in one of eight images moves the factor by 100^(1/8), and a lost image by nothing."""
    scale = torch.ones(8, 1, 1)
    for last, expected in ((100.0, 100 ** (-1 / 8)), (math.nan, 1.0)):
        x, balance = torch.ones(8, 2, 4, requires_grad=True), Balance(["e"])
        scale[7] = last
        balance.measure(x.sum(), {"e": (scale * x).sum()}, [x])
        assert balance.factor("e").item() == pytest.approx(expected)


def test_a_term_without_a_gradient_gets_the_largest_factor_and_stays_finite():
    x, balance = torch.ones(1, 1, 4, requires_grad=True), Balance(["e", "r"], largest=50.0)
    balance.measure(x.sum(), {"e": torch.zeros(()), "r": 1e-30 * x.sum()}, [x])
    assert [balance.factor(name).item() for name in ("e", "r")] == pytest.approx([50.0, 50.0], rel=1e-6)


def test_the_state_has_the_weights_and_a_module_without_shares_has_no_state():
    assert not MaskedTokenOptimization().state_dict()
    assert "balance" not in MaskedTokenOptimization().settings
    first, second = balanced(memory=0.75), balanced(memory=0.75)
    network = networks()["mae"]
    for _ in range(2):
        first.balance.measure(*losses(network, first))
    second.load_state_dict(first.state_dict())
    assert all(torch.equal(first.weight(name), second.weight(name)) for name in TERMS)
    again = MaskedTokenOptimization(**first.settings)
    assert again.settings == first.settings
    assert again.balance.memory == 0.75


def test_when_it_is_due():
    balance = Balance(TERMS, interval=10, dense=3)
    assert [step for step in range(31) if balance.is_due(step)] == [0, 1, 2, 10, 20, 30]


@pytest.mark.parametrize("wrong", [{"interval": 0}, {"images": 0}, {"memory": 1.0}, {"largest": 0.0}, {"dense": -1}])
def test_wrong_settings_are_named(wrong):
    with pytest.raises(ValueError, match="balance: interval and images must be"):
        balanced(**wrong)


def test_nothing_waits_for_the_device(monkeypatch):
    """Tensors without values ("meta") refuse what makes a GPU's caller wait."""
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: torch.enable_grad())  # it knows no "meta"
    balance = Balance(TERMS).to("meta")
    x = torch.zeros(2, 3, 4, device="meta", requires_grad=True)
    balance.measure(x.sum(), {name: x.square().sum() for name in TERMS}, [x])
    (balance.factor("r") * x.sum()).backward()
