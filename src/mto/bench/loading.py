"""The data path by itself and together with the step: a stage's own dataset and loader, on made-up photographs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from torch.utils.data import DataLoader

from mto.config.job import FinetuneJob, Job, LinearJob, PretrainJob
from mto.data.imagenet import ClassificationDataset, PretrainDataset, build_loader
from mto.data.sampler import EpochSampler
from mto.data.transforms import finetune_train_transform, linear_train_transform

#: A folder like ImageNet's, by the keys of a job's ``data``: ``root``, ``num_classes``, ``classes``.
Folder = dict[str, Any]


@contextmanager
def photographs(count: int, side: tuple[int, int] = (500, 375)) -> Iterator[Path]:
    """Makes a folder like ImageNet's, of one class, with JPEGs of ImageNet's usual size and detail."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    with TemporaryDirectory(prefix="mto-bench-") as folder:
        (Path(folder) / "train" / "class").mkdir(parents=True)
        for index in range(count):
            coarse = Image.fromarray(random.integers(0, 255, (24, 32, 3), dtype=np.uint8))
            coarse = coarse.resize(side, Image.Resampling.BICUBIC)
            grain = random.normal(0, 12, (side[1], side[0], 3))
            pixels = (np.asarray(coarse) + grain).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(Path(folder) / "train" / "class" / f"{index:04d}.jpg", quality=90)
        yield Path(folder)


def of_one_class(root: Path) -> Folder:
    """Returns the keys of a job's ``data`` for `photographs`, whatever classes the job names."""
    return {"root": str(root), "num_classes": 1, "classes": None}


def loader_of(job: Job, folder: Folder, images: int, workers: int, pin_memory: bool) -> DataLoader:
    """Builds the endless loader of a stage's micro-batches of ``images``, from that folder instead of the job's own.

    It reads the files: a cache of images is made by the dataset's job, which may not have run.
    """
    job = job.reading(**folder, cache=None)
    dataset: Any
    if isinstance(job, PretrainJob):
        dataset = PretrainDataset(job)
    else:
        transform = (
            finetune_train_transform(job)
            if isinstance(job, FinetuneJob)
            else linear_train_transform(cast(LinearJob, job))
        )
        dataset = ClassificationDataset(job, "train", transform)
    sampler = EpochSampler(len(dataset), seed=job.seed, shuffle=True, infinite=True)
    return build_loader(dataset, sampler, images, workers, pin_memory=pin_memory)


def steady(loader: DataLoader, source: Iterator[Any], batches: int, use: Callable[[Any], object]) -> int:
    """Takes batches until the loader has none ready ahead any more; returns how many to measure from there.

    While the first batch is waited for and used, the workers fill their queues. Timed from there, all that was ready
    would count as if it took no time. Batches come in bursts, one of each worker: after one more, whoever is slower,
    the workers or the use of their batches, sets the pace.

    Args:
        source: the loader's batches.
        batches: how many to measure at the least; so are three of each worker, as many of one as of another.
        use: what is done with a batch; the first time it may take long.
    """
    workers = max(loader.num_workers, 1)
    use(next(source))
    for _ in range(loader.num_workers * (loader.prefetch_factor or 0)):
        next(source)
    for _ in range(loader.num_workers):
        use(next(source))
    return -(-max(batches, 3 * workers) // workers) * workers


def rate(loader: DataLoader, images: int, batches: int) -> float:
    """Measures the images a second of the loader alone, over ``batches`` or some more (`steady`)."""
    source = iter(loader)
    batches = steady(loader, source, batches, use=id)
    start = time.perf_counter()
    for _ in range(batches):
        next(source)
    return batches * images / (time.perf_counter() - start)


def together(
    loader: DataLoader, source: Iterator[Any], train: Any, images: int, batches: int, device: torch.device
) -> dict[str, float]:
    """Measures the images a second of training from the loader, and the share of the time spent waiting for it.

    Args:
        source: the loader's batches.
        train: takes a training step on a batch.
        batches: as in `rate`.
    """
    batches = steady(loader, source, batches, use=train)
    waited, start = 0.0, time.perf_counter()
    for _ in range(batches):
        asked = time.perf_counter()
        batch = next(source)
        waited += time.perf_counter() - asked
        train(batch)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    total = time.perf_counter() - start
    return {"images_per_second": batches * images / total, "waiting_share": waited / total}
