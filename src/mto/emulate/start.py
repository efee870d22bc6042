"""Puts the emulated GPU in the place of a real one; must run before torch is imported."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import TYPE_CHECKING, Any

from mto.emulate.build import library
from mto.emulate.card import Card

if TYPE_CHECKING:
    from mto.emulate.values import Values

_started: Card | None = None
_library: Any = None
_values: Any = None


def start(card: Card) -> None:
    """Lets this process find ``card`` and no other GPU. A second call does nothing.

    torch binds to the functions that are there when it is loaded: the library's, which is loaded first, for all to see.

    Raises:
        UserError: the library cannot be built.
        RuntimeError: torch was imported before, and is bound to the real CUDA.
    """
    global _started, _library
    if _started is not None:
        return
    if "torch" in sys.modules:
        raise RuntimeError("a GPU is emulated from before torch is imported on")
    path = library()
    runtime = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL | os.RTLD_NOW)
    runtime.emulated_report.restype = ctypes.c_char_p
    chip = card.chip
    runtime.emulated_configure(
        card.count,
        int(card.compute_capability.replace(".", "")),
        ctypes.c_size_t(card.gigabytes << 30),
        chip.multiprocessors,
        chip.shared_of_a_block,
        chip.shared,
        chip.threads,
        chip.l2,
        int(card.values),
    )
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    # Triton links against the library, too; and what was tuned on a GPU without time is for no other.
    os.environ["TRITON_LIBCUDA_PATH"] = str(path.parent)
    for name in ("TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"):
        os.environ[name] = str(path.parent / f"{name.partition('_')[0].lower()}-{card.compute_capability}")
    if card.values:
        os.environ["TORCHDYNAMO_DISABLE"] = "1"  # a compiled kernel has no form that a CPU could run in its place
    _started, _library = card, runtime
    _prepare_torch(card)


def started() -> Card | None:
    """Returns the card that `start` has put in place, if it has."""
    return _started


def values() -> Values | None:
    """Returns what computes for the card in this process, if anything does."""
    return _values


def counted() -> dict[str, int]:
    """Returns how often what was asked of the runtime since `reset`.

    Keys are ``launch NAME``, ``wait CALL``, ``copy KIND``, ``bytes KIND`` and ``call NAME``; a kernel's name is its C++
    signature, a compiled one's begins with ``triton``.
    """
    lines = _runtime().emulated_report().decode(errors="replace").splitlines()
    return {what: int(count) for count, _, what in (line.partition("\t") for line in lines)}


def reset() -> None:
    """Sets all counts of `counted` to zero."""
    _runtime().emulated_reset()


def _runtime() -> Any:
    if _library is None:
        raise RuntimeError("no GPU is emulated in this process")
    return _library


def _prepare_torch(card: Card) -> None:
    """Keeps torch from what is not emulated: NVIDIA's monitor, cuDNN, NCCL."""
    global _values
    import torch
    from torch import distributed

    # The monitor's, which would count real GPUs: asked first, so that a process may fork before it uses CUDA.
    torch.cuda._device_count_nvml = lambda: card.count  # type: ignore[attr-defined]
    torch.backends.cudnn.enabled = False
    torch.backends.cuda.enable_cudnn_sdp(False)
    join = distributed.init_process_group

    def init_process_group(backend: str | None = None, *args: Any, **kwargs: Any) -> Any:
        return join("gloo" if backend == "nccl" else backend, *args, **kwargs)

    distributed.init_process_group = init_process_group
    if card.values:
        from mto.emulate.values import Values

        torch.backends.cuda.enable_flash_sdp(False)  # attention as products and a softmax, which a CPU has too
        torch.backends.cuda.enable_mem_efficient_sdp(False)
        _values = Values()
        _values.__enter__()
    else:
        from mto.emulate import convolutions, selections

        convolutions.install()
        selections.install()
