"""Why raw affinities let the masked tokens collapse: the statements of docs/mto-collapse.md, checked numerically."""

import pytest
import torch

from mto.losses.mto import MaskedTokenOptimization, heterogeneity
from mto.methods import MAE, SimMIM

#: The equations' own reading.
RAW = {"affinity": "dot", "temperature": 1.0}
IMAGES, TOKENS, MASKED, WIDTH = 3, 20, 12, 16
MASK = (torch.arange(TOKENS) < MASKED).expand(IMAGES, -1)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def states(generator, spread: float = 0.0, images: int = IMAGES):
    """Token states whose masked tokens are one vector an image, plus `spread` times noise."""
    x = torch.randn(images, TOKENS, WIDTH, generator=generator, dtype=torch.float64)
    x[:, :MASKED] = 0.3 * x[:, :1] + spread * torch.randn(images, MASKED, WIDTH, generator=generator).double()
    return x.requires_grad_()


def gradient(value, x):
    return torch.autograd.grad(value, x)[0]


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_gradient_is_the_visible_covariance_times_the_token(generator, scale):
    """dH/dx = -s² Cov_a(y) x / M, for each masked row: not only identical ones."""
    x = states(generator, spread=0.5)
    measured = gradient(heterogeneity(x, MASK, affinity="dot", temperature=1 / scale).sum(), x)[:, :MASKED]
    rows, visible = x.detach()[:, :MASKED], x.detach()[:, MASKED:]
    a = (scale * rows @ visible.mT).softmax(-1)
    centred = visible[:, None] - (a @ visible)[:, :, None]  # (B, M, V, D)
    covariance = torch.einsum("bmv,bmvd,bmve->bmde", a, centred, centred)
    expected = -(scale**2) * torch.einsum("bmde,bme->bmd", covariance, rows) / MASKED
    torch.testing.assert_close(measured, expected, rtol=1e-10, atol=1e-12)


def test_identical_masked_tokens_are_pushed_as_one_towards_one_visible_token(generator):
    """L_r's gradient is the same vector on each; a step along it makes them longer and their softmax sharper."""
    layers = [torch.zeros(IMAGES, TOKENS, WIDTH, dtype=torch.float64), states(generator)]
    loss = MaskedTokenOptimization(terms=["r"], **RAW)(layers, MASK)["loss"]
    x, push = layers[1], -gradient(loss, layers[1])
    masked = push[:, :MASKED]
    assert masked.norm(dim=-1).min() > 1e-6
    torch.testing.assert_close(masked, masked[:, :1].expand_as(masked))

    def sharpness(x):
        return (x[:, :MASKED] @ x.detach()[:, MASKED:].mT).softmax(-1).amax(-1)

    moved = x.detach().clone()
    moved[:, :MASKED] += 0.5 * masked / masked.norm(dim=-1, keepdim=True)
    assert (moved[:, :MASKED].norm(dim=-1) > x[:, :MASKED].norm(dim=-1)).all()
    assert (sharpness(moved) > sharpness(x.detach())).all()


def test_flow_on_raw_dots_ends_saturated_on_one_token_and_cannot_return(generator):
    """Nearly identical rows end on the same visible token (an image between two basins splits); no gradient is left."""
    images = 50
    x, mask = states(generator, 0.01, images), MASK[:1].expand(images, -1)
    start = gradient(heterogeneity(x, mask, **RAW).sum(), x)[:, :MASKED].norm()
    visible, rows = x.detach()[:, MASKED:], x.detach()[:, :MASKED].clone()
    for _ in range(400):
        rows.requires_grad_()
        h = heterogeneity(torch.cat([rows, visible], 1), mask, **RAW)
        (push,) = torch.autograd.grad(h.sum(), rows)
        rows = (rows - 5.0 * push).detach()
    chosen = (rows @ visible.mT).argmax(-1)
    modal_share = (chosen == chosen.mode(1, keepdim=True).values).double().mean()
    assert modal_share > 0.95
    assert h.mean() < 0.01
    assert push.norm() < 0.01 * start
    assert (rows.norm(dim=-1) > 1.5 * x[:, :MASKED].norm(dim=-1)).all()


@pytest.mark.parametrize(("affinity", "pulled"), [("dot", True), ("scaled", True), ("cosine", False)])
def test_norms_grow_under_dots_and_not_under_cosines(generator, affinity, pulled):
    """dH / d ln|x| = -Var_a(z) of dot-product logits z, 0 of cosines; twice that in L_spa, if all tokens grow."""
    switches = {"affinity": affinity, "temperature": 0.5}
    x = states(generator, spread=0.5)
    h = heterogeneity(x, MASK, **switches).mean()
    radial = (gradient(h, x) * x.detach())[:, :MASKED].sum()
    spa = MaskedTokenOptimization(terms=["spa"], **switches)([x], MASK)["loss_spa"]
    radial_spa = (gradient(spa, x) * x.detach()).sum()
    if not pulled:
        assert abs(radial) < 1e-12
        assert abs(radial_spa) < 1e-12
        return

    def variance(rows, columns):
        logits = rows @ columns.mT / 0.5 * (WIDTH**-0.5 if affinity == "scaled" else 1.0)
        a = logits.softmax(-1)
        return (a * (logits - (a * logits).sum(-1, keepdim=True)) ** 2).sum(-1).mean()

    masked, visible = x.detach().split([MASKED, TOKENS - MASKED], dim=1)
    torch.testing.assert_close(radial, -variance(masked, visible))
    torch.testing.assert_close(radial_spa, -2 * variance(visible, x.detach()))


@pytest.mark.parametrize(("method", "equal"), [(SimMIM, True), (MAE, False)])
def test_masked_tokens_start_identical_where_no_position_is_added(generator, method, equal):
    """SimMIM's only position is a table of zeros at the start, so every layer's masked tokens are one vector."""
    torch.manual_seed(0)
    size = {"img_size": 24, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2}
    decoder = {} if equal else {"decoder_embed_dim": 32, "decoder_depth": 2, "decoder_num_heads": 2}
    mask = (torch.arange(36) % 3 > 0).expand(2, -1)
    out = method(**size, **decoder).eval()(torch.randn(2, 3, 24, 24, generator=generator), mask, return_hidden=True)
    (stream,) = out["hidden"].values()
    spread = [(x[:, mask[0]] - x[:, mask[0]][:, :1]).abs().max() for x in stream.tokens]
    assert spread[0] == 0
    assert [bool(value < 1e-6) for value in spread[1:]] == [equal, equal]
