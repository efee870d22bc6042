"""ADE20K as Hugging Face's parquet, ``scene_parse_150`` with its configuration ``scene_parsing``.

Its columns are ``image`` and ``annotation``, whose pixels are 0 (no class) to 150, as in ADEChallengeData2016. It is a
gigabyte, and mmsegmentation reads files: the dataset's job writes them beside its manifest.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from mto.data.forms.parquet import columns_of, metadata, read_group, read_rows
from mto.data.forms.recognise import parquet_shards
from mto.errors import UserError

SPLITS = {"training": "train", "validation": "val"}


def unpack(root: Path, out: Path) -> Path:
    """Writes the challenge's folders, ``images`` and ``annotations``, below ``out``, and returns it.

    A split appears when it is whole; what a killed job left is written again.

    Raises:
        UserError: the parquet is of another ADE20K, or is damaged.
    """
    for split, short in SPLITS.items():
        making = out / ".unpacking" / split
        shutil.rmtree(making, ignore_errors=True)
        files = parquet_shards(root, split).files
        for path in files:
            _require_challenge(path)
        for kind in ("images", "annotations"):
            (making / kind).mkdir(parents=True)
        count = 0
        for path in files:
            for stem, image, annotation in _pairs(path, short, count):
                (making / "images" / f"{stem}.jpg").write_bytes(image)
                (making / "annotations" / f"{stem}.png").write_bytes(annotation)
                count += 1
        for kind in ("images", "annotations"):
            target = out / kind / split
            shutil.rmtree(target, ignore_errors=True)
            target.parent.mkdir(exist_ok=True)
            (making / kind).rename(target)
        print(f"ade20k: {count} pairs of {split} written below {out}", flush=True)
    shutil.rmtree(out / ".unpacking")
    return out


def _require_challenge(path: Path) -> None:
    columns = columns_of(path)
    if {"image.bytes", "annotation.bytes"} <= columns:
        return
    shown = ", ".join(sorted({name.partition(".")[0] for name in columns}))
    raise UserError(
        f"{path}: columns {shown}: not the 150 classes of scene parsing, which are `image` and `annotation` "
        "(zhoubolei/scene_parse_150, configuration scene_parsing); the full ADE20K has other labels"
    )


def _pairs(path: Path, split: str, before: int) -> Iterator[tuple[str, bytes, bytes]]:
    """Yields name without suffix, image and annotation of each row; a row without a name has one by its number."""
    for group in range(metadata(path).num_row_groups):
        names = read_rows(str(path), group, ["image.path"])["image"].combine_chunks().field("path").to_pylist()
        images, annotations = (read_group(str(path), group, f"{kind}.bytes") for kind in ("image", "annotation"))
        for row, name in enumerate(names):
            before += 1
            image, annotation = images[row].as_py(), annotations[row].as_py()
            if image is None or annotation is None:
                raise UserError(f"{path}: row {row} of group {group} has no image or no annotation; copy it again")
            yield Path(name or f"ADE_{split}_{before:08d}").stem, image, annotation
