"""Taps in a residual stream: the numbers of a list of states, hardly any memory, and gradients that do not wait."""

import mto_reference as reference
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_mto import VARIANTS, masks, states, switch_settings
from torch import nn

from mto import MaskedTokenOptimization
from mto.losses import gram
from mto.losses.gram import full_precision_product
from mto.losses.stream import Recorder
from mto.losses.taps import TapRecorder

BATCH, TOKENS, DIM, DEPTH = 3, 9, 6, 3


class Toy(nn.Module):
    """A residual network with a class token; its stream is a method's."""

    def __init__(self, dtype=torch.float64, depth=DEPTH, dim=DIM):
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(nn.Linear(dim, dim, dtype=dtype) for _ in range(depth))
        self.class_token = nn.Parameter(torch.randn(1, 1, dim, dtype=dtype))

    def forward(self, x, record):
        patches = record(x)
        x = torch.cat([self.class_token.expand(len(x), -1, -1), patches], dim=1)
        for block in self.blocks:
            x = record(x + torch.tanh(block(x)), skip=1)
        return x.square().mean()


class Stream:
    position = first_attention = final_norm = None

    def __init__(self, record):
        self.tokens, self.taken = record.tokens, record.taken


def run(net, x, mask, mto, tapped, num_masked=None, weight=1.0):
    """Loss, terms, and the gradients of every parameter and of the input."""
    x = x.clone().requires_grad_()
    record = mto.taps(mask, num_masked=num_masked).recorder(1 + len(net.blocks)) if tapped else Recorder()
    out = weight * net(x, record)
    terms = mto.streams({"toy": Stream(record)}, mask, num_masked=num_masked)
    leaves = [x, *net.parameters()]
    loss = out + terms["loss"]
    return [loss, *torch.autograd.grad(loss, leaves, create_graph=True)], terms, leaves, record


def batch(counts, seed=3, scale=0.7):
    return states(BATCH, TOKENS, DIM, 1, seed, scale)[0], masks(BATCH, TOKENS, counts, seed)


@pytest.mark.parametrize("counts", [[6], [1, 4, 8]], ids=["equal", "unequal"])
@pytest.mark.parametrize("options", [o for o in VARIANTS.values() if "sparsity_object" not in o], ids=str)
def test_a_tap_gives_what_the_list_gives(options, counts):
    x, mask = batch(counts)
    mto = MaskedTokenOptimization.text(**options)
    tapped, terms, *_ = run(Toy(), x, mask, mto, True)
    listed, expected, *_ = run(Toy(), x, mask, mto, False)
    torch.testing.assert_close(tapped, listed, rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(terms, expected, rtol=1e-10, atol=1e-11)


@settings(max_examples=40, deadline=None)
@given(switch_settings(), st.lists(st.integers(1, TOKENS - 1), min_size=1, max_size=BATCH), st.integers(0, 99))
def test_random_switches_give_what_the_reference_gives(options, counts, seed):
    options = {**options, "sparsity_object": "affinity", "position": "pre", "eps": 1e-2}
    x, mask = batch(counts, seed)
    mto, net = MaskedTokenOptimization.text(**options), Toy()
    tapped, *_ = run(net, x, mask, mto, True)
    listed, _, leaves, record = run(net, x, mask, MaskedTokenOptimization(terms=[]), False)
    loss = listed[0] + reference.loss(record.tokens, mask, mto.settings)
    expected = [loss, *torch.autograd.grad(loss, leaves)]
    torch.testing.assert_close(tapped, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("preset", [MaskedTokenOptimization, MaskedTokenOptimization.text])
def test_either_loss_alone_goes_through_a_tap(preset):
    """As in the comparison of gradients, where the other one's is absent."""
    x, mask = batch([6])
    for weight, mto in ((0.0, preset()), (1.0, preset(spa_weight=0.0, e_weight=0.0, r_weight=0.0))):
        tapped, *_ = run(Toy(), x, mask, mto, True, weight=weight)
        torch.testing.assert_close(tapped, run(Toy(), x, mask, mto, False, weight=weight)[0])
    net, x = Toy(), x.clone().requires_grad_()
    record = preset().taps(mask).recorder(1 + DEPTH)
    out = net(x, record)
    terms = preset().streams({"toy": Stream(record)}, mask)
    for loss in (out, terms["loss"]):
        assert torch.autograd.grad(loss, x, retain_graph=True)[0].isfinite().all()


@pytest.mark.parametrize("counts", [[6], [1, 4, 8]], ids=["equal", "unequal"])
def test_second_derivatives_go_through_a_tap(counts):
    x, mask = batch(counts)
    results = []
    for tapped in (True, False):
        (_, *gradients), _, leaves, _ = run(Toy(), x, mask, MaskedTokenOptimization(), tapped)
        penalty = sum(gradient.square().sum() for gradient in gradients)
        results.append(torch.autograd.grad(penalty, leaves))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("num_masked", [6, None], ids=["equal", "unknown"])
def test_compile_has_no_graph_break_and_changes_nothing(num_masked):
    x, mask = (value.float() if value.is_floating_point() else value for value in batch([6]))
    mto, results = MaskedTokenOptimization(), []

    def step(net, x):
        record = mto.taps(mask, num_masked=num_masked).recorder(1 + DEPTH)
        out = net(x, record)
        return out + mto.streams({"toy": Stream(record)}, mask, num_masked=num_masked)["loss"]

    for function in (step, torch.compile(step, fullgraph=True, backend="aot_eager")):
        net, leaf = Toy(torch.float32), x.clone().requires_grad_()
        loss = function(net, leaf)
        loss.backward()
        results.append([loss, leaf.grad, *(p.grad for p in net.parameters())])
    torch.testing.assert_close(results[1], results[0])


def test_autocast_changes_none_of_the_terms_numbers():
    x, mask = (value.float() if value.is_floating_point() else value for value in batch([6], scale=300.0))
    record = MaskedTokenOptimization().taps(mask).recorder(2)
    with torch.autocast("cpu", torch.bfloat16):
        for depth in range(2):
            record((depth + 1) * x)
        inside = MaskedTokenOptimization().streams({"toy": Stream(record)}, mask)["loss"]
    assert torch.equal(inside, MaskedTokenOptimization()([x, 2 * x], mask)["loss"])


@pytest.mark.parametrize("counts", [[6], [1, 4, 8]], ids=["equal", "unequal"])
def test_a_tap_keeps_the_states_alone(counts):
    """...which the network keeps: what is saved beside them are logits, a number for each pair of tokens."""
    wide, mask = states(BATCH, TOKENS, 64, 1, 3)[0], masks(BATCH, TOKENS, counts, 3)
    kept = {}
    for tapped in (False, True):
        net, saved = Toy(dim=64), {}
        record = MaskedTokenOptimization().taps(mask, measure=False).recorder(1 + DEPTH) if tapped else Recorder()
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x, saved=saved: saved.update({x.untyped_storage().data_ptr(): x}) or x, lambda x: x
        ):
            net(wide.clone().requires_grad_(), record)
            if tapped:
                MaskedTokenOptimization().streams({"toy": Stream(record)}, mask, measure=False)
        kept[tapped] = sum(x.untyped_storage().nbytes() for x in saved.values())
    token = 8 * BATCH * TOKENS  # a number for each; a state is 64 of them
    pairs = (1 + DEPTH + 1) * TOKENS * token  # of each layer for H, of the first for L_spa
    assert kept[True] - kept[False] < wide.nbytes + pairs + 30 * token  # nothing else of the toy keeps layer 0


def test_gradients_do_not_wait_for_each_other(monkeypatch):
    """Each layer's product comes when the backward pass does, before that of the block below."""
    order, product = [], gram._product

    def multiplying(*args):
        order.append("tap")
        return product(*args)

    x, mask = batch([6])
    net, leaf = Toy(), x.clone().requires_grad_()
    mto = MaskedTokenOptimization()
    record = mto.taps(mask).recorder(1 + DEPTH)
    for block in net.blocks:
        block.register_full_backward_hook(lambda *_: order.append("block"))
    loss = net(leaf, record) + mto.streams({"toy": Stream(record)}, mask)["loss"]
    monkeypatch.setattr(gram, "_product", multiplying)
    loss.backward()
    assert order == ["tap", "block"] * DEPTH + ["tap"]


def test_float32_is_float64_to_a_few_digits_at_the_papers_size():
    """ViT-B's width and tokens, 118 of 196 masked, of cosines as they are in a trained network's last layers."""
    mask = masks(2, 196, [118], seed=5)
    shared = torch.randn(2, 1, 768, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    hidden = [(0.2 + 0.3 * depth) * shared + x for depth, x in enumerate(states(2, 196, 768, 4, seed=6))]
    mto, results = MaskedTokenOptimization(), {}
    for dtype in (torch.float64, torch.float32):
        leaves = [x.to(dtype).requires_grad_() for x in hidden]
        loss = mto(leaves, mask, num_masked=118)["loss"]
        results[dtype] = [loss, *torch.autograd.grad(loss, leaves)]
    (loss, *gradients), (expected, *wanted) = results[torch.float32], results[torch.float64]
    assert abs(loss / expected - 1) < 2e-6
    # Of all layers together: what L_r gives to one is a difference of slopes, which may be next to nothing.
    apart, whole = (torch.cat([x.flatten() for x in each]).norm() for each in (_apart(gradients, wanted), wanted))
    assert apart / whole < 4e-5


def _apart(found, expected):
    return [a - b for a, b in zip(found, expected, strict=True)]


def test_what_no_tap_can_serve_is_taken_from_the_list():
    mask = masks(2, 9, [6], 0)
    lists = [{"tokens": "layernorm"}, {"detach_encoder": True}, {"final_norm": True}, {"position": "post"}]
    for options in lists:
        assert type(MaskedTokenOptimization(**options).taps(mask).recorder(4)) is Recorder
    for options in ({}, {"tokens": "l2"}, {"detach_visible": True}, {"sparsity_layers": "all"}):
        assert type(MaskedTokenOptimization(**options).taps(mask).recorder(4)) is TapRecorder


def test_the_full_precision_product_is_a_product_and_leaves_the_setting():
    """The operator that GPUs use; its derivatives, and that the process keeps its own precision."""
    a, b, added = (torch.randn(2, 3, 3, dtype=torch.float64, requires_grad=True) for _ in range(3))
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        torch.testing.assert_close(full_precision_product(a, b, None), a @ b)
        torch.testing.assert_close(full_precision_product(a, b, added), a @ b + added)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.autograd.gradcheck(full_precision_product, (a, b, added))
    assert torch.autograd.gradcheck(lambda a, b: full_precision_product(a, b, None), (a, b))
