"""The datasets' jobs: make one of the demo's datasets, or look over one of the paper's, every file of it.

Job: ``{"task": "data", "dataset": "imagenet" | "ade20k" | "coco", "scale", "root", "num_classes", "make": {"of": ...,
"size": ...} | null}``, with ``"classes"`` where only some of ImageNet's class folders are meant. Makes
``manifest.json`` in the output folder, last: counts, class names, the job, the dataset's form (`mto.data.forms`), and
of ImageNet a digest of its images' names, which every form of them has; and beside it, of an ImageNet that was there,
``listing.npz`` (`mto.data.listing`), which spares every other job a walk through the folders, and, where the job has
``"cache": {"side", "folder"}``, the training images as bytes (`mto.data.cache`). How closely it looks (``fast`` or
``full``) is no part of the job, so that a closer look re-queues nothing; ``python -m mto verify`` looks at any time.
"""

import argparse
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mto.config.job import DataJob
from mto.data import cache, layout, listing
from mto.data.bad_files import limits
from mto.data.forms.recognise import form_of, is_parquet, place_of, recognise
from mto.data.verify import Level
from mto.errors import UserError
from mto.files import write_json
from mto.names import DATASETS

SPLITS = ("train", "val")  # ImageNet's


def run(job: DataJob, out: Path, *, level: Level = "fast", workers: int = 1) -> None:
    """Makes the dataset when the job says how (``make``), else looks over the one at ``root``."""
    make(job, out) if job.make is not None else check(job, out, level=level, workers=workers)


def main(argv: Sequence[str] | None = None) -> None:
    """Look datasets over again, at any time: nothing is written, so nothing is re-queued."""
    from mto.config import load
    from mto.study.study import Study

    parser = argparse.ArgumentParser(prog="python -m mto verify", description=main.__doc__)
    parser.add_argument(
        "datasets", nargs="*", metavar="DATASET", help=f"of {', '.join(DATASETS)} (default: those that the study reads)"
    )
    parser.add_argument("--level", choices=["fast", "full"], help="fast: heads, ends and annotations; full: all pixels")
    parser.add_argument(
        "--workers", type=int, default=len(os.sched_getaffinity(0)), help="processes (default: all cores)"
    )
    parser.add_argument("--scale", help="default: the one that config.yaml names")
    args = parser.parse_args(argv)
    if unknown := set(args.datasets) - set(DATASETS):
        raise UserError(f"no such dataset: {', '.join(sorted(unknown))} (allowed: {', '.join(DATASETS)})")
    config = load("config.yaml", scale=args.scale)
    study = Study(config)
    for name in args.datasets or study.datasets:
        source = getattr(config.datasets, name)
        root = place_of(source.root, getattr(source, "convert", None))
        if name == "ade20k" and is_parquet(name, root):  # its job writes the files that are read
            root = Path(study.results, "data", name)
        job = study.data_job(name).changed(root=str(root))
        look_over(job, level=args.level or source.verify, workers=args.workers, made=source.make is not None)


def make(job: DataJob, out: Path) -> None:
    """Writes a small dataset into ``out``; a killed job leaves no manifest, and a rerun starts afresh.

    Raises:
        UserError: a key or value under ``datasets.<dataset>.make`` that the maker does not take.
    """
    from mto.data import demo, fashion_mnist

    makers: dict[tuple[str, str], tuple[Callable[..., dict[str, int]], list[str]]] = {
        ("digits", "imagenet"): (demo.make_imagenet, demo.IMAGENET_CLASSES),
        ("digits", "ade20k"): (demo.make_ade20k, demo.ADE20K_CLASSES),
        ("digits", "coco"): (demo.make_coco, demo.COCO_CLASSES),
        ("fashion_mnist", "imagenet"): (fashion_mnist.make_imagenet, fashion_mnist.CLASSES),
    }
    assert job.make is not None
    arguments = job.make.written()
    if (of := arguments.pop("of"), job.dataset) not in makers:
        raise UserError(f"config.yaml: datasets.{job.dataset}.make.of: {of} has images and labels alone; use digits")
    maker, classes = makers[of, job.dataset]
    out.mkdir(parents=True, exist_ok=True)
    (out / "manifest.json").unlink(missing_ok=True)
    making = out / ".making"
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir()
    try:
        counts = maker(making, **arguments)
    except (TypeError, ValueError) as error:
        raise UserError(f"config.yaml: datasets.{job.dataset}.make {arguments}: {error}") from error
    for part in making.iterdir():
        if (out / part.name).exists():
            shutil.rmtree(out / part.name)
        part.rename(out / part.name)
    making.rmdir()
    _cache(job, out)
    _write_manifest(job, out, {"counts": counts}, classes)
    print(f"{job.dataset}: {', '.join(f'{n} images in {split}' for split, n in counts.items())}, in {out}", flush=True)


def check(job: DataJob, out: Path, *, level: Level = "fast", workers: int = 1) -> None:
    """Looks over the paper's dataset, and writes what it holds.

    Raises:
        UserError: it is missing, incomplete or damaged; with the files' names.
    """
    root = _copied(job, out, workers)
    found = look_over(job.changed(root=str(root)), level=level, workers=workers, listed=out / listing.NAME)
    if str(root) != job.root:
        found["root"] = str(root)
    if job.dataset == "imagenet":
        _cache(job.changed(root=str(root)), out, workers)
    _write_manifest(job, out, found, None)


def _copied(job: DataJob, out: Path, workers: int) -> Path:
    """Returns where the dataset is read: what parquet was written as once, else where it lies."""
    name, root = job.dataset, Path(job.root)
    if name == "ade20k" and is_parquet(name, root):
        from mto.data.forms.ade20k import unpack

        layout.check(name, root)
        print(f"ade20k: {form_of(name, root)}, at {root}", flush=True)
        return unpack(root, out)
    if name == "imagenet" and job.convert and place_of(root, job.convert) == root:
        if recognise(root) == "parquet":
            from mto.data.forms.convert import convert

            layout.check(name, root)
            print(f"imagenet: {form_of(name, root)}, at {root}: copied to {job.convert}", flush=True)
            convert(root, Path(job.convert), workers)
        else:
            print(f"imagenet: {form_of(name, root)} are read where they lie: nothing is converted", flush=True)
    return place_of(root, job.convert)


def look_over(
    job: DataJob, *, level: Level, workers: int = 1, made: bool = False, listed: Path | None = None
) -> dict[str, Any]:
    """Checks a dataset's layout, then every file (`mto.data.verify`), and returns what was found.

    Args:
        made: by the demo, in numbers of its own.
        listed: where the listing of an ImageNet is to be written.
    """
    from mto.data import verify

    name, root, chosen = job.dataset, job.root, job.classes
    found: dict[str, Any] = {"counts": {}}
    if not made:
        found["counts"] = layout.check(name, root, classes=chosen, num_classes=job.num_classes)
        print(f"{name}: {form_of(name, root)}, at {root}", flush=True)
    if not made and name == "imagenet":
        found["form"] = recognise(root)
        if found["form"] == "parquet":
            remedy = "datasets.imagenet.convert: FOLDER copies it once"
            print(f"imagenet: parquet is read at a third of a file's pace; {remedy}", flush=True)
    if listed and name == "imagenet":
        listing.save(listed, Path(root), SPLITS, chosen)
        found |= _content(listed, Path(root), chosen)
    faults = verify.verify(name, root, job.num_classes, level, workers, chosen, listed or "")
    if said := verify.report(name, root, faults, spared=limits().get(name, 0)):
        print(said, flush=True)
    unit = {"imagenet": "class folders", "ade20k": "pairs"}.get(name, "images")
    shown = ", ".join(f"{n} {unit} in {split}" for split, n in found["counts"].items()) or "sound"
    images = ", ".join(f"{split} {n:,}" for split, n in found.get("images", {}).items())
    print(f"{name}: {shown}, in {root} ({level} look){f'; images: {images}' if images else ''}", flush=True)
    return found


def _content(listed: Path, root: Path, chosen: Sequence[str] | None) -> dict[str, Any]:
    """Returns a listing's classes and images a split, and a digest of their names, alike for every form."""
    found = {
        split: listing.load(listed, root / split, chosen) or listing.walk(root / split, chosen) for split in SPLITS
    }
    return {
        "counts": {split: len(each.classes) for split, each in found.items()},
        "images": {split: len(each.names) for split, each in found.items()},
        "content": {split: each.content for split, each in found.items()},
    }


def _cache(job: DataJob, out: Path, workers: int = 1) -> None:
    if job.cache is not None:
        train = (Path(job.root) if job.make is None else out) / "train"
        images = listing.load(out / listing.NAME, train, job.classes) or listing.walk(train, job.classes)
        cache.build(cache.folder_of(job.scale, job.cache, out), job.cache.side, train, images, workers)


def _write_manifest(job: DataJob, out: Path, found: dict[str, Any], classes: list[str] | None) -> None:
    write_json(out / "manifest.json", {"job": job.plain(), **found, "classes": classes})
