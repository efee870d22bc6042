"""Convolutions where nothing computes: what cuDNN, which is not emulated, would leave in memory.

torch's own kernels, which would stand in, unfold every image first. cuDNN's workspaces are not counted: those of the
deterministic algorithms that torch picks are small beside a network's activations.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_library = torch.library.Library("aten", "IMPL")


def install() -> None:
    """Registers the stand-ins on CUDA devices, for eager and for compiled code."""
    _library.impl("convolution", _convolution, "CUDA")
    _library.impl("convolution_backward", _convolution_backward, "CUDA")


def _convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Tensor:
    shape = torch.ops.aten.convolution(
        *(tensor if tensor is None else tensor.to("meta") for tensor in (input, weight, bias)),
        stride,
        padding,
        dilation,
        transposed,
        output_padding,
        groups,
    ).shape
    return torch.empty(shape, dtype=input.dtype, device=input.device)


def _convolution_backward(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    output_mask: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    shapes = input.shape, weight.shape, bias_sizes or weight.shape[:1]
    # Contiguous whatever the inputs are, as torch foretells it without cuDNN; compiled code relies upon that.
    made = (torch.empty(shape, dtype=weight.dtype, device=weight.device) for shape in shapes)
    first, second, third = (tensor if wanted else None for tensor, wanted in zip(made, output_mask, strict=True))
    return first, second, third
