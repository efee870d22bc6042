"""Numbers of one training step: operators, floating-point operations, memory, time; and what the machine could do."""

from __future__ import annotations

import gc
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

Step = Callable[[], object]


class Operators(TorchDispatchMode):
    """Counts the operators that do work, by name: what has to be launched on a GPU, views left out.

    A fused optimiser's step is one operator. In compiled code there is nothing to count.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not (func.is_view or func._schema.name in ("aten::detach", "aten::_unsafe_view", "aten::lift_fresh")):
            self.counts[func._schema.name] += 1
        return func(*args, **(kwargs or {}))

    @property
    def total(self) -> int:
        return self.counts.total()


def operators(step: Step) -> int:
    with Operators() as mode:
        step()
    return mode.total


def flops(step: Step) -> int:
    """Counts the floating-point operations of matrix products, convolutions and attention, as torch does."""
    with FlopCounterMode(display=False) as mode:
        step()
    return mode.get_total_flops()


def memory(step: Step, device: torch.device) -> int:
    """Measures bytes: the allocator's peak on a GPU; on a CPU the distinct storages kept for the backward pass."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        step()
        return torch.cuda.max_memory_allocated(device)
    saved: dict[int, int] = {}
    alive = []  # no storage may be freed, or its address would be counted once for two tensors

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step()
    return sum(saved.values())


def seconds(step: Step, device: torch.device) -> float:
    """Returns the seconds that one call takes, the device's work included."""
    _wait(device)
    start = time.perf_counter()
    step()
    _wait(device)
    return time.perf_counter() - start


def interleaved(steps: dict[str, Step], device: torch.device, *, rounds: int, warmup: int) -> dict[str, float]:
    """Measures the median seconds of each step; they take turns, so that other load meets all of them."""
    for _ in range(warmup):
        for step in steps.values():
            step()
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            taken[name].append(seconds(step, device))
    return {name: sorted(values)[len(values) // 2] for name, values in taken.items()}


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Measures the floating-point operations a second of a large matrix product, of which a step's are a share."""
    side = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    best = min(seconds(lambda: a @ b, device) for _ in range(10))
    return 2 * side**3 / best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
