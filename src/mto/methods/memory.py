"""How much a network keeps for its backward pass: the option ``memory`` of a stage's resources.

* ``fast``: whatever autograd keeps.
* ``lean``: a block's norms and activations are made again out of their inputs, which are kept anyway, and its largest
  weights in autocast's precision out of the weights. No matrix product is computed twice. A compiled step gets the same
  by the compiler's own means, within `BUDGET`.
* ``least``: of a block its input alone. The block runs again when the backward pass comes to it, with the random
  numbers that it had: a third more arithmetic.

An eager step has the same bits with each, since what is made again is made by the same operators of the same numbers.
Compiled steps round differently, as they do without compilation.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mto.names import Memory

#: What a compiled step may keep, as a share of what it would (torch's activation memory budget). With 0.7 the
#: partitioner still repeats no matrix product; ``least`` repeats blocks, and torch compiles these repetitions.
BUDGET: dict[Memory, float] = {"fast": 1.0, "lean": 0.7, "least": 1.0}

#: Tokens for each channel from which on a layer's weights are small beside what it makes, and cheaply made again.
MANY = 16


def spare(model: nn.Module, memory: Memory) -> None:
    """Lets the blocks of a network keep as much as ``memory`` says, in place; it may be called again.

    A block is a module with ``norm1`` and ``mlp``: timm's, BootMAE's decoders' and the dense backbones' are.
    Parameters, their names, and what passes without a gradient stay as they are.
    """
    for module in list(model.modules()):
        if (plain := getattr(type(module), "_plain", None)) is not None:
            module.__class__ = plain
    if memory == "fast":
        return
    for module in list(model.modules()):
        if hasattr(module, "norm1") and hasattr(module, "mlp"):
            if memory == "least":
                _become(module, _Least)
                continue
            _become(module, _Lean)
            for part in module.modules():
                if isinstance(part, nn.LayerNorm):
                    _become(part, _LeanNorm)
                elif isinstance(part, nn.GELU):
                    _become(part, _LeanActivation)
            _spare_weights(module.mlp)  # type: ignore[arg-type]
        elif memory == "lean" and isinstance(module, nn.Sequential):  # ConMIM's projector
            norms = [a for a, b in pairwise(module) if isinstance(a, nn.BatchNorm1d) and _overwrites(b)]
            for norm in norms:
                _become(module, _Lean)
                _become(norm, _LeanBatchNorm)
                _spare_weights(module)


def _spare_weights(module: nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, nn.Linear):
            _become(part, _LeanLinear)


def _overwrites(module: nn.Module) -> bool:
    return isinstance(module, nn.ReLU) and module.inplace


def _become(module: nn.Module, how: type) -> None:
    if not issubclass(type(module), how):
        module.__class__ = _subclass(type(module), how)  # type: ignore[arg-type]


@cache
def _subclass(plain: type, how: type) -> type:
    return type(plain.__name__, (how, plain), {"_plain": plain})


class _Least:
    """A block that keeps its input alone."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        forward: Callable[..., Any] = super().forward  # type: ignore[misc]
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)


class _Lean:
    """A module that does not keep what some of its parts make (`_Notes`)."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        forward: Callable[..., Any] = super().forward  # type: ignore[misc]
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        notes = _Notes()
        _noting.append(notes)
        try:
            with torch.autograd.graph.saved_tensors_hooks(notes.pack, _unpack):
                return forward(*args, **kwargs)
        finally:
            _noting.pop()
            notes.clear()  # autograd holds on to `pack`, and with it to all that was noted


class _LeanNorm:
    """A layer norm; its output is already in the precision that a matrix product takes."""

    def forward(self, x: Tensor) -> Tensor:
        forward: Callable[[Tensor], Tensor] = super().forward  # type: ignore[misc]
        if not _is_noting():
            return forward(x)
        dtype = _autocast(x)

        def make(x: Tensor) -> Tensor:
            return forward(x) if dtype is None else forward(x).to(dtype)

        return _noting[-1].note(make(x), make, x)


class _LeanActivation:
    """An activation function."""

    def forward(self, x: Tensor) -> Tensor:
        forward: Callable[[Tensor], Tensor] = super().forward  # type: ignore[misc]
        return _noting[-1].note(forward(x), forward, x) if _is_noting() else forward(x)


class _LeanLinear:
    """A linear layer that does not keep its weights in the precision of autocast, where it has `MANY` tokens."""

    weight: Tensor
    bias: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        forward: Callable[[Tensor], Tensor] = super().forward  # type: ignore[misc]
        dtype, few = _autocast(x), x.numel() < MANY * min(self.weight.shape) * x.shape[-1]
        if few or dtype is None or not _is_noting():
            return forward(x)

        def make(weight: Tensor) -> Tensor:
            return weight.to(dtype)

        bias = None if self.bias is None else self.bias.to(dtype)  # first, as autocast does: gradients come in turn
        return F.linear(x, _noting[-1].note(make(self.weight), make, self.weight), bias)


class _LeanBatchNorm:
    """A batch norm whose output a ReLU overwrites."""

    eps: float
    training: bool
    weight: Tensor
    bias: Tensor

    def forward(self, x: Tensor) -> Tensor:
        forward: Callable[[Tensor], Tensor] = super().forward  # type: ignore[misc]

        def make(x: Tensor) -> Tensor:  # the running statistics have seen this batch already
            return F.relu_(F.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps))

        return _noting[-1].note(forward(x), make, x) if _is_noting() and self.training else forward(x)


def made_again(y: Tensor, make: Callable[[Tensor], Tensor], x: Tensor) -> AbstractContextManager[None]:
    """Lets no operator within keep y, which is ``make(x)``, under any ``memory``."""
    # What a compiled step keeps is the compiler's choice.
    return nullcontext() if torch.compiler.is_compiling() else _made_again(y, make, x)


@contextmanager
def _made_again(y: Tensor, make: Callable[[Tensor], Tensor], x: Tensor) -> Iterator[None]:
    notes = _Notes()
    notes.note(y, make, x)
    with torch.autograd.graph.saved_tensors_hooks(notes.pack, _unpack):
        yield
    notes.clear()


class _Notes:
    """What one pass through a module does not keep, by storage: it is told from the tensors that autograd would keep.

    A tensor is recognised while it is alive alone, as it is where it is an operator's input; another that came to lie
    in its place is not taken for it, and is kept.
    """

    def __init__(self) -> None:
        self._made: dict[int, tuple[weakref.ref[Tensor], _Again]] = {}

    def note(self, y: Tensor, make: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Remembers that y is ``make(x)``, and returns it."""
        self._made[y.untyped_storage()._cdata] = weakref.ref(y), _Again(make, x)
        return y

    def clear(self) -> None:
        """Forgets all."""
        self._made.clear()

    def pack(self, tensor: Tensor) -> Any:
        """Returns what autograd is to keep in the place of a tensor."""
        reference, again = self._made.get(tensor.untyped_storage()._cdata, (None, None))
        y = reference() if reference is not None else None
        if again is None or y is None or (y.numel(), y.dtype) != (tensor.numel(), tensor.dtype):
            return tensor.detach()  # an output that its own graph keeps as it is would never be freed
        return again, tensor.shape, tensor.stride()


def _unpack(kept: Any) -> Tensor:
    if isinstance(kept, Tensor):
        return kept
    again, shape, stride = kept
    return again().as_strided(shape, stride)


class _Again:
    """A tensor that can be made again, under the autocast that there is now."""

    def __init__(self, make: Callable[[Tensor], Tensor], x: Tensor) -> None:
        self._make, self._x, self._dtype = make, x.detach(), _autocast(x)

    def __call__(self) -> Tensor:
        device = self._x.device.type
        with torch.no_grad(), torch.autocast(device, self._dtype) if self._dtype else nullcontext():
            return self._make(self._x)


def _autocast(x: Tensor) -> torch.dtype | None:
    """Returns what autocast turns floats into on the tensor's device; None where it does not."""
    device = x.device.type
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)


#: Of the passes that go on, the innermost last.
_noting: list[_Notes] = []


def _is_noting() -> bool:
    return bool(_noting) and torch.is_grad_enabled() and not torch.compiler.is_compiling()
