"""Quick start-up: imports without the garbage collector, and for small CPU jobs without what they never use.

The demo runs over a hundred short processes, and imports are much of their time. Measured, CPU seconds of a
fine-tuning's imports: 3.6 as they come, 2.2 with `lean`, of which torch itself takes 1.7.

* torchvision.ops imports torch's compiler, and so does the first optimiser step; torchvision imports its zoo.
* timm imports the hub's client, though no weights are fetched.
"""

import atexit
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

#: Optional packages and modules, which importing packages can do without.
ABSENT = ("huggingface_hub", "torchvision.models.feature_extraction")


@contextmanager
def uncollected() -> Iterator[None]:
    """Keeps the garbage collector off: imports set it off some thirty times, and what they make stays.

    So it need not be searched later either, and a loader's forked workers do not copy the pages that a search touches.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()
        atexit.register(gc.unfreeze)  # or what is frozen looks leaked to nanobind's modules, which say so at length


def lean() -> None:
    """Puts placeholders where the heavy parts would be imported; call it before torchvision or timm is imported."""
    if "torchvision" in sys.modules:
        return
    for name in ABSENT:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]
    sys.modules.setdefault("torchvision.models", ModuleType("torchvision.models"))
    if "torch._dynamo" not in sys.modules:
        _Compiler.install()


def complete() -> None:
    """Takes the placeholders of optional packages away again, for a library that cannot do without them."""
    for name in ABSENT:
        if sys.modules.get(name, name) is None:
            del sys.modules[name]


class _Compiler(ModuleType):
    """Stands for ``torch._dynamo`` until more of it is needed than the marks below; then the real one is imported."""

    @classmethod
    def install(cls) -> None:
        import torch

        compiler, utils = cls("torch._dynamo"), cls("torch._dynamo.utils")
        # Marks for a compiler that is not running: they change nothing.
        compiler.disable = lambda fn=None, recursive=True, **_: fn  # type: ignore[attr-defined]
        compiler.graph_break = lambda *_, **__: None  # type: ignore[attr-defined]
        utils.is_compile_supported = lambda device_type: False  # type: ignore[attr-defined]
        sys.modules[compiler.__name__] = torch._dynamo = compiler
        sys.modules[utils.__name__] = utils

    def __getattr__(self, name: str) -> Any:
        # The import system looks for marks such as __spec__; __path__ is asked for to import another submodule.
        if name.startswith("__") and (name, self.__name__) != ("__path__", "torch._dynamo"):
            raise AttributeError(name)
        for placeholder in ("torch._dynamo", "torch._dynamo.utils"):
            if isinstance(sys.modules.get(placeholder), _Compiler):
                del sys.modules[placeholder]
        return getattr(import_module(self.__name__), name)
