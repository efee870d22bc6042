"""Images a second of one core: this repository's data path beside the official one, in one run.

    python benchmarks/data_path.py                                     made-up photographs of 500 x 375 pixels
    python benchmarks/data_path.py --from /usr/share/backgrounds       pieces of these photographs
    python benchmarks/data_path.py --parts                             where an image's time goes

The official path is rebuilt from what the four repositories use: torchvision's `ImageFolder` and transforms on PIL
images, timm's for fine-tuning, floats from the loader. Each path is a process of its own, as a loader's worker is, and
the two take turns: 64 images to a batch of one, 64 to a batch of the other. A time is CPU seconds, which a busy machine
alters little; the ratio is of the medians. Page faults are those an image.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch.utils.data import default_collate
from torchvision import transforms
from torchvision.datasets import ImageFolder as TorchvisionFolder
from torchvision.transforms import InterpolationMode

from mto.bench.loading import photographs
from mto.config import load
from mto.config.job import Job, PretrainJob
from mto.data import imagenet
from mto.data.transforms import finetune_train_transform, linear_train_transform, posterize
from mto.names import Step
from mto.study.study import Study

BATCH = 64
CASES = [(baseline, "pretrain") for baseline in ("simmim", "mae", "bootmae", "conmim")]
CASES += [("mae", "finetune"), ("mae", "linear")]
Sampled = Callable[[int], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="source", type=Path, help="a folder of photographs, looked through")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--parts", action="store_true")
    parser.add_argument("--only", nargs="+", default=[], help="baselines or stages")
    args = parser.parse_args()
    torch.set_num_threads(1)
    study = Study(load("config.yaml", scale="paper"))
    with photographs(BATCH) if args.source is None else pieces(args.source, BATCH) as root:
        size = statistics.fmean(path.stat().st_size for path in root.rglob("*.jpg"))
        print(f"{BATCH} JPEGs of {size / 1000:.0f} kB on average\n")
        print("| data of | ours, images/s | official | ratio | page faults, ours | official |")
        print("|---|--:|--:|--:|--:|--:|")
        for baseline, stage in CASES:
            if not args.only or {baseline, stage} & set(args.only):
                compare(job_of(study, baseline, stage, root), f"{baseline}, {stage}", args.rounds)


def job_of(study: Study, baseline: str, stage: str, root: Path) -> Job:
    job = study.job(Step(stage, f"{baseline}-vitb", study.config.seeds[0], study.config.study.measured_epochs[0]))
    return job.reading(root=str(root), num_classes=1)


def compare(job: Job, name: str, rounds: int) -> None:
    """Print one row."""
    taken = by_turns({"ours": Side(ours, job), "official": Side(official, job)}, rounds)
    seconds = {side: statistics.median(s for s, _ in results) / BATCH for side, results in taken.items()}
    faults = {side: statistics.median(f for _, f in results) / BATCH for side, results in taken.items()}
    print(
        f"| {name} | {1 / seconds['ours']:.0f} | {1 / seconds['official']:.0f} | "
        f"{seconds['official'] / seconds['ours']:.2f} | {faults['ours']:.0f} | {faults['official']:.0f} |",
        flush=True,
    )


class Side:
    """One data path in a process of its own."""

    def __init__(self, path: Callable[[Job], tuple[Sampled, Callable]], job: Job) -> None:
        context = multiprocessing.get_context("fork")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, path, job), daemon=True)
        self.process.start()

    def batch(self, turn: int) -> tuple[float, int]:
        """CPU seconds and page faults of a batch."""
        self.pipe.send(turn)
        return self.pipe.recv()

    def end(self) -> None:
        self.pipe.send(None)
        self.process.join()


def by_turns(sides: dict[str, Side], rounds: int) -> dict[str, list[tuple[float, int]]]:
    """Of each side its batches' results, after a first one that does not count. The sides end with it."""
    taken = [{name: side.batch(turn) for name, side in sides.items()} for turn in range(rounds + 1)][1:]
    for side in sides.values():
        side.end()
    return {name: [results[name] for results in taken] for name in sides}


def rates_by_turns(sides: dict[str, Side], rounds: int) -> dict[str, float]:
    """Images a second of each side, by the median of its batches."""
    taken = by_turns(sides, rounds)
    return {name: BATCH / statistics.median(s for s, _ in results) for name, results in taken.items()}


def serve(pipe: Any, path: Callable[[Job], tuple[Sampled, Callable]], job: Job) -> None:
    torch.set_num_threads(1)
    torch.utils.data._utils.worker._worker_info = object()  # so that batches lie in shared memory, as a worker's do
    sample, collate = path(job)
    while (turn := pipe.recv()) is not None:
        begun, faults = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        collate([sample(turn * BATCH + index) for index in range(BATCH)])
        pipe.send((time.process_time() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults))


# ------------------------------------------------------------------------------------------------------------ two paths
def ours(job: Job) -> tuple[Sampled, Callable]:
    dataset: Any
    if job.task == "pretrain":
        dataset = imagenet.PretrainDataset(job)
    else:
        transform: Any = finetune_train_transform if job.task == "finetune" else linear_train_transform
        dataset = imagenet.ClassificationDataset(job, "train", transform(job))
    return lambda number: dataset[number // BATCH, number % BATCH], imagenet.collate


def official(job: Job) -> tuple[Sampled, Callable]:
    """torchvision's loader and transforms, timm's for fine-tuning; a mask from the loader where the repository does so:
    MAE masks on the device."""
    data, size = job.plain()["data"], job.img_size
    view = transform_of(job, data, size)
    folder = TorchvisionFolder(Path(data["root"]) / "train")
    if job.task != "pretrain":
        folder.transform = view
        return lambda number: folder[number % BATCH], default_collate
    assert isinstance(job, PretrainJob)
    mask = mask_of(job, size)
    return lambda number: (*view(folder[number % BATCH][0]), mask()), default_collate


def transform_of(job: Job, data: dict[str, Any], size: int) -> Callable[[Image.Image], Any]:
    last = [transforms.ToTensor(), transforms.Normalize(torch.tensor(data["mean"]), torch.tensor(data["std"]))]
    if job.task == "finetune":
        from timm.data import create_transform

        augment = data["augment"]
        view = create_transform(
            input_size=size,
            is_training=True,
            color_jitter=augment["color_jitter"],
            auto_augment=augment["rand_augment"],
            interpolation=augment["interpolation"],
            re_prob=augment["reprob"],
            re_mode="pixel",
            re_count=1,
            mean=data["mean"],
            std=data["std"],
        )
        for step in view.transforms:
            for op in getattr(step, "ops", []):
                if op.name.startswith("Posterize"):
                    op.aug_fn = posterize  # timm's asks Pillow 13 for 0 bits, which is an error there
        return view
    crop = transforms.RandomResizedCrop(
        size, scale=tuple(data["crop_scale"]), interpolation=InterpolationMode(data["interpolation"])
    )
    flip = transforms.RandomHorizontalFlip()
    if not data.get("teacher"):
        plain = transforms.Compose([crop, flip, *last])
        return (lambda image: (plain(image),)) if job.task == "pretrain" else plain
    teacher, both, finish = data["teacher"], transforms.Compose([flip, crop]), transforms.Compose(last)
    colours = transforms.Compose(
        [
            transforms.RandomApply([transforms.ColorJitter(*teacher["jitter"])], p=teacher["jitter_prob"]),
            transforms.RandomGrayscale(teacher["gray_prob"]),
            transforms.RandomApply([gaussian_blur], p=teacher["blur_prob"]),
            transforms.RandomSolarize(128, teacher["solarize_prob"]),
        ]
    )

    def views(image: Image.Image) -> tuple[torch.Tensor, torch.Tensor]:
        view = both(image)
        return finish(view), finish(colours(view))

    return views


def gaussian_blur(image: Image.Image) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))


def mask_of(job: PretrainJob, size: int) -> Callable[[], Any]:
    """The cheapest mask of its kind in NumPy; MAE's costs the loader nothing."""
    if job.method.name == "mae":
        return lambda: 0
    side, ratio = size // job.method.patch_size, job.mask.ratio or 0.4
    return lambda: np.random.permutation(side * side) < ratio * side * side  # noqa: NPY002


# ---------------------------------------------------------------------------------------------------------- photographs
@contextmanager
def pieces(source: Path, count: int) -> Iterator[Path]:
    """A folder like ImageNet's, of one class: 500 x 375 pieces of photographs, of ImageNet's usual size in bytes."""
    Image.MAX_IMAGE_PIXELS = None
    rng = np.random.default_rng(0)
    files = sorted(path for path in source.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    with TemporaryDirectory(prefix="mto-pieces-") as folder:
        place = Path(folder) / "train" / "class"
        place.mkdir(parents=True)
        for index in range(count):
            with Image.open(files[index % len(files)]) as image:
                image.draft("RGB", (1000, 750))
                scale = max(600 / image.width, 450 / image.height)
                photo = image.convert("RGB").resize((round(image.width * scale) + 1, round(image.height * scale) + 1))
            top, left = rng.integers(0, photo.height - 375 + 1), rng.integers(0, photo.width - 500 + 1)
            piece = np.asarray(photo)[top : top + 375, left : left + 500] + rng.normal(0, 6, (375, 500, 1))
            Image.fromarray(piece.clip(0, 255).astype(np.uint8)).save(place / f"{index:04d}.jpg", quality=95)
        yield Path(folder)


if __name__ == "__main__":
    main()
