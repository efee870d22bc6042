"""Nearest neighbours: the labels of the most similar training images vote for that of a validation image.

Out: metrics.json. In: ``encoder``. Metrics in percent: ``top1``, ``top5``. The protocol is DINO's
(eval_knn.py:146-199): cosine similarity of the frozen encoder's features, ``neighbours`` votes, each weighted by
exp(similarity / temperature). The feature is the one that the baseline's linear probe reads. Nothing is trained, so
that no rate has to be chosen.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, distributed

from mto.config.job import KnnJob
from mto.data.device.pixels import Pixels
from mto.data.imagenet import ClassificationDataset, build_loader
from mto.data.rng import seeded
from mto.data.sampler import EpochSampler
from mto.data.transforms import eval_transform
from mto.methods.encoder import build_encoder, load_encoder
from mto.methods.features import pooled
from mto.tasks.task import Task
from mto.training.optim import AUTOCAST

#: Images of a forward pass where the hardware names none, and queries that are compared at once.
BATCH, QUERIES = 64, 256


class Features(NamedTuple):
    """Unit vectors (n, F) and labels (n,)."""

    vectors: Tensor
    labels: Tensor


class Nearest(NamedTuple):
    """The k largest similarities of each query, (n, k), falling, and the labels there, (n, k)."""

    similarity: Tensor
    label: Tensor


def run(task: Task[KnnJob]) -> None:
    """Measures one encoder; each rank compares all validation images with its share of the training images."""
    job, hardware = task.job, task.hardware
    with seeded(job.seed, "init"):
        encoder = build_encoder(**job.encoder.written())
    with task.naming_encoder():
        load_encoder(encoder, task.read_encoder())
    encoder.to(hardware.device).eval().requires_grad_(False)
    bank = features(task, encoder, "train", hardware.rank, hardware.world_size)
    queries = features(task, encoder, "val")
    found = nearest(queries.vectors, bank, job.neighbours)
    if hardware.world_size > 1:
        found = together(found, job.neighbours)
    if hardware.rank == 0:
        task.finish(accuracy(found, queries.labels, job.data.num_classes, job.temperature))


@torch.no_grad()
def features(task: Task[KnnJob], encoder: Any, split: str, rank: int = 0, world_size: int = 1) -> Features:
    """Returns the features of a split, or of this rank's share of it, on the device."""
    job, hardware = task.job, task.hardware
    dataset = ClassificationDataset(job, split, eval_transform(job))
    sampler = EpochSampler(len(dataset), seed=job.seed, shuffle=False, rank=rank, world_size=world_size)
    batch = hardware.micro_batch or BATCH
    loader = build_loader(dataset, sampler, batch, hardware.workers, pin_memory=hardware.gpus > 0)
    pixels, feature = Pixels.of(job).to(hardware.device), job.feature
    precision = AUTOCAST[job.precision]
    vectors, labels = [], []
    for number, data in enumerate(loader):
        data = pixels(data)
        with torch.autocast(hardware.device.type, precision, enabled=precision is not None):
            (x,) = pooled(encoder, data["image"], [feature.layer], feature.pool, feature.norm)
        vectors.append(F.normalize(x, dim=1))
        labels.append(data["label"])
        if rank == 0 and number % 100 == 0:
            print(f"{split}: image {number * batch * world_size + 1} of {len(dataset)}", flush=True)
    return Features(torch.cat(vectors), torch.cat(labels))


def nearest(queries: Tensor, bank: Features, k: int) -> Nearest:
    """Returns the k most similar of the bank's vectors for each query; fewer where the bank is smaller."""
    parts = []
    for some in queries.split(QUERIES):
        similarity, place = (some @ bank.vectors.T).topk(min(k, len(bank.labels)), dim=1)
        parts.append((similarity, bank.labels[place]))
    return Nearest(*(torch.cat(part) for part in zip(*parts, strict=True)))


def together(own: Nearest, k: int) -> Nearest:
    """Returns the k most similar over all ranks, whose shares of the bank may differ in size by one."""
    shares: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(shares, (own.similarity.cpu(), own.label.cpu()))
    similarity, label = (torch.cat(part, dim=1) for part in zip(*shares, strict=True))
    best, place = similarity.topk(min(k, similarity.shape[1]), dim=1)
    return Nearest(best.to(own.similarity.device), label.gather(1, place).to(own.label.device))


def accuracy(found: Nearest, labels: Tensor, num_classes: int, temperature: float) -> dict[str, float]:
    """Returns ``top1`` and ``top5`` in percent of the weighted vote."""
    votes = found.similarity.new_zeros(len(labels), num_classes)
    votes.scatter_add_(1, found.label, (found.similarity / temperature).exp())
    ranked = votes.topk(min(5, num_classes), dim=1).indices == labels[:, None]
    return {
        "top1": 100.0 * int(ranked[:, 0].sum()) / len(labels),
        "top5": 100.0 * int(ranked.any(1).sum()) / len(labels),
    }
