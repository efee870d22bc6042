"""The four baselines as plain modules: ``from mto.methods import SimMIM, MAE, BootMAE, ConMIM``.

Every method is built by keyword with timm's names, takes its mask from outside, ``method(images, mask)``, and returns a
dict of named loss terms with their sum under ``loss``. Classes are imported on first use, for quick start-up.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mto.names import BASELINES

if TYPE_CHECKING:
    from mto.methods.base import Method, Stream
    from mto.methods.bootmae import BootMAE
    from mto.methods.conmim import ConMIM
    from mto.methods.mae import MAE
    from mto.methods.simmim import SimMIM

__all__ = ["MAE", "BootMAE", "ConMIM", "Method", "SimMIM", "Stream"]

_HOME = {baseline.method: name for name, baseline in BASELINES.items()} | {"Method": "base", "Stream": "base"}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"mto.methods.{_HOME[name]}"), name)
    raise AttributeError(f"module 'mto.methods' has no attribute '{name}'")
