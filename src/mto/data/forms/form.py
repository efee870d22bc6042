"""What every form of ImageNet gives: a list of its images, which is the same for each form, and a way to read one.

A form is a module of four functions (`Form`). Its list is in the order of class folders, class after class, each sorted
by name, with the names that the images have there, so that a run on another form of the same images is the same run.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, Protocol, cast

import numpy as np

from mto.data.forms.recognise import Name
from mto.data.images import contents
from mto.errors import UserError
from mto.storage import again


class Listing(NamedTuple):
    """What a split holds.

    Names are arrays of bytes: 1.28 million Python strings would be copied into every loader worker, page by page, as
    their reference counts change.

    Attributes:
        classes: (C,) the classes' names, sorted.
        names: (n,) the images' names, class after class, each sorted.
        counts: (C,) images a class.
        watched: what the list depends on: class folders, or files below the dataset.
        changed: when each of those was changed last, in nanoseconds.
        form: its name, as bytes.
        files: (F,) the files or folders below the dataset that hold the images; none of class folders.
        places: (n, 3) of each image: the place of its file among ``files``; offset and bytes in an archive, or row
            group and row in parquet. (0, 3) where an image is a file.
    """

    classes: np.ndarray
    names: np.ndarray
    counts: np.ndarray
    watched: np.ndarray
    changed: np.ndarray
    form: np.ndarray
    files: np.ndarray
    places: np.ndarray

    def labels(self) -> np.ndarray:
        """Returns (n,) the place of each image's class among the classes."""
        return np.repeat(np.arange(len(self.classes)), self.counts)

    @property
    def content(self) -> str:
        """A digest of classes and names, which is that of every form of the same images."""
        content = hashlib.sha256()
        for array in (self.classes, self.names, self.counts):
            content.update("\n".join(map(str, array.tolist())).encode())
        return content.hexdigest()

    @property
    def nbytes(self) -> int:
        """Bytes that it takes in memory."""
        return sum(array.nbytes for array in self)


class Member(Protocol):
    """One image of a dataset: small, so that it travels to other processes.

    Attributes:
        path: for messages and records; that of the file, where the image is one.
    """

    @property
    def path(self) -> str: ...

    def read(self) -> bytes:
        """Returns the image file's bytes.

        Raises:
            UserError: they cannot be read, or are cut off.
        """


class File(NamedTuple):
    """An image that is a file."""

    path: str

    def read(self) -> bytes:
        return contents(self.path)


class Piece(NamedTuple):
    """An image in an uncompressed archive, which is opened for each image: ``size`` bytes from ``offset`` on."""

    path: str
    file: str
    offset: int
    size: int

    def read(self) -> bytes:
        return contents(self.file, self.offset, self.size, shown=self.path)


class Form(Protocol):
    """A module of this package. ``folder`` is always the split's place below the dataset, ``root/train``."""

    def walk(self, folder: Path, chosen: Sequence[str] | None) -> Listing:
        """Returns the split's list: of all classes, or of those that are chosen."""

    def changed(self, folder: Path, chosen: Sequence[str] | None) -> tuple[np.ndarray, np.ndarray]:
        """Returns what a list depends on, as names and times in nanoseconds: while both are the same, it holds."""

    def member(self, folder: Path, listing: Listing, label: int, index: int) -> Member:
        """Returns one image of the list."""


def form(name: Name) -> Form:
    """Returns the module of a form; pyarrow is imported for parquet alone."""
    return cast("Form", import_module(f"mto.data.forms.{name}"))


def watch(root: Path, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the names of files below ``root``, and when each was changed last."""
    return encoded(names), times(root / name for name in names)


def times(paths: Iterable[Path]) -> np.ndarray:
    """Returns when each file or folder was changed last, in nanoseconds."""
    with ThreadPoolExecutor(8) as pool:  # a stat waits on the file system
        return np.array(list(pool.map(lambda path: again(path.stat, path).st_mtime_ns, paths)), dtype=np.int64)


def encoded(names: Iterable[str | Path]) -> np.ndarray:
    """Returns names of files as an array of bytes."""
    return np.array([os.fsencode(name) for name in names], dtype=bytes)


class Found(NamedTuple):
    """An image while a list is made: its class, its name, and its place (see `Listing.places`)."""

    of: str
    name: str
    place: tuple[int, int, int]


def assemble(
    folder: Path,
    found: Sequence[Found],
    name: Name,
    files: Sequence[str],
    watched: tuple[np.ndarray, np.ndarray],
    chosen: Sequence[str] | None,
) -> Listing:
    """Returns the list of images that were found in any order.

    Raises:
        UserError: two images of a class have one name, or a class that was chosen has none.
    """
    if chosen is not None:
        wanted = set(chosen)
        found = [image for image in found if image.of in wanted]
    if not found:
        raise UserError(f"{folder.parent}: no image of the split {folder.name} is there")
    of, names = encoded(image.of for image in found), encoded(image.name for image in found)
    order = np.lexsort((names, of))
    of, names = of[order], names[order]
    twice = (of[1:] == of[:-1]) & (names[1:] == names[:-1])
    if twice.any():
        at = int(np.flatnonzero(twice)[0])
        example = f"{os.fsdecode(of[at])}/{os.fsdecode(names[at])}"
        raise UserError(f"{folder.parent}: {folder.name} holds {int(twice.sum())} images twice, e.g. {example}")
    classes, counts = np.unique(of, return_counts=True)
    places = np.array([image.place for image in found], dtype=np.int64)[order]
    return Listing(classes, names, counts, *watched, np.array(name.encode()), encoded(files), places)


def check_labels(pairs: Iterable[tuple[str, int]], where: str) -> dict[int, str]:
    """Returns the class of each label.

    Args:
        pairs: of each image its class's WordNet id, and its label.

    Raises:
        UserError: labels are not the places of the sorted ids: they are of another list, and nothing says which.
    """
    of: dict[int, str] = {}
    for name, label in set(pairs):
        if label < 0:
            raise UserError(f"{where}: label {label} (a test split has no labels); train and validation have them")
        if of.setdefault(label, name) != name:
            raise UserError(f"{where}: label {label} is both {min(of[label], name)} and {max(of[label], name)}")
    by_label = [of[label] for label in sorted(of)]
    wrong = [(a, b) for a, b in pairwise(by_label) if a >= b]
    if wrong:
        first, second = wrong[0]
        raise UserError(f"{where}: labels must follow the sorted WordNet ids, but {first} is before {second}")
    return of
