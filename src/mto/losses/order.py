"""Tokens in another order and back, by a gather in both directions.

The gradient of a permutation is the inverse permutation. Autograd does not know that an index is one: the backward pass
of its gather is a scatter-add, which on a GPU under deterministic algorithms sorts every element's index.
"""

import torch
from torch import Tensor


class TokenOrder:
    """An order of the N tokens of each image, with a marked set's tokens first; both sets keep their own order.

    Args:
        first: (B, N) bool, the tokens that come first.
    """

    def __init__(self, first: Tensor) -> None:
        self.shape = first.shape
        order = first.byte().argsort(dim=1, descending=True, stable=True)
        self._place = order.argsort(dim=1)
        starts = self._starts(first.shape[1])
        self._order, self._inverse = order + starts, (self._place + starts).flatten()

    def _starts(self, tokens: int) -> Tensor:
        """Returns (B, 1), the row of each image's first token, where an image has ``tokens`` tokens."""
        return torch.arange(0, self.shape[0] * tokens, tokens, device=self._place.device)[:, None]

    def sort(self, x: Tensor) -> Tensor:
        """Returns x (..., B, N, D), the marked set first."""
        return _take(x, self._order.flatten(), self._inverse, self.shape)

    def restore(self, x: Tensor) -> Tensor:
        """Returns x (..., B, N, D) in the tokens' own order again; it is the inverse of `sort`."""
        return _take(x, self._inverse, self._order.flatten(), self.shape)

    def head(self, x: Tensor, count: int) -> Tensor:
        """Returns the first ``count`` tokens of each image in this order: (..., B, count, D)."""
        batch = self.shape[0]
        # Whatever is not taken finds its gradient in a row of zeros after the last image.
        back = torch.where(self._place < count, self._place + self._starts(count), batch * count)
        return _take(x, self._order[:, :count].flatten(), back.flatten(), torch.Size((batch, count)))


def _take(x: Tensor, index: Tensor, back: Tensor, shape: torch.Size) -> Tensor:
    return _Take.apply(x.flatten(-3, -2), index, back).unflatten(-2, shape)


class _Take(torch.autograd.Function):
    """Rows ``index`` (K,) of x (..., R, D); ``back`` (R,) says where each row of x went, K for nowhere."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, index, back):
        return x.index_select(-2, index)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx, grad):
        index, back = ctx.saved_tensors
        if len(index) == len(back):  # a permutation, and so is its gradient
            return _Take.apply(grad, back, index), None, None
        nowhere = grad.new_zeros(*grad.shape[:-2], 1, grad.shape[-1])
        return torch.cat([grad, nowhere], dim=-2).index_select(-2, back), None, None
