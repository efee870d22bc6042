"""ImageNet as webdataset's tar shards, ``timm/imagenet-1k-wds`` above all, read in place by an index of offsets.

An image is a ``jpg`` beside a ``cls``, its label, and a ``json``, whose ``filename`` is what the image is called in
class folders. Keys of training images begin with the WordNet id. Those of validation images have none, so that their
labels are looked up among those of the training images.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mto.data.forms.archives import Entry, entries
from mto.data.forms.form import Found, Listing, Piece, assemble, check_labels, watch
from mto.data.forms.recognise import SPLITS, tar_shards
from mto.data.layout import is_image
from mto.errors import UserError

WORDNET_ID = re.compile(r"(?:^|/)(n\d{8})(?:[_/]|$)")


class _Sample(NamedTuple):
    """An image in a shard: what it is called, its label, its WordNet id where that is known, and its bytes' place."""

    name: str
    label: int
    of: str | None
    entry: Entry


def walk(folder: Path, chosen: Sequence[str] | None = None) -> Listing:
    """Lists the split.

    Raises:
        UserError: a shard is missing or cut off; an image has no label, or none that belongs to a WordNet id.
    """
    files = _files(folder)
    samples = _samples(files)
    where = f"{folder.parent}, {folder.name}"
    known = {(sample.of, sample.label) for _, sample in samples if sample.of}
    classes = check_labels(known, where)
    if any(sample.of is None for _, sample in samples):
        if folder.name == "train":
            raise UserError(f"{where}: no WordNet id in keys or in `filename` of json, by which classes are known")
        of_train = [(sample.of, sample.label) for _, sample in _samples(_files(folder.with_name("train"))) if sample.of]
        classes |= check_labels(of_train, f"{folder.parent}, train")
    if unknown := sorted({sample.label for _, sample in samples} - set(classes)):
        raise UserError(f"{where}: no training image has the label {unknown[0]}, so that its class is not known")
    found = [
        Found(sample.of or classes[sample.label], sample.name, (place, sample.entry.offset, sample.entry.size))
        for place, sample in samples
    ]
    names = [os.path.relpath(path, folder.parent) for path in files]
    return assemble(folder, found, "webdataset", names, changed(folder), chosen)


def changed(folder: Path, chosen: Sequence[str] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Returns the split's shards."""
    return watch(folder.parent, [os.path.relpath(path, folder.parent) for path in _files(folder)])


def member(folder: Path, listing: Listing, label: int, index: int) -> Piece:
    """Returns the image's bytes in its shard."""
    file, offset, size = listing.places[index].tolist()
    path = f"{folder.parent}/{os.fsdecode(listing.files[file])}"
    return Piece(f"{path}/{os.fsdecode(listing.names[index])}", path, offset, size)


def _files(folder: Path) -> list[Path]:
    found = tar_shards(folder.parent, folder.name)
    if not found.files:
        raise UserError(f"{folder.parent}: no *-{SPLITS[folder.name][0]}-*.tar is there")
    if found.problem:
        raise UserError(f"{folder.parent}: {found.problem}")
    return found.files


def _samples(files: Sequence[Path]) -> list[tuple[int, _Sample]]:
    with ThreadPoolExecutor(8) as pool:  # reading headers waits on the file system
        of_files = list(pool.map(_samples_of, files))
    return [(place, sample) for place, samples in enumerate(of_files) for sample in samples]


def _samples_of(path: Path) -> list[_Sample]:
    """Returns the images of a shard. A key is a member's name up to the first dot of its last part."""
    groups: dict[str, dict[str, Entry]] = {}
    for entry in entries(path):
        above, slash, last = entry.name.rpartition("/")
        stem, _, suffix = last.partition(".")
        if not stem:
            continue  # a hidden file
        parts = groups.setdefault(f"{above}{slash}{stem}", {})
        if suffix.lower() in parts:
            raise UserError(f"{path}: {entry.name} is there twice")
        parts[suffix.lower()] = entry
    with path.open("rb") as file:
        return list(_of_groups(path, groups, partial(os.pread, file.fileno())))


def _of_groups(path: Path, groups: dict[str, dict[str, Entry]], pread: partial[bytes]) -> Iterator[_Sample]:
    for key, parts in groups.items():
        images = [(suffix, entry) for suffix, entry in parts.items() if is_image(f"x.{suffix}")]
        if not images:
            continue
        if len(images) > 1:
            raise UserError(f"{path}: {key} has two images; a shard's key must be of one")
        try:
            told = {name: pread(parts[name].size, parts[name].offset) for name in ("json", "cls") if name in parts}
            facts = json.loads(told.get("json", b"{}"))
            label = int(told["cls"]) if "cls" in told else int(facts["label"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: {key} has no label in cls or json ({error!r})") from error
        filename = str(facts.get("filename") or f"{key}.{images[0][0]}")
        id_ = WORDNET_ID.search(filename) or WORDNET_ID.search(key)
        yield _Sample(Path(filename).name, label, id_[1] if id_ else None, images[0][1])
