"""Images a second of one core from each form of a dataset, beside class folders, in one run; and the listing's memory.

    python benchmarks/data_forms.py                                    made-up photographs of 500 x 375 pixels
    python benchmarks/data_forms.py --from /usr/share/backgrounds      pieces of these photographs

The forms hold the same files, under many names, and images are read in a shuffled order, as a sampler asks for them.
Row groups of parquet are of a hundred images, as in ILSVRC/imagenet-1k. Rates are of CPU seconds by turns, as in
`data_path.py`: all files are in the page cache, so that what a disk or a network costs is not in them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from data_path import BATCH, Job, Sampled, Side, job_of, pieces, rates_by_turns

from mto.bench.loading import photographs
from mto.config import load
from mto.data import imagenet, listing
from mto.data.forms.convert import convert
from mto.data.forms.recognise import TITLES, recognise
from mto.data.transforms import finetune_train_transform
from mto.study.study import Study

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from image_forms import CLASSES, WRITERS, Picture, write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="source", type=Path, help="a folder of photographs, looked through")
    parser.add_argument("--images", type=int, default=1600)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    study = Study(load("config.yaml", scale="paper"))
    with photographs(BATCH) if args.source is None else pieces(args.source, BATCH) as root, TemporaryDirectory() as to:
        roots = forms_of([path.read_bytes() for path in sorted(root.rglob("*.jpg"))], args.images, Path(to))
        memory(roots)
        for baseline, stage in (("mae", "pretrain"), ("mae", "finetune")):
            jobs = {
                name: job_of(study, baseline, stage, place).reading(num_classes=len(CLASSES))
                for name, place in roots.items()
            }
            rates = rates_by_turns({name: Side(shuffled, job) for name, job in jobs.items()}, args.rounds)
            print(f"\n| {baseline}, {stage} | images/s of a core | of class folders' |\n|---|--:|--:|")
            for name, rate in rates.items():
                print(f"| {name} | {rate:.0f} | {rate / rates[TITLES['folders']]:.2f} |", flush=True)


def forms_of(files: list[bytes], count: int, to: Path) -> dict[str, Path]:
    """Write the forms; the last one is what a conversion of the parquet makes."""
    images = [
        Picture(split, of := CLASSES[number % 5], f"{of}_{number}.JPEG", files[number % len(files)])
        for split, many in (("train", count), ("val", 5))
        for number in range(many)
    ]
    roots = {}
    for form in WRITERS:
        options = {"shards": 1, "row_group": 100} if form == "parquet" else {}
        place = write(form, images, to / form, **options)
        roots[TITLES[recognise(place)]] = place
    convert(to / "parquet", to / "converted", 2)
    return roots | {"parquet, converted once": to / "converted"}


def memory(roots: dict[str, Path]) -> None:
    """Print what a listing takes an image, and of 1.28 million with names as long as ImageNet's."""
    print("| form | bytes an image | 1,281,167 images, MB |\n|---|--:|--:|")
    for name, root in roots.items():
        found = listing.walk(root / "train")
        longest = 20 + found.places.nbytes / len(found.names)  # n01440764_10026.JPEG
        print(f"| {name} | {longest:.0f} | {1_281_167 * longest / 1e6:.0f} |")


def shuffled(job: Job) -> tuple[Sampled, Any]:
    """Our data path, asked for images in an order without one."""
    dataset: Any
    if job.task == "pretrain":
        dataset = imagenet.PretrainDataset(job)
    else:
        dataset = imagenet.ClassificationDataset(job, "train", finetune_train_transform(job))
    order = np.random.default_rng(0).permutation(len(dataset)).tolist()
    return lambda number: dataset[0, order[number % len(order)]], imagenet.collate


if __name__ == "__main__":
    main()
