"""Weights, images and masks as a formula of a name and an index, so that two programs can agree on them without a file.

An integer hash in 32-bit arithmetic: the same numbers on every platform.
"""

import math
import zlib

import numpy as np
import torch
from torch import Tensor


def uniform(name: str, *shape: int) -> Tensor:
    """Numbers in [−1, 1), hashed from `name` and their index."""
    x = np.arange(math.prod(shape), dtype=np.uint32) + np.uint32(zlib.crc32(name.encode()))
    for _ in range(2):
        x ^= x >> np.uint32(16)
        x *= np.uint32(0x45D9F3B)
    x ^= x >> np.uint32(16)
    return torch.from_numpy((x.astype(np.float64) / 2**31 - 1).astype(np.float32)).reshape(shape)


def weight(name: str, like: Tensor, salt: str = "") -> Tensor:
    """A value for the entry `name` of a state dict: of the size that keeps activations near one."""
    if not like.is_floating_point() or "pos_embed" in name:
        return like.clone()  # counters, index tables and fixed positions stay what each side computes
    u = uniform(salt + name, *like.shape)
    leaf = name.rsplit(".", 1)[-1]
    if like.dim() > 1 and leaf == "weight":
        return u * math.sqrt(3.0 / like[0].numel())
    if leaf == "weight" or leaf == "running_var":
        return 1.0 + 0.2 * u
    if leaf.startswith("gamma"):
        return 0.3 + 0.1 * u
    return 0.3 * u  # biases, tokens, relative tables, running means


def images(name: str, batch: int, size: int) -> Tensor:
    """(batch, 3, size, size) with structure at two scales."""
    coarse = uniform(name + "/coarse", batch, 3, 4, 4)
    smooth = torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear", align_corners=False)
    return 1.5 * smooth + 0.5 * uniform(name, batch, 3, size, size)


def mask_noise(name: str, batch: int, patches: int) -> Tensor:
    """(batch, patches) in [0, 1); the patches with the smallest values are visible."""
    return (uniform(name, batch, patches) + 1) / 2


def mask_of(noise: Tensor, num_masked: int) -> Tensor:
    """The bool mask that keeps the smallest values of each row visible."""
    return noise.argsort(dim=1).argsort(dim=1) >= noise.shape[1] - num_masked
