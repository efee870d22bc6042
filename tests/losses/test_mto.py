"""The objectives against a naive float64 reference, and the properties the paper's equations must have."""

import contextlib
import itertools
import json
import math

import mto_reference as reference
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mto import MaskedTokenOptimization, heterogeneity
from mto.losses.mto import AS_PRINTED, TEXT, log_scalars

#: Laid over the text's reading; the class's own defaults are the last.
VARIANTS = {
    "text": {},
    "as_printed": AS_PRINTED,
    "rank_as_printed": {"rank_direction": "as_printed"},
    "rank_mean": {"rank_reduction": "mean"},
    "sparsity_sum": {"sparsity_reduction": "sum"},
    "sparsity_visible": {"sparsity_columns": "visible"},
    "sparsity_no_self": {"sparsity_self": "exclude"},
    "sparsity_visible_no_self": {"sparsity_columns": "visible", "sparsity_self": "exclude"},
    "sparsity_layers": {"sparsity_layers": [0, -1]},
    "sparsity_all_layers_sum": {"sparsity_layers": "all", "sparsity_reduction": "sum"},
    "attention": {"sparsity_object": "attention"},
    "attention_visible_no_self": {
        "sparsity_object": "attention",
        "sparsity_columns": "visible",
        "sparsity_self": "exclude",
    },
    "scaled": {"affinity": "scaled"},
    "cosine": {"affinity": "cosine", "temperature": 0.1},
    "temperature": {"temperature": 3.0},
    "layernorm": {"tokens": "layernorm", "temperature": 2.0},
    "l2": {"tokens": "l2", "temperature": 0.2},
    "post_position": {"position": "post"},
    "batch": {"batch_reduction": "batch"},
    "detach_visible": {"detach_visible": True},
    "detach_encoder": {"detach_encoder": True},
    "weights": {"spa_weight": 0.3, "e_weight": 2.0, "r_weight": 0.0},
    "eps": {"eps": 0.5},
    "only_spa": {"terms": ["spa"]},
    "only_e": {"terms": ["e"]},
    "only_r": {"terms": ["r"]},
    "default": {**dict.fromkeys(("spa_weight", "e_weight", "r_weight"), 0.1), "affinity": "cosine", "temperature": 0.1},
}


def masks(batch, tokens, counts, seed):
    """(B, N) masks with the given numbers of masked tokens, one per image."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(tokens, generator=generator) < counts[b % len(counts)] for b in range(batch)])


def states(batch, tokens, dim, layers, seed, scale=0.7):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, tokens, dim, generator=generator, dtype=torch.float64) * scale for _ in range(layers)]


def compare(options, hidden, mask, seed=0, rtol=1e-9, atol=1e-10, reference_hidden=None):
    """Loss and gradients of ours in the dtype of `hidden` against the float64 reference."""
    mto = MaskedTokenOptimization.text(**options)
    generator = torch.Generator().manual_seed(seed)
    position = torch.randn(1, *hidden[0].shape[1:], generator=generator, dtype=torch.float64)
    attention = torch.randn(len(mask), mask.shape[1], mask.shape[1], generator=generator, dtype=torch.float64)
    attention = 0.9 * attention.softmax(-1)  # rows do not sum to 1: the class token took its share

    ours = [x.clone().requires_grad_() for x in hidden]
    theirs = [x.double().clone().requires_grad_() for x in hidden]
    ours_attention, theirs_attention = attention.clone().requires_grad_(), attention.clone().requires_grad_()
    out = mto(ours, mask, position=position.to(ours[0].dtype), attention=ours_attention)
    expected = reference.loss(theirs, mask, mto.settings, position=position, attention=theirs_attention)
    torch.testing.assert_close(out["loss"].double(), expected.double(), rtol=rtol, atol=atol)
    out["loss"].backward()
    expected.backward()
    for a, b in zip([*ours, ours_attention], [*theirs, theirs_attention], strict=True):
        a_grad = torch.zeros_like(b) if a.grad is None else a.grad.double()
        b_grad = torch.zeros_like(b) if b.grad is None else b.grad
        torch.testing.assert_close(a_grad, b_grad, rtol=rtol, atol=atol)
    return out


@pytest.mark.parametrize("counts", [[6], [1, 4, 8]], ids=["equal", "unequal"])
@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_every_switch_equals_the_naive_reference(options, counts):
    compare(options, states(3, 9, 5, layers=3, seed=1), masks(3, 9, counts, seed=2))


@st.composite
def switch_settings(draw):
    """Any combination of switches."""
    pick = {
        "rank_direction": ("decreasing", "as_printed"),
        "rank_reduction": ("sum", "mean"),
        "sparsity_reduction": ("mean", "sum"),
        "sparsity_columns": ("all", "visible"),
        "sparsity_self": ("keep", "exclude"),
        "sparsity_layers": ([0], [1], [0, -1], "all"),
        "sparsity_object": ("affinity", "attention"),
        "affinity": ("dot", "scaled", "cosine"),
        "temperature": (1.0, 0.3),
        "tokens": ("raw", "layernorm", "l2"),
        "position": ("pre", "post"),
        "batch_reduction": ("image", "batch"),
        "detach_visible": (False, True),
        "detach_encoder": (False, True),
    }
    options = {name: draw(st.sampled_from(values), label=name) for name, values in pick.items()}
    return {**options, "terms": draw(st.lists(st.sampled_from(["spa", "e", "r"]), min_size=1, unique=True))}


@st.composite
def batches(draw):
    """Hidden states and masks with equal or unequal counts, at any scale from flat to saturated softmax."""
    tokens, batch = draw(st.integers(2, 8)), draw(st.integers(1, 3))
    counts = draw(st.lists(st.integers(1, tokens - 1), min_size=1, max_size=batch))
    seed = draw(st.integers(0, 2**16))
    scale = draw(st.sampled_from([0.01, 0.5, 3.0]))
    hidden = states(batch, tokens, draw(st.integers(2, 6)), draw(st.integers(2, 4)), seed, scale)
    return hidden, masks(batch, tokens, counts, seed)


@settings(max_examples=60, deadline=None)
@given(switch_settings(), batches())
def test_random_switches_shapes_and_masks_equal_the_reference(options, batch):
    # H^0 may be as small as the scale makes it; 1/(H^0 + eps) then amplifies both sides' rounding.
    compare({**options, "eps": 1e-2}, *batch, rtol=1e-6, atol=1e-8)


def adversarial(name):
    hidden, mask = states(2, 8, 6, layers=3, seed=3), masks(2, 8, [5], seed=4)
    if name == "identical tokens":
        hidden = [torch.ones_like(x) for x in hidden]
    elif name == "zero tokens":
        hidden = [torch.zeros_like(x) for x in hidden]
    elif name == "huge norms":
        hidden = [x * 1e6 for x in hidden]
    elif name == "one huge token":
        hidden[0][:, 2] *= 1e6
    elif name == "one visible token":
        mask = masks(2, 8, [7], seed=4)
    elif name == "one visible token, unequal":
        mask = masks(2, 8, [7, 3], seed=4)
    return hidden, mask


ADVERSARIAL = [
    "identical tokens",
    "zero tokens",
    "huge norms",
    "one huge token",
    "one visible token",
    "one visible token, unequal",
]


@pytest.mark.parametrize("name", ADVERSARIAL)
@pytest.mark.parametrize(
    "options", [{}, {"affinity": "scaled"}, {"sparsity_self": "exclude", "sparsity_columns": "visible"}], ids=str
)
def test_adversarial_inputs_equal_the_reference(name, options):
    compare(options, *adversarial(name), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("name", ADVERSARIAL)
@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_adversarial_inputs_stay_finite_in_float32(name, options):
    hidden, mask = adversarial(name)
    hidden = [x.float().requires_grad_() for x in hidden]
    out = MaskedTokenOptimization.text(**options)(hidden, mask, attention=torch.eye(8).expand(2, 8, 8))
    if out["loss"].requires_grad:
        out["loss"].backward()
    assert all(value.isfinite() for value in [out["loss"], *log_scalars(out).values()])
    assert all(x.grad is None or x.grad.isfinite().all() for x in hidden)


def test_float32_is_close_to_float64_at_the_papers_size():
    # ViT-B, 120 of 196 tokens masked; correlated tokens whose dots spread over tens of nats, as real ones do.
    mask = masks(1, 196, [120], seed=5)
    hidden = [x * 0.05 + 0.2 * x[:, :1] for x in states(1, 196, 768, layers=2, seed=6, scale=1.0)]
    compare({}, [x.float() for x in hidden], mask, rtol=2e-3, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("counts", [[6], [2, 6]], ids=["equal", "unequal"])
@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_autocast_changes_nothing_and_stays_finite(dtype, counts, options):
    """Low-precision states, with dots beyond float16's range, give what their float32 copies give outside autocast."""
    mask = masks(2, 9, counts, seed=7)
    low = [(x * 300).to(dtype).requires_grad_() for x in states(2, 9, 64, layers=3, seed=8)]
    assert (low[0].float() @ low[0].float().mT).max() > torch.finfo(torch.float16).max
    attention = torch.eye(9).expand(2, 9, 9)
    mto = MaskedTokenOptimization.text(**options)
    with torch.autocast("cpu", dtype):
        inside = mto(low, mask, attention=attention)
        if inside["loss"].requires_grad:
            inside["loss"].backward()
    outside = mto([x.detach().float() for x in low], mask, attention=attention)
    assert inside["loss"].dtype == torch.float32
    assert inside["loss"].isfinite()
    torch.testing.assert_close(inside["loss"].detach(), outside["loss"])
    assert all(x.grad is None or x.grad.isfinite().all() for x in low)


@settings(max_examples=60, deadline=None)
@given(batches(), st.sampled_from(["dot", "scaled", "cosine"]))
def test_bounds(batch, affinity):
    """0 <= H <= ln V and L_e >= 1 / (ln V + eps)."""
    hidden, mask = batch
    log_visible = (~mask).sum(1).double().log()
    h = heterogeneity(hidden[0], mask, affinity=affinity)
    assert h.shape == (len(mask),)
    assert (h >= 0).all()
    assert (h <= log_visible + 1e-12).all()
    loss_e = MaskedTokenOptimization.text(affinity=affinity)(hidden, mask)["loss_e"]
    assert loss_e >= (1 / (log_visible + 1e-6)).mean() - 1e-12


def test_identical_tokens_reach_the_upper_bounds():
    mask, hidden = masks(2, 12, [8], seed=0), [torch.ones(2, 12, 4)] * 4
    out = MaskedTokenOptimization.text()(hidden, mask)
    torch.testing.assert_close(out["diagnostics"]["tokens"]["heterogeneity"], torch.full((4,), math.log(4)))
    torch.testing.assert_close(out["diagnostics"]["tokens"]["heterogeneity_ratio"], torch.tensor(1.0))
    torch.testing.assert_close(out["loss_r"], torch.tensor(3 * math.log(2)))  # equal H: L ln 2, never 0
    torch.testing.assert_close(out["loss_e"], torch.tensor(1 / (math.log(4) + 1e-6)))
    torch.testing.assert_close(out["loss_spa"], torch.tensor(math.log(12)))


@pytest.mark.parametrize("counts", [(5,), (3, 6)])
def test_the_saturated_share_is_that_of_rows_below_a_hundredth_of_ln_v(counts):
    """Rows of H / ln V from nearly 0 to nearly 1, so that the threshold splits them."""
    mask, hidden = masks(4, 9, counts, 0), [x * 3.5 for x in states(4, 9, 5, 2, 0)]
    diagnostics = MaskedTokenOptimization.text(terms=[])(hidden, mask)["diagnostics"]["tokens"]
    shares = []
    for x in hidden:
        images = []
        for tokens, masked in zip(x, mask, strict=True):
            p = (tokens[masked] @ tokens[~masked].T).softmax(-1)
            entropy = -(p * p.clamp_min(1e-300).log()).sum(-1)
            images.append((entropy < 0.01 * math.log(int((~masked).sum()))).double().mean().item())
        shares.append(sum(images) / len(images))
    assert 0.1 < shares[0] < 0.9
    assert diagnostics["saturated"].tolist() == pytest.approx(shares)


def test_diagnostics_keep_no_graph():
    hidden = [x.requires_grad_() for x in states(2, 8, 4, 3, 0)]
    diagnostics = MaskedTokenOptimization.text(terms=["e"])(hidden, masks(2, 8, (5,), 0))["diagnostics"]["tokens"]
    assert not any(value.requires_grad for value in diagnostics.values())


def test_a_backward_pass_inside_autocast_changes_nothing():
    gradients = []
    for inside in (False, True):
        hidden = [x.float().requires_grad_() for x in states(2, 12, 8, 3, 0)]
        loss = MaskedTokenOptimization.text()(hidden, masks(2, 12, (7,), 0))["loss"]
        with torch.autocast("cpu", torch.bfloat16, enabled=inside):
            loss.backward()
        gradients.append([x.grad for x in hidden])
    for outside, within in zip(*gradients, strict=True):
        assert torch.equal(outside, within)


def test_saturated_rows_are_counted():
    hidden, mask = torch.zeros(1, 4, 2), torch.tensor([[True, True, False, False]])
    hidden[0, 0] = torch.tensor([9.0, 0.0])  # its row is one-hot on token 2
    hidden[0, 2] = torch.tensor([9.0, 0.0])
    diagnostics = MaskedTokenOptimization.text(terms=[])([hidden], mask)["diagnostics"]["tokens"]
    assert diagnostics["saturated"].tolist() == [0.5]


@settings(max_examples=25, deadline=None)
@given(batches(), st.integers(0, 1000))
def test_permutations_within_the_sets_and_of_the_batch_change_nothing(batch, seed):
    hidden, mask = batch
    generator = torch.Generator().manual_seed(seed)
    shuffle = (torch.rand(mask.shape, generator=generator) + mask).argsort(1)  # visible first, each set shuffled
    back = mask.byte().argsort(dim=1, stable=True).argsort(dim=1)
    order = shuffle.gather(1, back)  # position n gets a random token of n's own set
    assert torch.equal(mask.gather(1, order), mask)
    images = torch.randperm(len(mask), generator=generator)
    moved = [x.gather(1, order[..., None].expand_as(x))[images] for x in hidden]
    mto = MaskedTokenOptimization.text()
    before, after = mto(hidden, mask), mto(moved, mask[images])
    for name in ("loss_spa", "loss_e", "loss_r", "loss"):
        torch.testing.assert_close(before[name], after[name])


@pytest.mark.parametrize("direction", ["decreasing", "as_printed"])
def test_rank_loss_falls_when_heterogeneity_falls_with_depth_unless_as_printed(direction):
    mto = MaskedTokenOptimization.text(terms=["r"], rank_direction=direction)
    mask = masks(2, 9, [4], seed=0)
    flat, sharp = (x * f for x, f in zip(states(2, 9, 16, 2, seed=1), (0.01, 5.0), strict=True))
    falling, rising = mto([flat, sharp], mask)["loss"], mto([sharp, flat], mask)["loss"]
    assert (falling < math.log(2) < rising) == (direction == "decreasing")


@pytest.mark.parametrize("n", [1, 2, 5])
def test_sparsity_proof_holds_under_its_own_conditions(n):
    """Supplementary proof of Eq. 3: n identical masked tokens, one clear maximum per row of the affinity.

    The visible token's row has its maximum either at the visible column (entropy -> 0) or at all n equal masked
    columns (entropy -> ln n): lower in the first case, if n >= 2. With n = 1 nothing distinguishes them.
    """
    mask = torch.tensor([[True] * n + [False]])
    masked = torch.tensor([1.0, 0.0]).expand(n, 2)
    mto = MaskedTokenOptimization.text(terms=["spa"])

    def row_entropy(visible, gap):
        return mto([gap * torch.cat([masked, visible[None]])[None]], mask)["loss_spa"].item()

    at_visible = row_entropy(torch.tensor([0.0, 1.0]), gap=6.0)
    at_masked = row_entropy(torch.tensor([0.5, 0.0]), gap=6.0)
    assert at_visible == pytest.approx(0.0, abs=1e-4)
    assert at_masked == pytest.approx(math.log(n), abs=1e-2)
    assert (at_masked - at_visible > 0.5) == (n >= 2)
    if n == 5:  # the one-hot condition is needed: with a small gap the order is the other way round
        assert row_entropy(torch.tensor([0.0, 1.0]), gap=0.5) > 1.7
        assert row_entropy(torch.tensor([0.0, 1.0]), gap=0.5) > row_entropy(torch.tensor([3.0, 0.0]), gap=0.5)


def test_rank_loss_alone_can_collapse_all_heterogeneity():
    """Table 3: L_r sees only differences, so it may meet its aim at H = 0 everywhere; L_e prevents that."""
    tokens = torch.randn(4, 12, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(12).expand(4, 12) < 8

    def train(terms):
        log_scale = torch.nn.Parameter(torch.tensor(3.0).log())
        optimizer = torch.optim.Adam([log_scale], lr=0.05)
        mto = MaskedTokenOptimization.text(terms=terms, affinity="scaled")
        for _ in range(150):  # three layers that share one parameter; the deeper, the smaller the tokens
            out = mto([log_scale.exp() * tokens / (1 + depth) for depth in range(3)], mask)
            optimizer.zero_grad()
            out["loss"].backward()
            optimizer.step()
        return out["diagnostics"]["tokens"]["heterogeneity"] / math.log(4)

    assert (train(["r"]) < 0.02).all()
    assert (train(["e", "r"]) > 0.9).all()


def test_as_printed_is_the_papers_equations():
    hidden, mask = states(2, 9, 5, layers=3, seed=1), masks(2, 9, [6], seed=2)
    out = MaskedTokenOptimization.as_printed()(hidden, mask)
    h = [heterogeneity(x, mask) for x in hidden]
    printed = sum(torch.log1p(torch.exp(before - now)) for before, now in itertools.pairwise(h)).mean()
    torch.testing.assert_close(out["loss_r"], printed)
    p = (hidden[0] @ hidden[0].mT).softmax(-1)
    rows = -(p * p.log()).sum(-1)
    torch.testing.assert_close(out["loss_spa"], (rows * ~mask).sum(1).mean())
    torch.testing.assert_close(out["loss"], out["loss_spa"] + out["loss_e"] + out["loss_r"])
    torch.testing.assert_close(out["loss_e"], (1 / (h[0] + 1e-6)).mean())


class Stream:
    def __init__(self, tokens, position=None, first_attention=None, final_norm=None):
        self.tokens, self.position = tokens, position
        self.first_attention, self.final_norm = first_attention, final_norm


def test_streams_are_summed_averaged_or_chosen():
    mask = masks(2, 9, [6], seed=2)
    pair = {"pixel": Stream(states(2, 9, 5, 3, seed=1)), "feature": Stream(states(2, 9, 7, 3, seed=2))}
    single = {name: MaskedTokenOptimization.text()(stream.tokens, mask) for name, stream in pair.items()}
    for how, expected in {
        "sum": single["pixel"]["loss"] + single["feature"]["loss"],
        "mean": (single["pixel"]["loss"] + single["feature"]["loss"]) / 2,
        "feature": single["feature"]["loss"],
    }.items():
        out = MaskedTokenOptimization.text(streams=how).streams(pair, mask)
        torch.testing.assert_close(out["loss"], expected)
        assert set(out["diagnostics"]) == {"pixel", "feature"}
    assert {"pixel/heterogeneity_0", "feature/heterogeneity_2", "loss_r"} <= set(log_scalars(out))
    with pytest.raises(ValueError, match="pixels"):
        MaskedTokenOptimization.text(streams="pixels").streams(pair, mask)


def test_position_comes_from_the_stream_and_only_when_asked():
    mask, tokens = masks(2, 9, [6], seed=2), states(2, 9, 5, 2, seed=1)
    stream = Stream(tokens, position=torch.ones(1, 9, 5, dtype=torch.float64).cumsum(1))
    pre, post = (MaskedTokenOptimization.text(position=p).streams({"decoder": stream}, mask) for p in ("pre", "post"))
    moved = MaskedTokenOptimization.text()([tokens[0] + stream.position, tokens[1]], mask)
    torch.testing.assert_close(pre["loss"], MaskedTokenOptimization.text()(tokens, mask)["loss"])
    torch.testing.assert_close(post["loss"], moved["loss"])


def test_the_last_layer_may_be_taken_after_the_final_norm():
    tokens, mask = states(2, 9, 5, 3, seed=1), masks(2, 9, [5, 6], seed=2)
    norm = torch.nn.LayerNorm(5, dtype=torch.float64)
    torch.nn.init.normal_(norm.weight)
    stream = Stream(tokens, final_norm=norm)
    mto = MaskedTokenOptimization.text(final_norm=True)
    torch.testing.assert_close(
        mto.streams({"a": stream}, mask)["loss"], mto([*tokens[:-1], norm(tokens[-1])], mask)["loss"]
    )
    raw = MaskedTokenOptimization.text()
    assert torch.equal(raw.streams({"a": stream}, mask)["loss"], raw(tokens, mask)["loss"])


@pytest.mark.parametrize("tokens", ["raw", "layernorm", "l2"])
@pytest.mark.parametrize("affinity", ["dot", "scaled", "cosine"])
def test_heterogeneity_alone_equals_the_reference(affinity, tokens):
    x, mask = states(3, 9, 5, 1, seed=3)[0].requires_grad_(), masks(3, 9, [4, 6], seed=4)
    settings = {"affinity": affinity, "tokens": tokens, "temperature": 0.7, "detach_visible": True}
    values = heterogeneity(x, mask, **settings)
    (gradient,) = torch.autograd.grad(values.sum(), x)
    for image in range(3):
        expected = reference.image_heterogeneity(x[image], mask[image], settings)
        torch.testing.assert_close(values[image], expected)
        (wanted,) = torch.autograd.grad(expected, x)
        torch.testing.assert_close(gradient[image], wanted[image])
    assert not gradient[~mask].any()


def test_a_position_of_another_shape_is_named():
    mto = MaskedTokenOptimization.text(position="post")
    with pytest.raises(ValueError, match=r"position is \(1, 8, 5\), layer 0 \(2, 9, 5\)"):
        mto(states(2, 9, 5, 2, seed=1), masks(2, 9, [6], seed=2), position=torch.zeros(1, 8, 5))


def test_as_printed_takes_the_other_switches():
    settings = MaskedTokenOptimization.as_printed(affinity="cosine", rank_reduction="mean").settings
    assert settings["affinity"] == "cosine"
    assert (settings["rank_direction"], settings["rank_reduction"]) == ("as_printed", "mean")


@pytest.mark.parametrize("counts", [[5], [2, 6]], ids=["equal", "unequal"])
@pytest.mark.parametrize("options", [{}, {"sparsity_self": "exclude", "sparsity_columns": "visible"}], ids=str)
def test_second_derivatives_equal_the_reference(options, counts):
    """Of what a gradient penalty adds: the gradient of the squared gradient."""
    mask, mto = masks(2, 8, counts, 0), MaskedTokenOptimization.text(**options)
    results = []
    for loss in (lambda x: mto(x, mask)["loss"], lambda x: reference.loss(x, mask, mto.settings)):
        hidden = [x.requires_grad_() for x in states(2, 8, 4, 3, 0)]
        gradients = torch.autograd.grad(loss(hidden), hidden, create_graph=True)
        results.append(torch.autograd.grad(sum(g.square().sum() for g in gradients), hidden))
    torch.testing.assert_close(results[0], results[1])


def test_second_derivatives_stay_finite_where_a_probability_underflows():
    hidden = [(x * 1e3).float().requires_grad_() for x in states(2, 8, 4, 3, 0)]
    loss = MaskedTokenOptimization.text()(hidden, masks(2, 8, [5], 0))["loss"]
    gradients = torch.autograd.grad(loss, hidden, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in gradients), hidden)
    assert all(g.isfinite().all() for g in second)


def test_torch_func_sees_the_same_gradient():
    mask, mto = masks(2, 8, [5], 0), MaskedTokenOptimization.text()
    hidden = torch.stack(states(2, 8, 4, 3, 0))

    def loss(x):
        return mto(list(x), mask)["loss"]

    tracked = hidden.clone().requires_grad_()
    loss(tracked).backward()
    torch.testing.assert_close(torch.func.grad(loss)(hidden), tracked.grad)


def test_layers_of_several_widths_and_precisions_go_together():
    """As a hierarchical encoder, or one under autocast, gives them."""
    mask, mto = masks(2, 9, [6], seed=2), MaskedTokenOptimization.text(sparsity_layers="all")
    hidden = [*states(2, 9, 5, 2, seed=1), *states(2, 9, 8, 1, seed=2), *states(2, 9, 5, 2, seed=3)]
    compare({"sparsity_layers": "all"}, hidden, mask)
    mixed = [x.to(d).requires_grad_() for x, d in zip(hidden, [torch.bfloat16, *[torch.float32] * 4], strict=True)]
    alone = [x.detach().float().requires_grad_() for x in mixed]
    ours, theirs = mto(mixed, mask)["loss"], mto(alone, mask)["loss"]
    torch.testing.assert_close(ours, theirs)
    ours.backward()
    theirs.backward()
    assert mixed[0].grad.dtype == torch.bfloat16
    for a, b in zip(mixed, alone, strict=True):
        torch.testing.assert_close(a.grad, b.grad.to(a.dtype))


def test_groups_of_layers_change_nothing(monkeypatch):
    from mto.losses import entropy

    results = []
    for limit in (entropy.GROUP_BYTES, 1, 2 * 4 * 2 * 9 * 5):  # all layers at once, one by one, two by two
        monkeypatch.setattr(entropy, "GROUP_BYTES", limit)
        results.append(compare({"sparsity_layers": "all"}, states(2, 9, 5, 5, seed=1), masks(2, 9, [6], 2))["loss"])
    torch.testing.assert_close(results[1:], results[:1] * 2)


def test_warmup_ramps_the_sum_but_not_the_terms():
    hidden, mask = states(2, 9, 5, 2, seed=1), masks(2, 9, [6], seed=2)
    mto = MaskedTokenOptimization.text(warmup_epochs=4)
    full = MaskedTokenOptimization.text()(hidden, mask)
    ramp = [(0, 0.0), (1, 0.25), (torch.tensor(3.0), 0.75), (4, 1.0), (9.0, 1.0), (torch.tensor(9.0), 1.0)]
    for progress, share in ramp:
        out = mto(hidden, mask, progress=progress)
        torch.testing.assert_close(out["loss"], share * full["loss"], check_dtype=False)
        torch.testing.assert_close(out["loss_r"], full["loss_r"])
    with pytest.raises(ValueError, match="progress"):
        mto(hidden, mask)


def test_without_terms_it_measures_and_passes_no_gradient():
    hidden = [x.requires_grad_() for x in states(2, 9, 5, 3, seed=1)]
    mask = masks(2, 9, [6], seed=2)
    out = MaskedTokenOptimization.text(terms=[])(hidden, mask)
    assert out["loss"] == 0
    assert not out["loss"].requires_grad
    expected = torch.stack([heterogeneity(x, mask).mean() for x in hidden])
    torch.testing.assert_close(out["diagnostics"]["tokens"]["heterogeneity"], expected.detach())
    assert not any(value.requires_grad for value in log_scalars(out).values())


@pytest.mark.parametrize(
    ("terms", "measure", "layers", "sparsity"),
    [
        ([], False, 0, 0),
        ([], True, 4, 0),
        (["spa"], False, 0, 1),
        (["e"], False, 1, 0),
        (["e"], True, 4, 0),
        (["e", "r", "spa"], True, 4, 1),
        (["e", "r", "spa"], False, 4, 1),
    ],
)
def test_nothing_is_computed_twice_or_for_terms_that_are_off(monkeypatch, terms, measure, layers, sparsity):
    from mto.losses import entropy, gram

    calls, products = [], []
    add, product = entropy.Rows.add, gram._product

    def adding(self, *args):
        calls.append(self._which[0])
        return add(self, *args)

    def multiplying(*args):
        products.append(args)
        return product(*args)

    monkeypatch.setattr(entropy.Rows, "add", adding)
    monkeypatch.setattr(gram, "_product", multiplying)
    out = MaskedTokenOptimization.text(terms=terms)(
        states(2, 9, 5, 4, seed=1), masks(2, 9, [6], seed=2), num_masked=6, measure=measure
    )
    assert (calls.count("masked"), calls.count("visible")) == (layers, sparsity)
    assert len(products) == max(layers, sparsity)  # L_spa looks at layer 0's, which is there
    assert bool(out["diagnostics"]) == measure


@pytest.mark.parametrize("affinity", ["dot", "cosine"])
def test_a_layer_costs_one_product_each_way_and_keeps_one_number_an_affinity(affinity):
    """...of masked rows and visible columns; beside the states, which a network keeps for itself."""
    seen, kept = [], []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if func is torch.ops.aten.bmm.default:
                seen.append(tuple(result.shape[1:]))
            return result

    hidden = states(2, 16, 3, 1, seed=1)[0].requires_grad_()
    mask = masks(2, 16, [12], seed=1)
    with Watch():
        with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
            h = heterogeneity(hidden, mask, num_masked=12, affinity=affinity).sum()
        h.backward()
    assert seen == [(16, 16), (16, 3)]
    large = {x.data_ptr(): tuple(x.shape) for x in kept if x.numel() > 50 and x.data_ptr() != hidden.data_ptr()}
    assert list(large.values()) == [(1, 2, 12, 4)]


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("num_masked", [6, None], ids=["equal", "unknown"])
def test_nothing_waits_for_the_device(monkeypatch, num_masked, options):
    """Tensors without values ("meta") refuse what makes a GPU's caller wait: boolean indexing, item(), branches."""
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: contextlib.nullcontext())  # it knows no "meta"
    hidden = [torch.zeros(2, 9, 5, device="meta", requires_grad=True) for _ in range(3)]
    mask = torch.zeros(2, 9, dtype=torch.bool, device="meta")
    mto = MaskedTokenOptimization.text(**options, validate=False)
    out = mto(hidden, mask, num_masked=num_masked, attention=torch.zeros(2, 9, 9, device="meta", requires_grad=True))
    out["loss"].backward()
    with pytest.raises((NotImplementedError, RuntimeError)):  # the first call on a device does look at the mask
        MaskedTokenOptimization.text(**options)(hidden, mask)


@pytest.mark.parametrize("num_masked", [6, None], ids=["equal", "unknown"])
def test_compile_has_no_graph_break_and_changes_nothing(num_masked):
    mask = masks(2, 9, [6], seed=2)
    mto = MaskedTokenOptimization.text(warmup_epochs=2.0)

    def step(*hidden):
        return mto(list(hidden), mask, num_masked=num_masked, progress=torch.tensor(1.0))

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")  # fullgraph: a graph break is an error
    results = []
    for function in (step, compiled):
        hidden = [x.float().requires_grad_() for x in states(2, 9, 5, 3, seed=1)]
        out = function(*hidden)
        out["loss"].backward()
        results.append([*log_scalars(out).values(), *(x.grad for x in hidden)])
    torch.testing.assert_close(results[1], results[0])


def test_unknown_counts_give_the_same_as_known_ones():
    hidden, mask = states(2, 9, 5, 1, seed=1)[0], masks(2, 9, [6], seed=2)
    mixed = torch.cat([mask, masks(1, 9, [2], seed=3)])
    alone = heterogeneity(hidden, mask)
    torch.testing.assert_close(heterogeneity(torch.cat([hidden, hidden[:1]]), mixed)[:2], alone)
    torch.testing.assert_close(heterogeneity(hidden, mask, num_masked=6), alone)


def test_the_default_is_a_cosine_and_the_text_differs_in_five_switches():
    default, text = MaskedTokenOptimization().settings, MaskedTokenOptimization.text().settings
    assert default == text | VARIANTS["default"]
    assert {name for name in text if text[name] != default[name]} == TEXT.keys()


def test_settings_are_recorded_and_rebuild_the_module():
    for options in VARIANTS.values():
        mto = MaskedTokenOptimization.text(**options)
        again = MaskedTokenOptimization(**json.loads(json.dumps(mto.settings)))
        assert again.settings == mto.settings
        assert options.items() <= mto.settings.items()


BAD_MASK = torch.tensor([[True, False, True], [True, True, True]])


@pytest.mark.parametrize(
    ("hidden", "mask", "kwargs", "message"),
    [
        ([torch.zeros(2, 4, 5)], BAD_MASK, {}, "class token left in"),
        ([torch.zeros(2, 7, 5)], BAD_MASK, {}, "but the mask is"),
        ([torch.zeros(3, 5)], BAD_MASK, {}, r"expected \(B, N, D\)"),
        ([torch.zeros(2, 3, 5, dtype=torch.long)], BAD_MASK, {}, "floats"),
        ([], BAD_MASK, {}, "initial embedding first"),
        (torch.zeros(2, 3, 5), BAD_MASK, {}, "a list"),
        ([torch.zeros(2, 3, 5)] * 2, BAD_MASK.float(), {}, "bool, True where masked"),
        ([torch.zeros(2, 3, 5)] * 2, BAD_MASK, {}, "no visible token"),
        ([torch.zeros(2, 3, 5)] * 2, ~BAD_MASK, {}, "no masked token"),
        ([torch.zeros(1, 3, 5)] * 2, BAD_MASK[:1], {"num_masked": 1}, "2 to 2 masked tokens"),
        ([torch.zeros(1, 3, 5)] * 2, BAD_MASK[:1], {"num_masked": 3}, "num_masked=3"),
        ([torch.zeros(1, 3, 5)], BAD_MASK[:1], {}, "at least one layer"),
        ([[0.0]] * 2, BAD_MASK[:1], {}, r"expected a \(B, N, D\) tensor, got list"),
    ],
)
def test_mistakes_are_named(hidden, mask, kwargs, message):
    with pytest.raises(ValueError, match=message):
        MaskedTokenOptimization.text()(hidden, mask, **kwargs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"terms": ["h"]}, r"unknown \['h'\]"),
        ({"affinity": "euclid"}, "dot, scaled, cosine"),
        ({"temperature": 0.0}, "positive"),
        ({"temperature": float("nan")}, "positive"),
        ({"warmup_epochs": -1}, "not negative"),
        ({"sparsity_layers": []}, "a list of layers"),
        ({"sparsity_layers": "al"}, "use 'all'"),
        ({"sparsity_layers": [-3]}, "no layer -3"),
        ({"rank_direction": "up"}, "decreasing"),
        ({"sparsity_layers": [5]}, "no layer 5"),
        ({"sparsity_object": "attention"}, "attention="),
    ],
)
def test_wrong_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        MaskedTokenOptimization.text(**options)(states(2, 9, 5, 2, seed=1), masks(2, 9, [6], seed=2))
