"""torch.compile for the training step: one graph, static shapes, and eager training where it cannot be had.

Compiled and eager steps round differently, so a run that is resumed bit for bit stays in one mode.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from mto.methods.memory import BUDGET
from mto.names import Memory

#: Of torch.compile.
BACKEND = "inductor"


class Compiled:
    """``function``, compiled at its first call; a compiler that fails is reported in one line, and left alone.

    The function is one graph: whatever would split it is an error here, not a slower run that nobody notices. (Where
    several processes share a step, torch itself cuts the graph at the buckets of gradients, which are exchanged while
    the rest of the backward pass runs.) It must depend on tensors, and on Python values that change rarely: each new
    value compiles it again.

    Args:
        backend: of torch.compile; `BACKEND` by default.
        memory: how much the forward pass keeps (`mto.methods.memory.BUDGET`).
    """

    def __init__(self, function: Callable[..., Any], backend: Any = None, memory: Memory = "fast") -> None:
        self.eager = function
        self._budget = BUDGET[memory]
        self._compiled: Callable[..., Any] | None = torch.compile(
            function, fullgraph=True, dynamic=False, backend=backend or BACKEND
        )

    @property
    def fell_back(self) -> bool:
        """Whether the compiler has failed."""
        return self._compiled is None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._compiled is None:
            return self.eager(*args, **kwargs)
        from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

        try:
            with _both_passes(self._budget):
                return self._compiled(*args, **kwargs)
        except (TorchDynamoException, FailOnRecompileLimitHit) as error:
            told = error if isinstance(error, TorchDynamoException) else error.__cause__ or error
            reason = " ".join(line.strip() for line in str(told).split("\n")[:2])
            print(f"mto: torch.compile failed, so this job trains eagerly and slower: {reason}", flush=True)
            self._compiled = None
            return self.eager(*args, **kwargs)


@contextmanager
def _both_passes(budget: float) -> Iterator[None]:
    """Has the backward pass compiled with the forward pass: a failure of either is known before a step is taken.

    That nothing of the compiler's depends on timings, or a resumed run would differ, is a part of torch's deterministic
    modes (`Hardware.deterministic`).
    """
    import torch._functorch.config

    with torch._functorch.config.patch(force_non_lazy_backward_lowering=True, activation_memory_budget=budget):
        yield


def parts(model: nn.Module) -> dict[str, Compiled]:
    """Returns what of a model's step is compiled, by the name of its attribute."""
    return {name: value for name, value in vars(model).items() if isinstance(value, Compiled)}


def fell_back(model: nn.Module) -> bool:
    """Returns whether the model trains eagerly though it was to be compiled."""
    return any(part.fell_back for part in parts(model).values())


def forget() -> None:
    """Drops all compiled code.

    Of one function torch compiles at most `recompile_limit` (8) variants in a process, and all models of a class share
    their functions. What is still in use is compiled again.
    """
    torch._dynamo.reset()
