"""Are the paper's datasets where the config says, and complete? Fast, and without torch: the Snakefile asks first."""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

from mto.data.forms.recognise import is_parquet, recognise, shard_problems
from mto.data.forms.recognise import problems as form_problems
from mto.errors import UserError
from mto.storage import again, exists, is_folder

IMAGE_SUFFIXES = (
    ".jpeg",
    ".jpg",
    ".png",
    ".ppm",
    ".bmp",
    ".pgm",
    ".tif",
    ".tiff",
    ".webp",
)  # torchvision's ImageFolder

Found = tuple[dict[str, int], list[str]]
Look = Callable[[Path, Mapping[str, int]], Found]
#: what a complete copy holds: class folders (ImageNet-1K) or files
EXPECTED: dict[str, dict[str, int]] = {
    "imagenet": {"train": 1000, "val": 1000},
    "ade20k": {"training": 20210, "validation": 2000},
    "coco": {"train2017": 118287, "val2017": 5000},
}
#: of what a study asks for that takes some class folders of ImageNet
CHOSEN = (
    "train/<class>/*.JPEG and val/<class>/*.JPEG, for each of the {train} folders that datasets.imagenet.classes names"
)
#: for whoever has other classes than ImageNet-1K's
OWN = " (datasets.imagenet.num_classes says how many, datasets.imagenet.classes which)"
TITLES = {"imagenet": "ImageNet-1K", "ade20k": "ADE20K (SceneParse150)", "coco": "COCO 2017"}
LAYOUTS = {
    "imagenet": "train/<class>/*.JPEG and val/<class>/*.JPEG, the same {train} class folders in both",
    "ade20k": "images/{{training,validation}}/*.jpg and annotations/{{training,validation}}/*.png, "
    "{training} and {validation} pairs of one name",
    "coco": "train2017/*.jpg ({train2017}), val2017/*.jpg ({val2017}), annotations/instances_{{train,val}}2017.json",
}


def check(
    dataset: str,
    root: str | Path,
    config_key: str | None = None,
    expected: Mapping[str, int] | None = None,
    classes: Sequence[str] | None = None,
    num_classes: int | None = None,
) -> dict[str, int]:
    """Looks for a dataset's folders and counts what they hold, opening no image.

    Args:
        dataset: "imagenet", "ade20k" or "coco".
        root: the dataset's folder.
        config_key: the key of config.yaml that names ``root``, for the message; default ``datasets.<dataset>.root``.
        expected: counts other than the real ones (for data made small).
        classes: of ImageNet, the class folders that must be there; others are passed over. None: all.
        num_classes: of ImageNet, how many class folders there must be where ``classes`` names none; None: its 1,000.

    Returns:
        The counts found, by split: of class folders, or of files; of archives and shards nothing is counted here.

    Raises:
        UserError: one line with everything missing, the layout expected and the key to set.
    """
    expected = dict(expected or EXPECTED[dataset])
    title, layout = TITLES[dataset], LAYOUTS[dataset]
    if classes is None and dataset == "imagenet" and num_classes and num_classes != expected["train"]:
        expected = dict.fromkeys(expected, num_classes)
        title = f"dataset of {num_classes} class folders (datasets.imagenet.num_classes)"
    if classes is not None:
        expected = dict.fromkeys(expected, len(classes))
        title, layout = f"{len(classes)} classes of {title}", CHOSEN
    root, key = Path(root), config_key or f"datasets.{dataset}.root"
    looks: dict[str, Look] = {"imagenet": partial(_imagenet, chosen=classes), "ade20k": _ade20k, "coco": _coco}
    if is_folder(root):
        counts, problems = again(lambda: looks[dataset](root, expected), root)
    else:
        counts, problems = {}, ["there is no such folder"]
    if problems:
        raise UserError(
            f"{key}: no complete {title} at {root}: {'; '.join(problems)}. "
            f"Expected there: {layout.format(**expected)}. "
            f"Put the dataset there, or set `{key}` in config.yaml to the folder that holds it."
        )
    return counts


def _imagenet(root: Path, expected: Mapping[str, int], chosen: Sequence[str] | None = None) -> Found:
    if recognise(root) != "folders":
        return {}, list(form_problems(root))
    counts, problems, classes = {}, [], {}
    for split, number in expected.items():
        folder = root / split
        if not is_folder(folder):
            problems.append(f"{split}/ is missing")
            continue
        entries = again(partial(os.listdir, folder), folder)
        classes[split] = set(class_folders(folder, chosen))
        counts[split] = len(classes[split])
        if chosen is not None and counts[split] != number:
            lacking = sorted(set(chosen) - classes[split])
            problems.append(f"{split}/ lacks {len(lacking)} of the {number} class folders, e.g. {lacking[0]}")
        elif counts[split] != number:
            loose = len(entries) - counts[split]
            hint = f" and {loose} loose files (sort them into class folders)" if loose else ""
            problems.append(f"{split}/ holds {counts[split]} class folders instead of {number}{hint}{OWN}")
        empty = sorted(name for name in classes[split] if not _some_image(folder / name))
        if empty:
            problems.append(f"{split}/ has {len(empty)} class folders without an image, e.g. {empty[0]}")
    if not problems and len(set(map(frozenset, classes.values()))) > 1:
        problems.append(f"the class folders of {' and '.join(classes)} have different names")
    return counts, problems


def _ade20k(root: Path, expected: Mapping[str, int]) -> Found:
    if is_parquet("ade20k", root):
        return {}, list(shard_problems(root, "parquet", tuple(expected)))
    if not (root / "annotations").is_dir() and (full := _full_ade20k(root)):
        return {}, [full]
    counts, problems = {}, []
    for split, number in expected.items():
        images = _stems(root / "images" / split, ".jpg")
        labels = _stems(root / "annotations" / split, ".png")
        for folder, found in ((f"images/{split}", images), (f"annotations/{split}", labels)):
            if found is None:
                problems.append(f"{folder}/ is missing")
        if images is None or labels is None:
            continue
        counts[split] = len(images & labels)
        if counts[split] != number or images ^ labels:
            parts = f"{len(images)} images, {len(labels)} annotations{_other_case(root / 'images' / split, '.jpg')}"
            problems.append(f"{split} holds {counts[split]} pairs instead of {number} ({parts})")
    return counts, problems


def _full_ade20k(root: Path) -> str | None:
    """Says if this is the full ADE20K (2016 or 2021), whose `*_seg.png` have thousands of classes; else None."""
    for folder in ("images/ADE", "images/training", "ADE20K_2021_17_01", "ADE20K_2016_07_26"):
        inside = next(iter((root / folder).glob("**/*_seg.png")), None) if (root / folder).is_dir() else None
        if inside is not None:
            return (
                f"{folder}/ is of the full ADE20K, whose labels ({inside.name}) are not the 150 classes of scene "
                "parsing: ADEChallengeData2016.zip has them, from data.csail.mit.edu/places/ADEchallenge"
            )
    return None


def _coco(root: Path, expected: Mapping[str, int]) -> Found:
    if is_parquet("coco", root):
        return {}, [
            "COCO lies there as parquet, which has boxes and no masks (objects: bbox, category), and Mask R-CNN learns "
            "from masks: train2017.zip, val2017.zip and annotations_trainval2017.zip from cocodataset.org have them"
        ]
    counts, problems = {}, []
    for split, number in expected.items():
        images = _stems(root / split, ".jpg")
        if images is None:
            problems.append(f"{split}/ is missing")
        else:
            counts[split] = len(images)
            if counts[split] != number:
                problems.append(f"{split}/ holds {counts[split]} images instead of {number}")
        annotations = root / "annotations" / f"instances_{split}.json"
        if not exists(annotations) or not again(annotations.stat, annotations).st_size:
            problems.append(f"annotations/{annotations.name} is missing or empty")
    return counts, problems


def _stems(folder: Path, suffix: str) -> set[str] | None:
    """Returns names without suffix, or None if there is no folder. Only names are read: 118,287 of them take a second.

    The suffix as it stands: mmsegmentation passes over `.JPG` in silence.
    """
    if not is_folder(folder):
        return None
    names = again(lambda: os.listdir(folder), folder)
    return {name[: -len(suffix)] for name in names if name.endswith(suffix) and _is_seen(name)}


def _other_case(folder: Path, suffix: str) -> str:
    """Returns a hint where names end in the same suffix in capitals, else ""."""
    other = [name for name in os.listdir(folder) if name.lower().endswith(suffix) and not name.endswith(suffix)]
    return f"; {len(other)} end in capitals, e.g. {min(other)}: rename them to {suffix}" if other else ""


def _is_seen(name: str) -> bool:
    """Returns whether a name is not hidden: macOS leaves `._x.png` beside `x.png`, which is no file of a dataset's."""
    return not name.startswith(".")


def _some_image(folder: Path) -> bool:
    """Returns whether one of the first names is an image, so that no class folder need be listed to the end.

    Hidden names are passed over: a copy made on a Mac has as many of them as images, and they may all come first.
    """

    def look() -> bool:
        with os.scandir(folder) as entries:
            seen = (entry.name for entry in entries if _is_seen(entry.name))
            return any(is_image(name) for name in islice(seen, 20))

    return again(look, folder)


def is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES) and _is_seen(name)


def class_folders(folder: str | Path, chosen: Sequence[str] | None = None) -> list[str]:
    """Returns the names of a split's class folders, sorted; where some are chosen, those alone."""
    there = again(lambda: {entry.name for entry in os.scandir(folder) if entry.is_dir()}, folder)
    return sorted(there if chosen is None else there.intersection(chosen))


def class_images(folder: str | Path) -> list[str]:
    """Returns the names of a class folder's images, sorted."""
    return sorted(name for name in again(lambda: os.listdir(folder), folder) if is_image(name))
