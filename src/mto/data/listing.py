"""The listing of an image folder: made once by the dataset's job, read by every process of the jobs that train.

To list ImageNet-1K is to ask a file system for 1.28 million names; to read its listing, for 25 MB and the times at
which 1,000 folders were changed last. A folder that was changed since is listed anew: what a job sees never depends on
whether there is a listing.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mto.data.layout import class_folders, class_images
from mto.files import replacing

#: Beside the dataset's manifest.
NAME = "listing.npz"


class Listing(NamedTuple):
    """What a folder of class folders holds.

    Names are arrays of bytes: 1.28 million Python strings would be copied into every loader worker, page by page, as
    their reference counts change.

    Attributes:
        classes: (C,) the class folders' names, sorted.
        names: (n,) the images' names, class after class, each sorted.
        counts: (C,) images a class.
        changed: (C,) when each class folder was changed last, in nanoseconds.
    """

    classes: np.ndarray
    names: np.ndarray
    counts: np.ndarray
    changed: np.ndarray

    def labels(self) -> np.ndarray:
        """(n,) the place of each image's class among the classes."""
        return np.repeat(np.arange(len(self.classes)), self.counts)

    def paths(self, folder: Path) -> list[str]:
        """Of every image, below the folder that was listed."""
        classes = [os.fsdecode(name) for name in self.classes]
        pairs = zip(self.labels().tolist(), self.names.tolist(), strict=True)
        return [f"{folder}/{classes[label]}/{os.fsdecode(name)}" for label, name in pairs]


def walk(folder: Path, chosen: Sequence[str] | None = None) -> Listing:
    """List a folder: of all its class folders, or of those that are chosen."""
    classes, changed = _class_folders(folder, chosen)
    with ThreadPoolExecutor(8) as pool:  # listing 1,000 folders waits on the file system
        names = list(pool.map(class_images, [folder / os.fsdecode(name) for name in classes]))
    flat = np.array([os.fsencode(name) for listed in names for name in listed], dtype=bytes)
    return Listing(classes, flat, np.array([len(listed) for listed in names], dtype=np.int64), changed)


def save(path: Path, root: Path, splits: Iterable[str], chosen: Sequence[str] | None = None) -> None:
    """Walk a dataset's splits and write their listings."""
    listings = {split: walk(root / split, chosen) for split in splits}
    arrays = {f"{split}/{field}": value for split in splits for field, value in listings[split]._asdict().items()}
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def load(path: Path, folder: Path, chosen: Sequence[str] | None = None) -> Listing | None:
    """The listing of a folder, by its name; None if there is none, or the folder was changed since."""
    with suppress(OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile), np.load(path) as arrays:
        found = Listing(*(arrays[f"{folder.name}/{field}"] for field in Listing._fields))
        classes, changed = _class_folders(folder, chosen)
        if np.array_equal(found.classes, classes) and np.array_equal(found.changed, changed):
            return found
    return None


def _class_folders(folder: Path, chosen: Sequence[str] | None) -> tuple[np.ndarray, np.ndarray]:
    classes = class_folders(folder, chosen)
    with ThreadPoolExecutor(8) as pool:
        changed = list(pool.map(lambda name: (folder / name).stat().st_mtime_ns, classes))
    return np.array([os.fsencode(name) for name in classes], dtype=bytes), np.array(changed, dtype=np.int64)
