"""Reading a dataset before GPUs are paid for: every file once, in parallel, with a line of progress.

``fast`` reads of every image the head (that it is one, and its size) and the end (that it is all there), every ADE20K
annotation whole, and COCO's JSON with all its references. ``full`` decodes every image too. A fault of a training image
that a job could do without is told from what no job should start with. Without torch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from mto.data import coco
from mto.data.forms.form import File, Member
from mto.data.images import by, fault, may_be_turned, size_of, sizes_of
from mto.data.listing import Images, load, walk
from mto.data.progress import over_processes
from mto.errors import UserError
from mto.storage import again

Level = Literal["fast", "full"]
CHUNK = 64


class Fault(NamedTuple):
    """A file and what is wrong with it. ``spare``: an unreadable training image; ``note``: to be known, no fault."""

    file: str
    what: str
    spare: bool = False
    note: bool = False


class _File(NamedTuple):
    """One file to look at: an image that may have a known size, or an ADE20K annotation of the image ``of``.

    ``stored``: the image, where it is no file of its own.
    """

    path: str
    size: tuple[int, int] | None = None
    of: str | None = None
    spare: bool = False
    stored: Member | None = None


Plan = tuple[list[_File], list[Fault]]


def verify(
    dataset: str,
    root: str | Path,
    num_classes: int,
    level: Level = "fast",
    workers: int = 1,
    classes: Sequence[str] | None = None,
    listing: str | Path = "",
) -> list[Fault]:
    """Finds every fault of a dataset whose layout is there (`mto.data.layout.check`), in the order of its files.

    Args:
        dataset: "imagenet", "ade20k" or "coco".
        num_classes: as the config has it.
        workers: processes.
        classes: of ImageNet, the class folders to look at; None: all.
        listing: of ImageNet, where it was listed already (`mto.data.listing`).
    """
    plans: dict[str, Callable[[Path, int], Plan]] = {
        "imagenet": partial(_imagenet, classes=classes, listing=listing),
        "ade20k": _ade20k,
        "coco": _coco,
    }
    files, faults = plans[dataset](Path(root), num_classes)
    labelled: dict[str, bool] = {}
    turned: list[str] = []
    look = partial(_look, num_classes=num_classes, decode=level == "full")
    chunks = [files[start : start + CHUNK] for start in range(0, len(files), CHUNK)]
    sizes = [len(chunk) for chunk in chunks]
    looks = over_processes(dataset, partial(_look_at_some, look), chunks, sizes, workers, chunk=8)
    for file, (what, has_labels, both) in zip(files, chain.from_iterable(looks), strict=True):
        if what:
            faults.append(Fault(file.path, what, file.spare))
        if both:
            turned.append(file.of or file.path)
        if file.of is not None:
            folder = str(Path(file.path).parent)
            labelled[folder] = labelled.get(folder, False) or has_labels
    faults += [
        Fault(folder, "no annotation has a class: all of it is 0") for folder, any_ in labelled.items() if not any_
    ]
    if turned:  # their sizes fit both ways
        what = (
            f"{len(turned)} images have an EXIF orientation that turns them; annotations are taken to be "
            "of the pixels as they are stored; where they are of the image as shown, turn its pixels and drop the tag"
        )
        faults.append(Fault(turned[0], what, note=True))
    return faults


def report(dataset: str, root: str | Path, faults: Sequence[Fault], *, spared: int) -> str | None:
    """Reports faults in words: one line for each of the first ten, and one for the number of the others.

    Args:
        spared: how many training images may be unreadable; the rest must be sound.

    Returns:
        What is to be said of images that jobs will pass over, or None.

    Raises:
        UserError: the dataset must not be trained on.
    """
    notes = [f"note: {fault.file}: {fault.what}" for fault in faults if fault.note]
    faults = [fault for fault in faults if not fault.note]
    if not faults:
        return "\n".join(notes) or None
    lines = notes + [f"{fault.file}: {fault.what}" for fault in faults[:10]]
    if len(faults) > 10:
        lines.append(f"{root}: {len(faults) - 10} more")
    grave = sum(not fault.spare for fault in faults)
    if grave or len(faults) > spared:
        limit = f"; datasets.{dataset}.bad_files: skip allows {spared} unreadable training images" if spared else ""
        lines.append(
            f"datasets.{dataset}: {len(faults)} faults at {root}; copy these files again from the dataset{limit}"
        )
        raise UserError("\n".join(lines))
    lines.append(
        f"datasets.{dataset}.bad_files: skip: a job that meets one of these takes its next neighbour, and counts it"
    )
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------- what there is to see
def _imagenet(root: Path, num_classes: int, classes: Sequence[str] | None, listing: str | Path) -> Plan:
    files, faults, named = [], [], {}
    for split in ("train", "val"):
        found = load(Path(listing), root / split, classes) or walk(root / split, classes)
        named[split] = found.classes.tolist()
        if len(named[split]) != num_classes:
            what = f"{len(named[split])} classes, but datasets.imagenet.num_classes is {num_classes}"
            faults.append(Fault(f"{root / split}", what))
        images = Images(root / split, found)
        members = (images[place] for place in images.in_order_of_files().tolist())
        files += [
            _File(member.path, spare=split == "train", stored=None if isinstance(member, File) else member)
            for member in members
        ]
    if named["train"] != named["val"]:
        faults.append(Fault(f"{root}", "the classes of train and val have different names"))
    return files, faults


def _ade20k(root: Path, num_classes: int) -> Plan:
    files = []
    for split in ("training", "validation"):
        folder = root / "images" / split
        for name in sorted(again(partial(os.listdir, folder), folder)):
            if name.endswith(".jpg") and not name.startswith("."):
                image = f"{root}/images/{split}/{name}"
                annotation = f"{root}/annotations/{split}/{name[:-4]}.png"
                files += [_File(image, spare=split == "training"), _File(annotation, of=image)]
    return files, []


def _coco(root: Path, num_classes: int) -> Plan:
    files: list[_File] = []
    faults: list[Fault] = []
    categories = {}
    for split in ("train2017", "val2017"):
        path = root / "annotations" / f"instances_{split}.json"
        try:
            content = coco.complete(json.loads(again(path.read_bytes, path)))
            there = set(again(partial(os.listdir, root / split), root / split))
            found = list(_instances(content, num_classes, there, split == "val2017"))
            if split == "train2017" and (count := coco.left_out(content)):
                of = f"{count} of {len(content['annotations'])} objects"
                what = f"{of} have no polygon of 3 points: training leaves them out"
                faults.append(Fault(f"{path}", what, note=True))
            faults += [Fault(f"{path}", what) for what in found[:20]]
            if len(found) > 20:
                faults.append(Fault(f"{path}", f"{len(found) - 20} more of these"))
            categories[split] = {c["id"]: c["name"] for c in content["categories"]}
            files += [
                _File(f"{root}/{split}/{i['file_name']}", (i["width"], i["height"]), spare=split == "train2017")
                for i in content["images"]
                if i["file_name"] in there
            ]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            faults.append(Fault(f"{path}", f"not COCO's instances as JSON ({type(error).__name__}: {error})"))
    if len(categories) == 2 and categories["train2017"] != categories["val2017"]:
        faults.append(Fault(f"{root}/annotations", "train2017 and val2017 have different categories"))
    return files, faults


def _instances(content: dict[str, Any], num_classes: int, there: set[str], evaluated: bool) -> Iterator[str]:
    """Yields what does not join in an annotation file, and what evaluation would fail on."""
    if len(content["categories"]) != num_classes:
        yield f"{len(content['categories'])} categories, but datasets.coco.num_classes is {num_classes}"
    for image in content["images"]:
        if image["file_name"] not in there:
            yield f"image {image['id']}: no file {image['file_name']}"
    yield from coco.problems(content)
    if evaluated:
        yield from coco.undrawable(content)


# ----------------------------------------------------------------------------------------------------- looking at files
Look = tuple[str | None, bool, bool]


def _look(file: _File, *, num_classes: int, decode: bool) -> Look:
    """Says what is wrong with a file, whether an annotation has a class, and whether an image may be turned by EXIF."""
    if file.of is None:
        image = file.stored or file.path
        what = fault(image, decode=decode, size=file.size)
        return what, False, not what and file.size is not None and may_be_turned(image, file.size)
    size = size_of(file.path)
    what = fault(file.path, decode=True, label=True)
    if what is None and size is not None and (sizes := sizes_of(file.of)) and size not in sizes:
        what = f"is {by(size)}, not {by(sizes[0])}"
    if what:
        return what, True, False
    highest = again(partial(_highest, file.path), file.path)
    if highest > num_classes:
        return f"value {highest} is above datasets.ade20k.num_classes, {num_classes} (0 is: no class)", True, False
    return None, highest > 0, size is not None and may_be_turned(file.of, size)


def _highest(path: str) -> int:
    with Image.open(path) as image:
        return int(np.asarray(image).max())


def _look_at_some(look: Any, files: list[_File]) -> list[Look]:
    return [look(file) for file in files]
