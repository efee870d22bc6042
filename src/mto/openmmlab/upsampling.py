"""Bilinear resizing whose gradient is deterministic on a GPU, and as fast as the resizing itself.

Where kernels must be deterministic, torch replaces bilinear resizing on a GPU by gathers of the four neighbours, whose
gradient is a sorted ``index_put``; and it does so in validation too, where nobody asks for a gradient. But the kernel
that it replaces adds in no particular order in its backward pass alone. So here the forward pass is that kernel, and
the backward pass is the transposed resizing, which is two matrix products: one along the columns, one along the rows.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

Size = tuple[int, int]


class Bilinear(torch.autograd.Function):
    """Resizes (B, C, h, w) to (B, C, H, W), corners not aligned; its gradient is summed in float32 at least."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, size: Size) -> Tensor:
        ctx.size = x.shape[-2:]
        return torch.ops.aten.upsample_bilinear2d(x, size, False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (h, w), (to_h, to_w) = ctx.size, grad.shape[-2:]
        dtype = torch.promote_types(grad.dtype, torch.float32)
        with torch.autocast(grad.device.type, enabled=False):
            columns, rows = (weights(*pair, dtype, grad.device) for pair in ((w, to_w), (h, to_h)))
            return (rows @ (grad.to(dtype) @ columns.T)).to(grad.dtype), None


@lru_cache(maxsize=64)
def weights(source: int, target: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Returns (source, target): what each of ``source`` places in a row adds to each of ``target`` places."""
    basis = torch.eye(source, dtype=dtype)[None]
    return F.interpolate(basis, size=target, mode="linear", align_corners=False)[0].to(device)


def resize(
    input: Tensor,
    size: Size | None = None,
    scale_factor: float | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    warning: bool = True,
) -> Tensor:
    """Stands in for mmseg's function of this name, by `Bilinear` where torch would go its slow way."""
    slow = not input.is_cpu and torch.are_deterministic_algorithms_enabled()
    if slow and mode == "bilinear" and not align_corners and size is not None:
        return Bilinear.apply(input, tuple(int(side) for side in size))
    return F.interpolate(input, size, scale_factor, mode, align_corners)


def install() -> None:
    """Lets mmseg's heads and segmentors resize by `resize`; each of them has imported the function by name."""
    from mmseg.models.decode_heads import decode_head, psp_head, uper_head
    from mmseg.models.segmentors import base

    for module in (decode_head, psp_head, uper_head, base):
        assert hasattr(module, "resize"), module.__name__
        module.resize = resize
