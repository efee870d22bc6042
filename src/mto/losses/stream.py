"""What MTO is given: token states, layer by layer, and a mask; and the checks that say what is wrong with them."""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor


class Stream(Protocol):
    """One sequence of token states, as the methods of this package return under ``hidden``."""

    @property
    def tokens(self) -> Sequence[Tensor]:
        """X^0 (before any position term) ... X^L, each (B, N, D)."""

    @property
    def position(self) -> Tensor | None:
        """(1 | B, N, D), added to X^0 for ``position="post"``."""

    @property
    def first_attention(self) -> Callable[[], Tensor] | Tensor | None:
        """(B, N, N) attention of block 1, mean over heads, or a call that computes it."""

    @property
    def final_norm(self) -> Callable[[Tensor], Tensor] | None:
        """What the network applies to X^L."""


class Tokens:
    """A Stream made of what a user of ``forward`` passes."""

    final_norm = None  # a user passes the states that are meant

    def __init__(self, tokens, position, first_attention):
        self.tokens, self.position, self.first_attention = tokens, position, first_attention


def layer_at(layers: list[Tensor], depth: int) -> Tensor:
    """A layer's tokens, negative depths from the end.

    Raises:
        ValueError: there is no such layer.
    """
    if not -len(layers) <= depth < len(layers):
        raise ValueError(f"sparsity_layers: no layer {depth}, the hidden states have layers 0 to {len(layers) - 1}")
    return layers[depth]


def check_shapes(hidden_states: Sequence[Tensor], mask: Tensor) -> None:
    """Nothing, if the states are a list of (B, N, D) floats and the mask is theirs.

    Raises:
        ValueError: they are not; with what is.
    """
    if isinstance(hidden_states, Tensor) or not len(hidden_states):
        raise ValueError("hidden_states: expected a list of (B, N, D) tensors, the initial embedding first")
    if mask.ndim != 2 or mask.dtype != torch.bool:
        raise ValueError(f"mask: expected (B, N) bool, True where masked; got {tuple(mask.shape)} {mask.dtype}")
    for depth, x in enumerate(hidden_states):
        if not isinstance(x, Tensor):
            raise ValueError(f"hidden_states[{depth}]: expected a (B, N, D) tensor, got {type(x).__name__}")
        if x.ndim != 3 or not x.is_floating_point():
            raise ValueError(f"hidden_states[{depth}]: expected (B, N, D) floats, got {tuple(x.shape)} {x.dtype}")
        if x.shape[1] == mask.shape[1] + 1:
            raise ValueError(
                f"hidden_states[{depth}] has {x.shape[1]} tokens but the mask {mask.shape[1]}: "
                "class token left in? Pass x[:, 1:]"
            )
        if x.shape[:2] != mask.shape:
            raise ValueError(f"hidden_states[{depth}] is {tuple(x.shape)} but the mask is {tuple(mask.shape)}")


def count_masked(mask: Tensor, num_masked: int | None, validate: bool) -> int | None:
    """The equal number of masked tokens, or None. Reads the mask's values (a sync on a GPU) only to validate.

    Raises:
        ValueError: an image has no masked or no visible token, or ``num_masked`` is not their number.
    """
    if num_masked is not None and not 0 < num_masked < mask.shape[1]:
        raise ValueError(f"num_masked={num_masked}: of {mask.shape[1]} tokens some must be masked and some visible")
    if torch.compiler.is_compiling() or not (validate or mask.device.type == "cpu"):
        return num_masked
    low, high = (int(v) for v in mask.sum(1).aminmax())
    if low == 0 or high == mask.shape[1]:
        raise ValueError("mask: an image has no " + ("masked" if low == 0 else "visible") + " token")
    if num_masked is not None and not low == high == num_masked:
        raise ValueError(f"num_masked={num_masked}, but the images have {low} to {high} masked tokens")
    return low if low == high and mask.device.type == "cpu" else num_masked
