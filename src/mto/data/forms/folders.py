"""Class folders: ``train/<class>/<image>`` and ``val/<class>/<image>``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from mto.data.forms.form import File, Listing, encoded, times
from mto.data.layout import class_folders, class_images


def walk(folder: Path, chosen: Sequence[str] | None = None) -> Listing:
    """Lists the images of all class folders, or of those that are chosen. An empty folder is a class too."""
    classes, _ = watched = changed(folder, chosen)
    with ThreadPoolExecutor(8) as pool:  # listing 1,000 folders waits on the file system
        names = list(pool.map(class_images, [folder / os.fsdecode(name) for name in classes]))
    flat = encoded(name for listed in names for name in listed)
    counts = np.array([len(listed) for listed in names], dtype=np.int64)
    nowhere = np.zeros((0, 3), np.int64)
    return Listing(classes, flat, counts, *watched, np.array(b"folders"), np.array([], dtype=bytes), nowhere)


def changed(folder: Path, chosen: Sequence[str] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Returns the class folders and when each was changed."""
    classes = class_folders(folder, chosen)
    return encoded(classes), times(folder / name for name in classes)


def member(folder: Path, listing: Listing, label: int, index: int) -> File:
    """Returns the image's file."""
    return File(f"{folder}/{os.fsdecode(listing.classes[label])}/{os.fsdecode(listing.names[index])}")
