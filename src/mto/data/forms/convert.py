"""Hugging Face's parquet shards written once as tar shards, from which images are read in any order at a file's pace.

One tar for one parquet file, in the form of `mto.data.forms.webdataset`, so that the copy is a dataset of its own which
others can read too. A killed job keeps the tars that it had finished.
"""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

from mto.data.forms.form import Found
from mto.data.forms.parquet import images_of, read_group
from mto.data.forms.recognise import CONVERTED, SPLITS, parquet_shards
from mto.data.progress import over_processes
from mto.errors import UserError
from mto.files import read_json, replacing, write_json

#: What the copy is being made of; beside the tars.
MAKING = "converting.json"
Part = tuple[Path, Path]


def convert(root: Path, target: Path, workers: int) -> None:
    """Writes the training and validation images of ``root`` below ``target``, or what is missing of them.

    A copy that is whole is left as it is, whatever became of ``root``.

    Args:
        workers: processes, of which each writes a tar at a time.

    Raises:
        UserError: ``target`` holds something else; the disk is too small; a parquet file is damaged.
    """
    if (target / CONVERTED).exists():
        return
    parts = [part for split in ("train", "val") for part in _parts(root, target, split)]
    made_of = {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path, _ in parts}
    if target.exists() and any(target.iterdir()) and read_json(target / MAKING) is None:
        raise UserError(f"{target}: not empty, and no copy was begun there; name another, datasets.imagenet.convert")
    if read_json(target / MAKING) != made_of:
        shutil.rmtree(target, ignore_errors=True)
        write_json(target / MAKING, made_of)
    missing = [part for part in parts if not part[1].exists()]
    needed, free = sum(path.stat().st_size for path, _ in missing) * 1.03, shutil.disk_usage(target).free
    if needed > free:
        raise UserError(
            f"{target}: the copy takes some {needed / 1e9:,.1f} GB more, and {free / 1e9:,.1f} GB are free; name a "
            "folder on another disk, datasets.imagenet.convert in config.yaml"
        )
    sizes = [sum(1 for _ in images_of(path)) for path, _ in missing]
    for _ in over_processes(f"{target}, tar shards", _write, missing, sizes, workers):
        pass
    (target / MAKING).replace(target / CONVERTED)


def _parts(root: Path, target: Path, split: str) -> Iterator[Part]:
    """Yields each parquet file of a split, and the tar that it becomes."""
    for number, path in enumerate(parquet_shards(root, split).files):
        yield path, target / f"imagenet-{SPLITS[split][0]}-{number:04d}.tar"


def _write(part: Part) -> None:
    source, target = part
    with replacing(target) as temporary, tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as archive:
        for image, label in images_of(source):
            data = read_group(str(source), image.place[1])[image.place[2]].as_py()
            for suffix, content in _members(image, label, data):
                entry = tarfile.TarInfo(f"{Path(image.name).stem}.{suffix}")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))


def _members(image: Found, label: int, data: bytes) -> Iterator[tuple[str, bytes]]:
    facts = {"filename": f"{image.of}/{image.name}", "label": label}
    yield "cls", str(label).encode()
    yield "jpg", data
    yield "json", json.dumps(facts, sort_keys=True).encode()
