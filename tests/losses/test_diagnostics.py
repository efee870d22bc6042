"""The signs of a collapse against a naive account of them, and gradient norms that leave no trace."""

import math

import pytest
import torch
from torch import nn

from mto.losses.diagnostics import collapse, effective_rank, gradient_norms, stand_ins


def tokens(seed, batch=3, count=9, dim=5):
    return torch.randn(batch, count, dim, generator=torch.Generator().manual_seed(seed))


def masks(*counts, count=9):
    """One mask an image, with so many masked tokens at random places."""
    generator = torch.Generator().manual_seed(1)
    return torch.stack([torch.randperm(count, generator=generator) < masked for masked in counts])


@pytest.mark.parametrize("counts", [(6, 6, 6), (2, 4, 8)], ids=["equal", "unequal"])
def test_every_sign_equals_a_naive_account(counts):
    first, last, mask = tokens(0), tokens(1), masks(*counts)
    found = collapse([first, tokens(2), last], mask)
    cosines, shares, visible = [], [], []
    for x0, x, m in zip(first, last, mask, strict=True):
        masked = x[m]
        pairs = [(i, j) for i in range(len(masked)) for j in range(len(masked)) if i != j]
        cosine = [torch.cosine_similarity(masked[i], masked[j], dim=0) for i, j in pairs]
        cosines.append(sum(cosine) / len(cosine))
        nearest = [max(range(int((~m).sum())), key=lambda j, row=row: float(row @ x[~m][j])) for row in masked]
        shares.append(max(nearest.count(j) for j in nearest) / len(nearest))
        visible.append(x0[~m])
    rows = torch.cat(visible).double()
    eigenvalues = torch.linalg.svdvals(rows - rows.mean(0)).square()
    share = eigenvalues / eigenvalues.sum()
    expected = {
        "masked_cosine": sum(cosines) / 3,
        "modal_share": sum(shares) / 3,
        "effective_rank": math.exp(-sum(p * math.log(p) for p in share.tolist() if p > 0)),
        "visible_norm": rows.norm(dim=1).mean(),
    }
    assert {name: float(value) for name, value in found.items()} == pytest.approx(
        {name: float(value) for name, value in expected.items()}, rel=1e-4
    )


def test_masked_tokens_that_are_one_show_it():
    mask, last = masks(6, 6, 6), tokens(1)
    one = torch.where(mask[..., None], torch.ones(5), last)
    found = collapse([tokens(0), one], mask)
    assert float(found["masked_cosine"]) == pytest.approx(1, abs=1e-5)
    assert float(found["modal_share"]) == 1
    assert float(collapse([one, last], mask)["masked_cosine"]) < 0.5  # the last layer's tell, not the first's


def test_masked_tokens_do_not_enter_the_rank_and_norm_of_the_visible():
    mask, first = masks(6, 6, 6), tokens(0)
    other = torch.where(mask[..., None], 100 * tokens(3), first)
    kept, changed = (collapse([x, tokens(1)], mask) for x in (first, other))
    assert all(torch.equal(kept[name], changed[name]) for name in ("effective_rank", "visible_norm"))


@pytest.mark.parametrize(("directions", "rank"), [(1, 1.0), (4, 4.0)])
def test_the_effective_rank_counts_equal_directions(directions, rank):
    eye = torch.eye(8)[:directions]
    x = torch.cat([eye, -eye])[None] + 3.0  # symmetric about its mean
    assert float(effective_rank(x, torch.ones(x.shape[:2]))) == pytest.approx(rank, rel=1e-4)


@pytest.mark.parametrize("backend", [None, "aot_eager"])
def test_a_decomposition_that_does_not_converge_is_no_number_and_no_error(monkeypatch, backend):
    def fail(matrix):
        raise torch.linalg.LinAlgError("the algorithm failed to converge")

    monkeypatch.setattr(torch.linalg, "eigvalsh", fail)
    watch = torch.compile(collapse, fullgraph=True, backend=backend) if backend else collapse
    found = watch([tokens(0), tokens(1)], masks(6, 6, 6))
    assert {name for name, value in found.items() if value.isnan()} == {"effective_rank"}


def test_one_masked_token_has_no_pair():
    assert float(collapse([tokens(0), tokens(1)], masks(1, 1, 1))["masked_cosine"]) == pytest.approx(0, abs=1e-6)


def test_what_is_not_finite_is_left_to_the_losss_own_check():
    collapse([tokens(0) * math.inf, tokens(1) * math.nan], masks(6, 6, 6))


def test_no_gradient_and_float32_whatever_autocast_says():
    first, last, mask = tokens(0).requires_grad_(), tokens(1).requires_grad_(), masks(6, 6, 6)
    plain = collapse([first, last], mask)
    with torch.autocast("cpu", torch.bfloat16):
        cast = collapse([first, last], mask)
    assert all(torch.equal(plain[name], cast[name]) and not plain[name].requires_grad for name in plain)


def test_gradient_norms_are_those_of_a_backward_pass_and_leave_no_trace():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))
    unused = nn.Parameter(torch.ones(2))
    parameters = [*net.parameters(), unused]
    leaves = stand_ins(dict(net.named_parameters()))
    x = torch.randn(5, 4)
    out = torch.func.functional_call(net, leaves, (x,))
    losses = {"square": out.square().mean(), "sum": 3 * out.sum(), "none": torch.zeros(())}
    state = torch.get_rng_state()
    norms = gradient_norms(losses, [*leaves.values(), *stand_ins({"unused": unused}).values()])
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in parameters)
    assert float(norms["none"]) == 0
    out = net(x)
    for name, loss in {"square": out.square().mean(), "sum": 3 * out.sum()}.items():
        net.zero_grad()
        loss.backward(retain_graph=True)
        expected = torch.cat([parameter.grad.flatten() for parameter in net.parameters()]).norm()
        torch.testing.assert_close(norms[name], expected)
