"""Sorting tokens and back: values against plain indexing, gradients against finite differences, no scatter."""

import pytest
import torch

from mto.losses.order import TokenOrder


@pytest.fixture
def first() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.stack([torch.randperm(7, generator=generator) < 3 for _ in range(4)])


def tokens(*leading: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(*leading, 4, 7, 5, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("leading", [(), (2,)], ids=["tokens", "layers"])
def test_the_marked_tokens_come_first_and_both_sets_keep_their_order(first, leading):
    x, order = tokens(*leading), TokenOrder(first)
    expected = torch.stack(
        [torch.cat([x[..., i, first[i], :], x[..., i, ~first[i], :]], dim=-2) for i in range(4)], dim=-3
    )
    assert torch.equal(order.sort(x), expected)
    assert torch.equal(order.restore(expected), x)
    assert torch.equal(order.head(x, 3), expected[..., :3, :])


def test_the_sets_may_differ_in_size_between_images():
    first = torch.tensor([[True, False, True], [False, False, True]])
    x = torch.arange(6.0).view(2, 3, 1)
    assert TokenOrder(first).sort(x).flatten().tolist() == [0, 2, 1, 5, 3, 4]


@pytest.mark.parametrize("call", ["sort", "restore", "head"])
def test_gradients_are_right_to_the_second_order(first, call):
    order, x = TokenOrder(first), tokens()[:, :, :2].requires_grad_()

    def moved(x):
        return order.head(x, 3) if call == "head" else getattr(order, call)(x)

    torch.autograd.gradcheck(moved, x)
    torch.autograd.gradgradcheck(moved, x)


@pytest.mark.parametrize("call", ["sort", "restore", "head"])
def test_no_backward_pass_scatters(first, call):
    """Scatter and index_put sort every element's index on a GPU that must be deterministic."""
    operators = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            operators.append(func._schema.name)
            return func(*args, **(kwargs or {}))

    order, x = TokenOrder(first), tokens().requires_grad_()
    moved = order.head(x, 3) if call == "head" else getattr(order, call)(x)
    with Watch():
        moved.sum().backward()
    assert "aten::index_select" in operators
    assert not [name for name in operators if "scatter" in name or "index_put" in name or "index_add" in name]


def test_torch_func_maps_and_differentiates_it(first):
    x = tokens()

    def squares(x):
        return TokenOrder(first).sort(x).square().sum()

    torch.testing.assert_close(torch.func.grad(squares)(x), 2 * x)
    per_layer = torch.func.vmap(torch.func.grad(squares))(tokens(3))
    torch.testing.assert_close(per_layer, 2 * tokens(3))
