"""The listing of a dataset's images: made once by the dataset's job, read by every process of the jobs that train.

To list ImageNet-1K is to ask a file system for 1.28 million names, or to walk through 140 GB of archives; to read its
listing, for 25 to 70 MB and the times at which 1,000 folders or files were changed last. What was changed since is
listed anew: what a job sees never depends on whether there is a listing.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from mto.data.forms.form import Listing, Member, form
from mto.data.forms.recognise import Name, recognise
from mto.files import replacing
from mto.storage import again

__all__ = ["NAME", "Images", "Listing", "load", "save", "walk"]

#: Beside the dataset's manifest.
NAME = "listing.npz"


class Images:
    """The images of a listing: ``images[index]`` is one that can be read (`mto.data.forms.form.Member`).

    Args:
        folder: the split's place below its dataset, ``root/train``, which need not be a folder.
        listing: of it.
    """

    def __init__(self, folder: Path, listing: Listing) -> None:
        self.folder = folder
        self.listing = listing
        self.labels = listing.labels()
        self.form: Name = listing.form.item().decode()

    def __len__(self) -> int:
        return len(self.listing.names)

    def __getitem__(self, index: int) -> Member:
        return form(self.form).member(self.folder, self.listing, int(self.labels[index]), index)

    def in_order_of_files(self) -> np.ndarray:
        """Returns the places of all images in the order in which they lie in their files."""
        if not len(self.listing.places):
            return np.arange(len(self))
        return np.lexsort(self.listing.places[:, ::-1].T)


def walk(folder: Path, chosen: Sequence[str] | None = None) -> Listing:
    """Lists a split, of whichever form its dataset has: all its classes, or those that are chosen.

    Args:
        folder: the split's place below its dataset, ``root/train``.

    Raises:
        UserError: the dataset's form has something wrong with it.
    """
    return again(lambda: form(recognise(folder.parent)).walk(folder, chosen), folder)


def save(path: Path, root: Path, splits: Iterable[str], chosen: Sequence[str] | None = None) -> None:
    """Walks a dataset's splits and writes their listings."""
    listings = {split: walk(root / split, chosen) for split in splits}
    arrays = {f"{split}/{field}": value for split in splits for field, value in listings[split]._asdict().items()}
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def load(path: Path, folder: Path, chosen: Sequence[str] | None = None) -> Listing | None:
    """Reads the listing of a split; None if there is none, or the dataset was changed since."""

    def read() -> Listing:
        with np.load(path) as arrays:
            return Listing(*(arrays[f"{folder.name}/{field}"] for field in Listing._fields))

    with suppress(OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
        found = again(read, path)
        name = recognise(folder.parent)
        watched, changed = form(name).changed(folder, chosen)
        if (
            found.form.item() == name.encode()
            and np.array_equal(found.watched, watched)
            and np.array_equal(found.changed, changed)
        ):
            return found
    return None
