"""How much a step of the study trains on, evaluates and reads. No torch."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple, cast

from mto.config.job import Ade20kJob, ClassifierJob, CocoJob, HeterogeneityJob, Job, KnnJob, Mto, PretrainJob
from mto.config.models import Config, Dataset
from mto.data.layout import EXPECTED, class_folders, class_images
from mto.errors import UserError
from mto.files import read_json
from mto.names import BASELINES, STAGES
from mto.storage import is_folder


class Size(NamedTuple):
    """Images of a dataset, and the bytes of one on average."""

    train: int
    val: int
    bytes_each: float


#: COCO: the images of train2017 that have a box. Bytes: those of the published archives, shared out evenly.
FULL = {
    "imagenet": Size(1_281_167, 50_000, 108e3),
    "ade20k": Size(20_210, 2_000, 42e3),
    "coco": Size(117_266, 5_000, 163e3),
}


#: Of an image in a tar shard, beside its own: three headers, and the padding of three members to blocks of 512 bytes.
TAR_BYTES = 3 * 512 + 3 * 256 + 100


class Amount(NamedTuple):
    """Holds what one job gets through: images trained on and evaluated, and optimiser steps."""

    trained: int
    evaluated: int
    steps: int


def size_of(config: Config, task: str) -> Size:
    """Returns the size of the dataset that a task reads: as its maker is told, or as the paper's is published.

    Images of one's own are counted, where they are there.
    """
    source: Dataset = getattr(config.datasets, STAGES[task].dataset)
    if source.make is not None:
        return Size(source.make.train, source.make.val, source.make.size**2)  # about a byte a pixel
    whole = FULL[STAGES[task].dataset]
    if STAGES[task].dataset != "imagenet":
        return whole
    here = counted(config)
    return Size(here.train, here.val, whole.bytes_each) if here else _share(whole, source.num_classes)


class Counted(NamedTuple):
    """Images that were counted, and what says so."""

    train: int
    val: int
    by: str


def counted(config: Config) -> Counted | None:
    """Returns how many images with classes there are; None where nobody knows.

    The dataset's job writes it down. Before it has run, one's own class folders are counted here; ImageNet's
    are not, since it is known how many images they have, and to list them takes a while.
    """
    source = config.datasets.imagenet
    manifest = Path("results", config.scale, "data/imagenet/manifest.json")
    with suppress(UserError):
        written = read_json(manifest) or {}
        job, images = written.get("job", {}), written.get("images", {})
        same = (job.get("root"), job.get("num_classes"), job.get("classes"))
        if {"train", "val"} <= images.keys() and same == (source.root, source.num_classes, source.classes):
            return Counted(images["train"], images["val"], str(manifest))
    if source.classes is not None or source.num_classes == EXPECTED["imagenet"]["train"]:
        return None
    train, val = (_count(f"{source.root}/{split}") for split in ("train", "val"))
    return Counted(train, val, f"the class folders of {source.root}") if train and val else None


@cache
def _count(folder: str) -> int:
    if not is_folder(folder):
        return 0
    return sum(len(class_images(Path(folder, name))) for name in class_folders(folder))


def cache_bytes(config: Config) -> float:
    """Returns the cache's bytes for ImageNet's training images, 4:3 on average; 0 without one, or for made images."""
    source = config.datasets.imagenet
    if source.cache is None or source.make is not None:
        return 0.0
    return size_of(config, "pretrain").train * _cached(source.cache.side)


def copy_bytes(config: Config) -> float:
    """Returns the bytes of `datasets.imagenet.convert`'s copy: all of ImageNet, whichever classes are looked at."""
    source = config.datasets.imagenet
    if source.convert is None or source.make is not None:
        return 0.0
    return (FULL["imagenet"].train + FULL["imagenet"].val) * (FULL["imagenet"].bytes_each + TAR_BYTES)


def bytes_trained(config: Config, job: Job) -> float:
    """Returns the bytes of an image that a job trains on: of its file, or in the cache."""
    side = job.data.cache
    return _cached(side) if side else size_of(config, job.task).bytes_each


def _cached(side: int) -> float:
    return 3 * side**2 * 4 / 3


def _share(whole: Size, classes: int) -> Size:
    """Returns the size of some of ImageNet's classes, which are nearly equal (ImageNet-100: 126,689 training images).

    Classes of one's own, whose images are not there to be counted, are taken to be as large.
    """
    share = classes / 1000
    return Size(round(whole.train * share), round(whole.val * share), whole.bytes_each)


def amount(job: Job, since: int, size: Size) -> Amount:
    """Returns the images and the optimiser steps that a job gets through.

    Args:
        since: for a segment of pre-training, the epoch that it continues; else 0.
    """
    train = round(size.train * job.data.labels)
    if isinstance(job, HeterogeneityJob):
        return Amount(0, min(job.images, size.val), 0)
    if isinstance(job, KnnJob):
        return Amount(0, train + size.val, 0)
    if isinstance(job, Ade20kJob):
        return Amount(job.iterations * job.optim.batch_size, size.val, job.iterations)
    assert isinstance(job, PretrainJob | ClassifierJob | CocoJob)
    epochs, times = (job.epoch - since, 0) if isinstance(job, PretrainJob) else (job.epochs, evaluations(job))
    steps = epochs * (train // job.optim.batch_size)
    return Amount(steps * job.optim.batch_size, times * size.val, steps)


def evaluations(job: ClassifierJob | CocoJob) -> int:
    """Returns how often a job evaluates: at its interval, and at its end."""
    return -(-job.epochs // job.eval_interval) if isinstance(job, ClassifierJob) else 1


def without_mto(job: Job) -> Job | None:
    """Returns the same pre-training without MTO; None for a job that has no MTO."""
    if not isinstance(job, PretrainJob) or not job.mto.terms:
        return None
    return job.changed(mto=Mto(terms=[]))


def loading_rates(config: Config, job: Job) -> tuple[float, float]:
    """Returns the images a second that one core reads for the job, by config.yaml: to train on, and to evaluate.

    Only training images are cached, or decoded on a device; decoding there takes the device's time, which is in no rate
    here, but in what the preflight measures.
    """
    rates = cast("dict[str, float]", config.plan.images_per_core)
    task: str = job.task
    baseline = BASELINES[job.baseline]
    rate = rates[(baseline.reads_like or job.baseline) if task == "pretrain" else (STAGES[task].like or task)]
    if job.data.decode == "device":
        return config.plan.files_per_core, rate
    cached = job.data.cache
    return (1 / (1 / rate - 1 / config.plan.decoded_per_core) if cached else rate), rate
