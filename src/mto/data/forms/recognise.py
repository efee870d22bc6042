"""Which form a dataset has, by the names below its folder, and whether all of its files are there.

Without NumPy and without opening an archive: the Snakefile asks before anything starts.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple, get_args

Name = Literal["folders", "kaggle", "parquet", "archives", "webdataset"]
NAMES: tuple[Name, ...] = get_args(Name)

#: What a form is called where people read it.
TITLES: dict[Name, str] = {
    "folders": "class folders",
    "kaggle": "Kaggle's folders, with LOC_val_solution.csv",
    "parquet": "parquet shards, as Hugging Face has them",
    "archives": "the official archives",
    "webdataset": "webdataset's tar shards",
}

#: The splits, and what they are called in the names of shards.
SPLITS = {
    "train": ("train",),
    "val": ("validation", "val"),
    "training": ("train",),
    "validation": ("validation", "val"),
}
#: Where shards of parquet may lie: `hf download` keeps the repository's own folders.
PARQUET_FOLDERS = ("", "data", "default", "scene_parsing", "data/scene_parsing")

ARCHIVES = {"train": "ILSVRC2012_img_train.tar", "val": "ILSVRC2012_img_val.tar"}
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"

#: Lies beside the tar shards of a copy that is whole (`mto.data.forms.convert`).
CONVERTED = "converted.json"

SOLUTION = "LOC_val_solution.csv"
KAGGLE_FOLDERS = ("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "")


class Shards(NamedTuple):
    """The shards of a split, in the order of their numbers.

    Attributes:
        files: their paths.
        problem: what is wrong with the set of them, or None.
    """

    files: list[Path]
    problem: str | None = None


def place_of(root: str | Path, convert: str | Path | None) -> Path:
    """Returns where a dataset is read: its copy, once that is whole, else where it lies.

    Args:
        convert: the folder of the copy, `datasets.imagenet.convert`.
    """
    return Path(convert) if convert and (Path(convert) / CONVERTED).is_file() else Path(root)


def recognise(root: str | Path) -> Name:
    """Returns the form of an ImageNet at ``root``; "folders" where nothing speaks for another one.

    Class folders come first: whoever unpacked the archives often left them beside.
    """
    root = Path(root)
    if all(_has_folders(root / split) for split in ("train", "val")):
        return "folders"
    if any(parquet_shards(root, split).files for split in ("train", "val")):
        return "parquet"
    if any(tar_shards(root, split).files for split in ("train", "val")):
        return "webdataset"
    if any((root / name).is_file() for name in ARCHIVES.values()):
        return "archives"
    if solution(root) is not None:
        return "kaggle"
    return "folders"


def form_of(dataset: str, root: str | Path) -> str:
    """Returns what the form of a dataset is called."""
    if dataset == "imagenet":
        return TITLES[recognise(root)]
    return TITLES["parquet"] if is_parquet(dataset, Path(root)) else "images and annotations as files"


def is_parquet(dataset: str, root: Path) -> bool:
    """Returns whether ADE20K or COCO lies there as parquet, and not as files."""
    folder = {"ade20k": "images", "coco": "annotations"}[dataset]
    return not (root / folder).is_dir() and any(parquet_shards(root, split).files for split in ("train", "val"))


def problems(root: Path) -> Iterator[str]:
    """Yields what is missing of a dataset that is no class folders, by names and sizes alone."""
    form = recognise(root)
    if form in ("parquet", "webdataset"):
        yield from shard_problems(root, form, ("train", "val"))
    elif form == "archives":
        for name in (*ARCHIVES.values(), DEVKIT):
            if not (root / name).is_file():
                yield f"{name} is missing" + (" (it has the labels of the validation images)" if name == DEVKIT else "")
            elif said := _pointer(root / name):
                yield said
    elif form == "kaggle":
        folder = kaggle_folder(root)
        if folder is None or not _has_folders(folder / "train"):
            yield "ILSVRC/Data/CLS-LOC/train/<class>/ is missing"
        if folder is None or not (folder / "val").is_dir():
            yield "ILSVRC/Data/CLS-LOC/val/ is missing"


def shard_problems(root: Path, form: Name, splits: tuple[str, ...]) -> Iterator[str]:
    """Yields what is wrong with the shards of each split."""
    for split in splits:
        found = parquet_shards(root, split) if form == "parquet" else tar_shards(root, split)
        if not found.files:
            suffix = "parquet" if form == "parquet" else "tar"
            yield f"no {SPLITS[split][0]}-*.{suffix} is there"
        elif found.problem:
            yield found.problem
        yield from (said for path in found.files if (said := _pointer(path)))


def parquet_shards(root: Path, split: str) -> Shards:
    """Returns a split's ``train-00000-of-00294.parquet`` …, or ``train/0000.parquet`` … of a converted branch."""
    for folder in PARQUET_FOLDERS:
        for name in SPLITS[split]:
            if found := _numbered(root / folder, rf"{name}-(\d+)-of-(\d+)\.parquet"):
                return _in_order(found)
            if found := _numbered(root / folder / name, r"(\d+)\.parquet"):
                return _in_order(found)
    return Shards([])


def tar_shards(root: Path, split: str) -> Shards:
    """Returns a split's ``imagenet1k-train-0000.tar`` …; validation shards may have two digits."""
    for name in SPLITS[split]:
        if found := _numbered(root, rf".+-{name}-(\d+)\.tar"):
            return _in_order(found)
    return Shards([])


def kaggle_folder(root: Path) -> Path | None:
    """Returns the folder that has Kaggle's ``train`` and ``val``: ``root`` itself may be it, or be above it."""
    return next((root / name for name in KAGGLE_FOLDERS if (root / name / "train").is_dir()), None)


def solution(root: Path) -> Path | None:
    """Returns the path of Kaggle's labels of the validation images, in ``root`` or just above it."""
    if kaggle_folder(root) is None:
        return None
    above = (root, *root.absolute().parents[:3]) if not (root / "ILSVRC").is_dir() else (root,)
    return next((folder / SOLUTION for folder in above if (folder / SOLUTION).is_file()), None)


def _numbered(folder: Path, pattern: str) -> list[tuple[Path, re.Match[str]]]:
    if not folder.is_dir():
        return []
    return [(folder / name, match) for name in os.listdir(folder) if (match := re.fullmatch(pattern, name))]


def _in_order(found: list[tuple[Path, re.Match[str]]]) -> Shards:
    found.sort(key=lambda pair: (int(pair[1][1]), pair[0].name))
    numbers = [int(match[1]) for _, match in found]
    totals = {int(match[2]) for _, match in found if match.re.groups == 2}
    files = [path for path, _ in found]
    total = max(totals, default=max(numbers) + 1)
    if len(totals) > 1 or len(set(numbers)) < len(numbers):
        return Shards(files, f"{files[0].parent}: shards of two sets are mixed there, e.g. {files[0].name}")
    if missing := sorted(set(range(total)) - set(numbers)):
        example = files[0].name.replace(found[0][1][1], str(missing[0]).zfill(len(found[0][1][1])), 1)
        return Shards(files, f"{len(missing)} of {total} shards are missing, e.g. {example}")
    return Shards(files)


def _pointer(path: Path) -> str | None:
    """Says if a file is empty, or a pointer that Git without LFS leaves in a large file's place; else None."""
    if path.stat().st_size > 1024:
        return None
    if not path.stat().st_size:
        return f"{path.name} is empty"
    if path.read_bytes().startswith(b"version https://git-lfs"):
        return f"{path.name} is a pointer of git-lfs and not the file itself (git lfs pull)"
    return None


def _has_folders(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    with os.scandir(folder) as entries:
        return any(entry.is_dir() and not entry.name.startswith(".") for entry in entries)
