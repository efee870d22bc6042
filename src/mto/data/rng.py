"""Randomness as a function of a key: (seed, epoch, sample index, ...), never of a worker, a rank or the time.

Augmentations of timm, torchvision, mmseg and mmdet draw from the global generators of Python, NumPy and torch. Seeding
all three from a hash of the key around one sample makes the sample the same in any worker and in any resumed run.
"""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral
from typing import Any

import numpy as np
import torch
from numpy.random import get_bit_generator, set_bit_generator  # type: ignore[attr-defined]
from torch.utils.data import Dataset


def _words(key: tuple[int | str, ...]) -> np.ndarray:
    """Hashes a key to eight independent 32-bit words, the same on any machine and in any process.

    Python's own hash is salted.
    """
    for part in key:
        if not isinstance(part, (Integral, str)):
            raise TypeError(f"a random key is made of integers and strings, got {part!r} in {key!r}")
    text = repr(tuple(part if isinstance(part, str) else int(part) for part in key))
    return np.frombuffer(hashlib.blake2b(text.encode(), digest_size=32).digest(), dtype="<u4")


def seed_of(*key: int | str) -> int:
    """Returns a 63-bit seed for the key: everywhere the same for one key, and practically never the same for two.

    Example:
        >>> seed_of(0, "epoch", 3) == seed_of(0, "epoch", 3)
        True
    """
    return int(_words(key)[:2].view("<u8")[0]) >> 1


def generator(*key: int | str) -> torch.Generator:
    """Returns a CPU generator that is seeded from the key."""
    return torch.Generator().manual_seed(seed_of(*key))


#: NumPy bit generators to lend: making one takes 0.14 ms, and so does copying the global state away and back
_SPARE: list[np.random.MT19937] = []


@contextmanager
def seeded(*key: int | str) -> Iterator[None]:
    """Seeds the global generators of Python, NumPy and torch (CPU) from ``key``; puts the former ones back on leaving.

    The three get different words of the hash: NumPy and torch both run MT19937, and one seed would give both the same
    stream. CUDA generators are left alone. (NumPy's legacy generator caches every second normal draw; a value cached
    outside is dropped.) One entry and exit costs about 0.05 ms.
    """
    words = _words(key)
    python, numpy, pytorch = random.getstate(), get_bit_generator(), torch.get_rng_state()
    lent = _SPARE.pop() if _SPARE else np.random.MT19937(0)
    set_bit_generator(lent)
    np.random.seed(words[2])  # noqa: NPY002  (timm, mmseg and mmdet draw from the legacy generator)
    random.seed(words[3:5].tobytes())
    torch.default_generator.manual_seed(int(words[5]))
    try:
        yield
    finally:
        random.setstate(python)
        set_bit_generator(numpy)
        torch.set_rng_state(pytorch)
        _SPARE.append(lent)


class SeededDataset(Dataset):
    """A map-style dataset (mmseg's, mmdet's, any) whose item ``(epoch, index)`` is drawn from (seed, epoch, index).

    Everything else (``metainfo``, ``get_data_info``, ``full_init``, ...) is the wrapped dataset's. A plain ``index`` is
    read as epoch 0, which is what evaluation wants.
    """

    def __init__(self, dataset: Any, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: int | tuple[int, int]) -> Any:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        with seeded(self.seed, "sample", epoch, index):
            return self.dataset[index]

    def __getattr__(self, name: str) -> Any:
        # Reached only for names this wrapper lacks. While unpickling, `dataset` itself is not there yet.
        if name == "dataset" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.dataset, name)
