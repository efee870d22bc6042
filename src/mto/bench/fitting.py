"""Does a study's step fit a card, and how large may its micro-batch be: real steps at full size, on an emulated GPU.

Steps are eager, and of pre-training with MTO the heaviest is counted, which compares gradients: a compiled job needs no
more. Beside its tensors a job on a card has CUDA's own memory (`CONTEXT`) and, of several GPUs, the buckets in which
gradients are exchanged.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch

from mto.bench.memory import MIB, peak
from mto.bench.run import Bench, Trained
from mto.bench.trials import Asked, may_vary
from mto.bench.workloads import batch_of
from mto.config.job import LoggedJob, PretrainJob
from mto.config.models import Resources
from mto.errors import UserError
from mto.methods.memory import spare

Row = dict[str, Any]
#: MiB that CUDA's context, its libraries' workspaces and cuDNN take of a card before torch has anything; a guess from
#: above, as it differs between drivers.
CONTEXT = 700


def fit(stages: Mapping[str, tuple[Resources, Sequence[LoggedJob]]], known: Sequence[Row] = ()) -> Iterator[Row]:
    """Yields a row for each job of each stage, with the stage's resources, as soon as it is counted.

    ``needs_mib`` is the whole of it at the configured micro-batch, None where it does not fit. ``fits`` is the largest
    micro-batch that does, of those that halve and double the configured one; 0: none. ``varies`` says whether another
    one leaves the results as they are, since no batch norm sees it. ``seconds`` is what the counting took. Where the
    configured one does not fit, ``spared`` is the first ``memory`` that keeps less with which it does, or the last,
    with its own ``needs_mib`` and ``fits``.

    Args:
        known: rows of an earlier, perhaps unfinished call for the same card. One that is of the very same work
            (``key``) is given again as it is, unless it failed.
    """
    there = {row["key"]: row for row in known if "key" in row and "error" not in row}
    for stage, (resources, jobs) in stages.items():
        asked = Asked(resources.gpu, 0, resources.micro_batch, False, resources.kernels, resources.memory)
        bench = replace(Bench.choose("cuda", 1, None, False), memory=asked.memory)
        bench.setup(asked.deterministic)
        for job in jobs:
            told = json.dumps([job.plain(), asdict(asked)], sort_keys=True)
            key = hashlib.sha256(told.encode()).hexdigest()[:16]
            if key in there:
                yield there[key]
                continue
            row: Row = {"stage": stage, "run": job.run, "micro_batch": asked.micro(job), "varies": may_vary(job)}
            start = time.monotonic()
            row |= _fitted(bench, asked, job)
            yield row | {"seconds": round(time.monotonic() - start, 1), "key": key}


def _fitted(bench: Bench, asked: Asked, job: LoggedJob) -> Row:
    try:
        return _largest(bench, asked, job)
    except (RuntimeError, UserError, IndexError, ValueError) as error:  # what a job on that card would die of
        return {"error": (str(error) or repr(error)).partition("\n")[0]}
    finally:
        bench.free()


def _largest(bench: Bench, asked: Asked, job: LoggedJob) -> Row:
    trained = bench.prepare(job, 2)
    trainable = sum(p.numel() for p in trained.work.model.parameters() if p.requires_grad)
    beside = CONTEXT + (4 * trainable // MIB if asked.gpus > 1 else 0)
    held = torch.empty(beside * MIB, dtype=torch.uint8, device=bench.device)
    row = _searched(trained, asked, job)
    if row["needs_mib"] is None:
        for memory in asked.leaner(job):
            spare(trained.work.model, memory)
            row["spared"] = {"memory": memory} | _searched(trained, asked, job)
            if row["spared"]["needs_mib"] is not None:
                break
    del held
    return row


def _searched(trained: Trained, asked: Asked, job: LoggedJob) -> Row:
    size, share = asked.micro(job), asked.share(job)
    needs = _needs(trained, size)
    row: Row = {"needs_mib": needs, "fits": size if needs is not None else 0}
    grows = needs is not None
    while True:
        size = size * 2 if grows else size // 2
        if not 1 <= size <= share or share % size:
            break
        found = _needs(trained, size)
        if found is not None:
            row["fits"] = size
        if (found is None) == grows:  # the first that does not fit, or the first that does
            break
    return row


def _needs(trained: Trained, images: int) -> float | None:
    """Returns the MiB of the card that the heaviest step takes; None if it does not fit."""
    model, job = trained.work.model, trained.work.job
    trained.work.batch, trained.work.images = batch_of(job, images), images
    compares = isinstance(job, PretrainJob) and bool(job.mto.terms)
    try:
        found = [peak(trained, warmup=2)]
        if compares:
            model.measure_gradients = True
            found.append(peak(trained, warmup=0))
        return max(row["stays_mib"] + row["peak_mib"] for row in found)
    except torch.OutOfMemoryError:
        return None
    finally:
        if compares:
            model.measure_gradients = False
        trained.optimizer.zero_grad()
        torch.cuda.empty_cache()
