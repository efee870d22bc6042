"""What MTO is given: token states, layer by layer, and a mask; and the checks that say what is wrong with them."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor


class Recorder:
    """Keeps the states of a residual stream as they pass by.

    A method calls it on the initial embedding, then on each layer's output, and goes on with what it returns: the same
    values, out of which a tap may have taken more (`mto.losses.taps`).
    """

    #: What a tap took.
    taken: Any = None

    def __init__(self) -> None:
        self.tokens: list[Tensor] = []

    def __call__(self, x: Tensor, skip: int = 0, patches: Tensor | None = None) -> Tensor:
        """Keeps the patches of x (B, skip + N, D), which has ``skip`` other tokens first.

        Args:
            patches: the same patches, where x was made of them: what comes later has a gradient for them.
        """
        self.tokens.append(x[:, skip:] if patches is None else patches)
        return x


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

    @property
    def taken(self) -> Any:
        """What taps took (`mto.losses.taps`); may be absent."""


class Tokens:
    """A Stream made of what a user of ``forward`` passes."""

    final_norm = taken = None  # a user passes the states that are meant

    def __init__(self, tokens, position, first_attention):
        self.tokens, self.position, self.first_attention = tokens, position, first_attention


def depth_of(layer: int, depth: int) -> int:
    """Returns the place, from 0, of one of ``depth`` layers; negative ones count from the end.

    Raises:
        ValueError: there is no such layer.
    """
    if not -depth <= layer < depth:
        raise ValueError(f"sparsity_layers: no layer {layer}, the hidden states have layers 0 to {depth - 1}")
    return layer % depth


def check_shapes(hidden_states: Sequence[Tensor], mask: Tensor) -> None:
    """Checks that the states are a list of (B, N, D) floats and that the mask is theirs.

    Raises:
        ValueError: they are not; the message says what was given.
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
    """Returns the equal number of masked tokens, or None where it is not known.

    The mask's values are read (a sync on a GPU) only to validate.

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
