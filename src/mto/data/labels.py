"""Few labels: the share of the training images whose labels a fine-tuning or a probe may use.

Pre-training sees every image without its label; what it has learned shows most where labels are few. The field's
protocols take 1 % and 10 % of ImageNet's (Chen et al., SimCLR, 2020, Section 6 and Table 7), balanced over the classes.
"""

from __future__ import annotations

import numpy as np
import torch

from mto.data.rng import generator

__all__ = ["count", "labelled"]


def count(images: int, share: float) -> int:
    """Returns how many of a class's images keep their labels: the share, rounded, and at least one."""
    return max(1, min(images, round(share * images)))


def labelled(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Chooses the images whose labels are used: a share of each class, and a smaller share is a part of a larger one.

    Args:
        labels: (n,) the class of every training image.
        share: above 0 and up to 1.
        seed: of the job: a run without and one with MTO are given the same images, and so is one from scratch.

    Returns:
        Their places, rising.
    """
    by_class = np.argsort(labels, kind="stable")
    classes, begins = np.unique(labels[by_class], return_index=True)
    chosen = []
    for label, places in zip(classes.tolist(), np.split(by_class, begins[1:]), strict=True):
        order = torch.randperm(len(places), generator=generator(seed, "labels", label)).numpy()
        chosen.append(places[order[: count(len(places), share)]])
    return np.sort(np.concatenate(chosen))
