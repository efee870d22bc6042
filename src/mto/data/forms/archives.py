"""ImageNet's official archives, read in place: a tar of a thousand tars, a flat tar, and the development kit.

The tars are not compressed, so that an image is a range of bytes of the outer file. The classes of the validation
images are the kit's numbers, which do not follow the sorted WordNet ids: ``meta.mat`` says which number is which id.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mto.data.forms.form import Found, Listing, Piece, assemble, watch
from mto.data.forms.recognise import ARCHIVES, DEVKIT
from mto.data.layout import is_image
from mto.errors import UserError

BLOCK = tarfile.BLOCKSIZE


class Entry(NamedTuple):
    """A file in an archive: its name, and where its bytes are."""

    name: str
    offset: int
    size: int


def entries(path: Path, offset: int = 0, size: int | None = None) -> list[Entry]:
    """Returns the files of an uncompressed tar, or of one that lies inside a tar.

    Args:
        offset: where it begins.
        size: its bytes; None: to the file's end.

    Raises:
        UserError: it is no tar, or is cut off. tarfile takes one that ends between two files for whole.
    """
    end = path.stat().st_size if size is None else offset + size
    shown = path if size is None else f"{path} (the tar in it at byte {offset})"
    with path.open("rb") as file:
        file.seek(offset)
        try:
            with tarfile.open(fileobj=file, mode="r:") as archive:
                found = [Entry(entry.name, entry.offset_data, entry.size) for entry in archive if entry.isfile()]
        except tarfile.TarError as error:
            raise UserError(f"{shown}: not a whole tar ({error}); download it again") from error
        last = max((entry.offset + -(-entry.size // BLOCK) * BLOCK for entry in found), default=offset)
        file.seek(last)
        if last + BLOCK > end or file.read(BLOCK).strip(b"\0"):
            raise UserError(f"{shown}: cut off; download it again")
    return found


def walk(folder: Path, chosen: Sequence[str] | None = None) -> Listing:
    """Lists the split.

    Raises:
        UserError: an archive is cut off, or the kit has labels of other images.
    """
    path = folder.parent / ARCHIVES[folder.name]
    if not path.is_file():
        raise UserError(f"{path}: missing")
    found = list(_train(path) if folder.name == "train" else _val(path, folder.parent / DEVKIT))
    return assemble(folder, found, "archives", [path.name], changed(folder), chosen)


def changed(folder: Path, chosen: Sequence[str] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Returns the split's archive, and the kit where its labels come from there."""
    names = [ARCHIVES[folder.name], *([DEVKIT] if folder.name == "val" else [])]
    if missing := [name for name in names if not (folder.parent / name).is_file()]:
        raise UserError(f"{folder.parent}/{missing[0]}: missing")
    return watch(folder.parent, names)


def member(folder: Path, listing: Listing, label: int, index: int) -> Piece:
    """Returns the image's bytes in the archive."""
    file, offset, size = listing.places[index].tolist()
    path = f"{folder.parent}/{os.fsdecode(listing.files[file])}"
    inner = f"/{os.fsdecode(listing.classes[label])}.tar" if folder.name == "train" else ""
    return Piece(f"{path}{inner}/{os.fsdecode(listing.names[index])}", path, offset, size)


def _train(path: Path) -> Iterator[Found]:
    inner = [entry for entry in entries(path) if entry.name.endswith(".tar")]
    with ThreadPoolExecutor(8) as pool:  # a header every hundred kilobytes: reading them waits on the file system
        for outer, images in zip(inner, pool.map(lambda tar: entries(path, tar.offset, tar.size), inner), strict=True):
            of = Path(outer.name).stem
            for image in images:
                if is_image(Path(image.name).name):
                    yield Found(of, Path(image.name).name, (0, image.offset, image.size))


def _val(path: Path, kit: Path) -> Iterator[Found]:
    images = sorted((Path(entry.name).name, entry) for entry in entries(path) if is_image(Path(entry.name).name))
    classes = _kit(kit)
    if len(images) != len(classes):
        raise UserError(f"{path}: {len(images)} images, but {kit.name} has labels of {len(classes)}")
    for (name, entry), of in zip(images, classes, strict=True):
        yield Found(of, name, (0, entry.offset, entry.size))


def _kit(path: Path) -> list[str]:
    """Returns the WordNet id of each validation image, in the order of their names."""
    import scipy.io

    try:
        with tarfile.open(path) as archive:
            contents = {Path(entry.name).name: archive.extractfile(entry) for entry in archive if entry.isfile()}
            truth = contents["ILSVRC2012_validation_ground_truth.txt"].read().split()  # type: ignore[union-attr]
            meta: Any = scipy.io.loadmat(io.BytesIO(contents["meta.mat"].read()), squeeze_me=True)  # type: ignore[union-attr]
            ids = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in meta["synsets"].ravel()}
            return [ids[int(number)] for number in truth]
    except (tarfile.TarError, KeyError, ValueError, EOFError) as error:
        raise UserError(f"{path}: not the development kit ({error!r}); download it again") from error
