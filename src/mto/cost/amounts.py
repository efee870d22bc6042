"""How much a step of the study trains on, evaluates and reads. No torch."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

from mto.config.models import Config, Dataset
from mto.names import BASELINES, STAGES

Job = dict[str, Any]


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
    """Of one job: images trained on and evaluated, and optimiser steps."""

    trained: int
    evaluated: int
    steps: int


def size_of(config: Config, task: str) -> Size:
    """Of the dataset that a task reads: one that is made as its maker is told, the paper's as published."""
    source: Dataset = getattr(config.datasets, STAGES[task].dataset)
    if source.make is None:
        whole = FULL[STAGES[task].dataset]
        return whole if STAGES[task].dataset != "imagenet" else _share(whole, source.num_classes)
    return Size(source.make.train, source.make.val, source.make.size**2)  # about a byte a pixel


def cache_bytes(config: Config) -> float:
    """Of the cache of ImageNet's training images, 4:3 on average; 0 without one, and where small images are made."""
    source = config.datasets.imagenet
    if source.cache is None or source.make is not None:
        return 0.0
    return size_of(config, "pretrain").train * _cached(source.cache.side)


def copy_bytes(config: Config) -> float:
    """Of the copy that `datasets.imagenet.convert` asks for: all of ImageNet, whichever classes are looked at."""
    source = config.datasets.imagenet
    if source.convert is None or source.make is not None:
        return 0.0
    return (FULL["imagenet"].train + FULL["imagenet"].val) * (FULL["imagenet"].bytes_each + TAR_BYTES)


def bytes_trained(config: Config, job: Job) -> float:
    """Of an image that a job trains on: of its file, or in the cache."""
    side = job["data"].get("cache")
    return _cached(side) if side else size_of(config, job["task"]).bytes_each


def _cached(side: int) -> float:
    return 3 * side**2 * 4 / 3


def _share(whole: Size, classes: int) -> Size:
    """Of ImageNet's thousand classes, which are nearly of one size (ImageNet-100: 126,689 training images).

    One's own classes are reckoned as large as these: how many images they have is known when they are looked over.
    """
    share = classes / 1000
    return Size(round(whole.train * share), round(whole.val * share), whole.bytes_each)


def amount(job: Job, since: int, size: Size) -> Amount:
    """What a job gets through.

    Args:
        since: for a segment of pre-training, the epoch that it continues; else 0.
    """
    task, train = job["task"], round(size.train * job["data"].get("labels", 1.0))
    if task == "heterogeneity":
        return Amount(0, min(job["images"], size.val), 0)
    if task == "knn":
        return Amount(0, train + size.val, 0)
    batch = job["optim"]["batch_size"]
    if "iterations" in job:
        return Amount(job["iterations"] * batch, size.val, job["iterations"])
    epochs = job["epoch"] - since if task == "pretrain" else job["epochs"]
    steps = epochs * (train // batch)
    times = 0 if task == "pretrain" else evaluations(job)
    return Amount(steps * batch, times * size.val, steps)


def evaluations(job: Job) -> int:
    """How often a job evaluates: at its interval, and at its end."""
    return -(-job["epochs"] // job.get("eval_interval", job["epochs"]))


def without_mto(job: Job) -> Job | None:
    """The same pre-training without MTO; None for what has none."""
    return {**job, "mto": {"terms": []}} if job.get("mto", {}).get("terms") else None


def loading_rates(config: Config, job: Job) -> tuple[float, float]:
    """Images a second that one core reads for the job, as config.yaml has it: to train on, and to evaluate.

    A cache is of training images alone, and so is what a device decodes, which takes the device's time: that is in no
    rate here, but in what the preflight measures.
    """
    rates = cast("dict[str, float]", config.plan.images_per_core)
    task: str = job["task"]
    baseline = BASELINES[job["baseline"]]
    rate = rates[(baseline.reads_like or job["baseline"]) if task == "pretrain" else (STAGES[task].like or task)]
    if job["data"].get("decode") == "device":
        return config.plan.files_per_core, rate
    cached = job["data"].get("cache")
    return (1 / (1 / rate - 1 / config.plan.decoded_per_core) if cached else rate), rate
