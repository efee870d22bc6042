"""Gram matrices of token states, S = X Xᵀ, and the tap that takes them from a residual stream.

MTO is a function of S alone: dot products are its entries, a cosine is S_ij / √(S_ii S_jj). So no sorted, stacked or
normalised copy of the tokens is made, and the gradient that reaches them is one product, (G + Gᵀ) X, G being that of S.

Products are float32 (float64 for float64 tokens) whatever autocast says, since raw dots overflow float16, and in full
precision where a GPU may take TF32: under it the gradient of a raw dot's entropy was off by 6 to 45 % in deep layers.
"""

import torch
from torch import Tensor


class Tap(torch.autograd.Function):
    """The states (B, T, D) of a residual stream -> the same states, to go on with, and their Gram matrices (B, T, T).

    The states are all that is saved, and the block that follows keeps them anyway. The gradient of S joins that of the
    stream when the backward pass comes by, so that no layer's waits for another's.

    S_ij is x_i . x_j, once as x_i's and once as x_j's. Whoever differentiates S hands over both: G + Gᵀ for G = dL/dS
    (`mto.losses.entropy.Pick` does).
    """

    @staticmethod
    def forward(x):
        return x.view_as(x), _gram(x)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, grad, both_sides):
        if both_sides is None:
            return grad
        (x,) = ctx.saved_tensors
        if grad is not None and grad.dtype == both_sides.dtype:
            return _product(both_sides, x.to(grad.dtype), grad)
        own = _product(both_sides, x.to(both_sides.dtype)).to(x.dtype)
        return own if grad is None else grad + own


class Gram(torch.autograd.Function):
    """Gram matrices without a stream: states (B, N, D) -> (B, N, N)."""

    @staticmethod
    def forward(x):
        return _gram(x)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, both_sides):
        (x,) = ctx.saved_tensors
        return _product(both_sides, x.to(both_sides.dtype)).to(x.dtype)


def _gram(x: Tensor) -> Tensor:
    x = x if x.dtype == torch.float64 else x.float()
    return _product(x, x.mT)


def _product(a: Tensor, b: Tensor, added: Tensor | None = None) -> Tensor:
    """Returns a b (+ added), batched, in full precision."""
    if a.is_cuda:
        return full_precision_product(a, b, added)
    with torch.autocast(a.device.type, enabled=False):
        return torch.bmm(a, b) if added is None else torch.baddbmm(added, a, b)


@torch.library.custom_op("mto::full_precision_product", mutates_args=())
def full_precision_product(a: Tensor, b: Tensor, added: Tensor | None) -> Tensor:
    """Returns a (B, I, K) times b (B, K, J), plus ``added`` (B, I, J) if there is one, without TF32.

    An operator of its own, because a compiled graph would do the product under whatever setting the process has when it
    runs. The setting is the host's: nothing waits for the device.
    """
    setting = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(a.device.type, enabled=False):
            return torch.bmm(a, b) if added is None else torch.baddbmm(added, a, b)
    finally:
        torch.set_float32_matmul_precision(setting)


@full_precision_product.register_fake
def _(a: Tensor, b: Tensor, added: Tensor | None) -> Tensor:
    return a.new_empty(a.shape[0], a.shape[1], b.shape[2])


def _keep(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:2])


def _derivative(ctx, grad):
    a, b = ctx.saved_tensors
    added = grad if ctx.needs_input_grad[2] else None
    return full_precision_product(grad, b.mT, None), full_precision_product(a.mT, grad, None), added


full_precision_product.register_autograd(_derivative, setup_context=_keep)
