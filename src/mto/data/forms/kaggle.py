"""Kaggle's ImageNet: class folders to train on, and one folder of validation images whose classes are in a table.

``LOC_val_solution.csv`` has a line an image, ``ImageId,PredictionString``: the first word is the class, and the numbers
after it are boxes.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mto.data.forms import folders
from mto.data.forms.form import File, Found, Listing, assemble, encoded, watch
from mto.data.forms.recognise import SOLUTION, kaggle_folder, solution
from mto.data.layout import class_images
from mto.errors import UserError


def walk(folder: Path, chosen: Sequence[str] | None = None) -> Listing:
    """Lists the split, the validation images by the table.

    Raises:
        UserError: the table and the folder hold other images.
    """
    place = _place(folder)
    files = [os.path.relpath(place, folder.parent)]
    if folder.name == "train":
        return folders.walk(place, chosen)._replace(form=np.array(b"kaggle"), files=encoded(files))
    table = _table(folder)
    names = class_images(place)
    unknown = [name for name in names if Path(name).stem not in table]
    if unknown:
        raise UserError(f"{place}: {len(unknown)} images are not in {SOLUTION}, e.g. {unknown[0]}")
    if missing := sorted(set(table) - {Path(name).stem for name in names}):
        raise UserError(f"{place}: {len(missing)} images that {SOLUTION} names are missing, e.g. {missing[0]}")
    found = [Found(table[Path(name).stem], name, (0, 0, 0)) for name in names]
    return assemble(folder, found, "kaggle", files, changed(folder), chosen)._replace(places=np.zeros((0, 3), np.int64))


def changed(folder: Path, chosen: Sequence[str] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Returns the class folders to train on; the folder of validation images and the table."""
    place = _place(folder)
    if folder.name == "train":
        return folders.changed(place, chosen)
    return watch(folder.parent, [os.path.relpath(path, folder.parent) for path in (place, _solution(folder))])


def member(folder: Path, listing: Listing, label: int, index: int) -> File:
    """Returns the image's file."""
    place = folder.parent / os.fsdecode(listing.files[0])
    if folder.name == "train":
        return folders.member(place, listing, label, index)
    return File(f"{place}/{os.fsdecode(listing.names[index])}")


def _place(folder: Path) -> Path:
    above = kaggle_folder(folder.parent)
    if above is None:
        raise UserError(f"{folder.parent}: ILSVRC/Data/CLS-LOC/train/ is missing")
    return above / folder.name


def _solution(folder: Path) -> Path:
    path = solution(folder.parent)
    if path is None:
        raise UserError(f"{folder.parent}: {SOLUTION} is missing, which has the classes of the validation images")
    return path


def _table(folder: Path) -> dict[str, str]:
    """Returns the class of each validation image, by its name without suffix."""
    path = _solution(folder)
    with path.open(newline="", encoding="utf-8") as file:
        lines = csv.DictReader(file)
        if not {"ImageId", "PredictionString"} <= set(lines.fieldnames or []):
            raise UserError(f"{path}: its columns are not ImageId and PredictionString; copy it again from the dataset")
        rows = [(line["ImageId"], line["PredictionString"]) for line in lines]
    if wrong := [image for image, words in rows if not (words or "").split()]:
        raise UserError(f"{path}: no class for {wrong[0]}; copy it again from the dataset")
    return {image: words.split()[0] for image, words in rows}
