"""ImageNet as Hugging Face's parquet shards, ``ILSVRC/imagenet-1k``.

Their columns are ``image`` (``bytes``, ``path``) and ``label``.

Parquet is compressed in pages, and pyarrow reads a row group (a hundred images there) at least: an image costs what a
hundred cost. Reading in any order is therefore slow; `mto.data.forms.convert` writes the images once as tar shards. A
process keeps the row group that it read last, so that reading in the files' order costs each but once.

A path has the WordNet id appended: ``n01440764_10026_n01440764.JPEG`` is ``n01440764/n01440764_10026.JPEG`` in class
folders.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mto.data.forms.form import Found, Listing, assemble, check_labels, watch
from mto.data.forms.recognise import SPLITS, parquet_shards
from mto.errors import UserError
from mto.storage import again

NAME = re.compile(r"(.+)_(n\d{8})(\.\w+)")
AGAIN = "copy it again from the dataset"


class Row(NamedTuple):
    """An image in a parquet file: a row of a row group."""

    path: str
    file: str
    group: int
    row: int

    def read(self) -> bytes:
        data = again(lambda: read_group(self.file, self.group), self.path)[self.row].as_py()
        if data is None:
            raise UserError(f"{self.path}: no bytes are there; {AGAIN}")
        return data


def walk(folder: Path, chosen: Sequence[str] | None = None) -> Listing:
    """Lists the split, by paths and labels alone.

    Raises:
        UserError: a shard is missing or damaged; the columns are others; labels are not those of the sorted ids.
    """
    files = _files(folder)
    with ThreadPoolExecutor(8) as pool:
        rows = list(pool.map(_rows, files))
    pairs = {(image.of, label) for of_file in rows for image, label in of_file}
    check_labels(pairs, f"{folder.parent}, {folder.name}")
    found = [
        image._replace(place=(number, *image.place[1:])) for number, of_file in enumerate(rows) for image, _ in of_file
    ]
    names = [os.path.relpath(path, folder.parent) for path in files]
    return assemble(folder, found, "parquet", names, changed(folder), chosen)


def changed(folder: Path, chosen: Sequence[str] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Returns the split's shards."""
    return watch(folder.parent, [os.path.relpath(path, folder.parent) for path in _files(folder)])


def member(folder: Path, listing: Listing, label: int, index: int) -> Row:
    """Returns the image's row."""
    file, group, row = listing.places[index].tolist()
    path = f"{folder.parent}/{os.fsdecode(listing.files[file])}"
    return Row(f"{path}/{os.fsdecode(listing.names[index])}", path, group, row)


def read_group(path: str, group: int, column: str = "image.bytes") -> Any:
    """Returns a column of bytes of a row group, as pyarrow's array. The last two that a process read are kept.

    Raises:
        UserError: the file is damaged.
    """
    return _column(path, os.stat(path).st_mtime_ns, group, column)


@lru_cache(2)
def _column(path: str, changed: int, group: int, column: str) -> Any:
    outer, _, inner = column.partition(".")
    return read_rows(path, group, [column])[outer].combine_chunks().field(inner)


def read_rows(path: str, group: int, columns: list[str]) -> Any:
    """Returns columns of a row group as pyarrow's table.

    Raises:
        UserError: the file is damaged.
    """
    try:
        with pq.ParquetFile(path, metadata=metadata(path), pre_buffer=False) as file:
            return file.read_row_group(group, columns=columns, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise _told(path, error) from error


def metadata(path: str | Path) -> Any:
    """Returns what the end of a file says of its row groups and columns.

    Raises:
        UserError: it is no parquet, or is cut off.
    """
    return _metadata(str(path), os.stat(path).st_mtime_ns)


@lru_cache(None)
def _metadata(path: str, changed: int) -> Any:
    try:
        return pq.read_metadata(path)
    except (pa.ArrowException, OSError) as error:
        raise _told(path, error) from error


def _told(path: str, error: Exception) -> Exception:
    """Returns a failure of the medium as it is; pyarrow raises an OSError without a number for damaged pages too."""
    if isinstance(error, OSError) and error.errno is not None:
        return error
    said = (str(error).splitlines() or [type(error).__name__])[0]
    return UserError(f"{path}: damaged, or not a whole parquet file ({said}); {AGAIN}")


def _files(folder: Path) -> list[Path]:
    found = parquet_shards(folder.parent, folder.name)
    if not found.files:
        raise UserError(f"{folder.parent}: no {SPLITS[folder.name][0]}-*.parquet is there")
    if found.problem:
        raise UserError(f"{folder.parent}: {found.problem}")
    return found.files


def columns_of(path: Path) -> set[str]:
    """Returns the names of a file's columns, parts of structures by their whole names."""
    schema = metadata(path).schema
    return {schema.column(number).path for number in range(len(schema))}


def _rows(path: Path) -> list[tuple[Found, int]]:
    if missing := {"image.bytes", "image.path", "label"} - columns_of(path):
        raise UserError(f"{path}: no column {min(missing)}; ILSVRC/imagenet-1k has image (bytes, path) and label")
    return list(images_of(path))


def images_of(path: Path) -> Iterator[tuple[Found, int]]:
    """Yields the images of a file and their labels, in its order; the place names no file yet."""
    for group in range(metadata(path).num_row_groups):
        table = read_rows(str(path), group, ["image.path", "label"])
        paths, labels = table["image"].combine_chunks().field("path").to_pylist(), table["label"].to_pylist()
        for row, (name, label) in enumerate(zip(paths, labels, strict=True)):
            match = NAME.fullmatch(Path(name or "").name)
            if label is None or label < 0:
                raise UserError(f"{path}: row {row} of group {group} has the label {label}: it is of a test split")
            if match is None:
                raise UserError(
                    f"{path}: path {name} does not end in a WordNet id, as n01440764_10026_n01440764.JPEG does: "
                    "this is not ILSVRC/imagenet-1k, and which class an image has cannot be told"
                )
            yield Found(match[2], f"{match[1]}{match[3]}", (0, group, row)), label
