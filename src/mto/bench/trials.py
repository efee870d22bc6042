"""The measuring of a preflight: real steps of a stage's jobs at their true size, and the micro-batch that fits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, cast

import torch

from mto.bench import loading
from mto.bench.counting import count
from mto.bench.run import OUT_OF_MEMORY, Bench, Trained, mto_ratio, side_by_side
from mto.bench.work import work_key
from mto.config.job import LinearJob, LoggedJob, Photographs, PreflightJob, PretrainJob, read
from mto.data.forms.recognise import place_of
from mto.data.layout import check
from mto.data.listing import NAME, save
from mto.errors import UserError
from mto.names import MEMORIES, SPARED, Memory

Row = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """The hardware of one job of the stage: GPUs, workers, images a pass (None: the whole batch), kernels, memory."""

    gpus: int
    workers: int
    micro_batch: int | None
    compile: bool
    deterministic: Literal["strict", "warn", "off"] = "strict"
    memory: Memory = "fast"

    def leaner(self, job: LoggedJob) -> list[Memory]:
        """Returns the options that keep less, where a job's backward pass goes through the network's blocks."""
        options = list(MEMORIES)
        return options[options.index(self.memory) + 1 :] if job.task in SPARED else []

    def share(self, job: LoggedJob) -> int:
        """Returns how many images of the recipe's batch one GPU has."""
        return max(job.optim.batch_size // max(self.gpus, 1), 1)

    def micro(self, job: LoggedJob) -> int:
        return min(self.micro_batch or self.share(job), self.share(job))


def measure(job: PreflightJob, asked: Asked) -> dict[str, Any]:
    """Measures a stage (`mto.cost.preflight.job`) on one of its GPUs; the other GPUs of the job stay idle.

    Raises:
        UserError: the stage's jobs have GPUs, and there is none here.
    """
    if asked.gpus and not torch.cuda.is_available():
        raise UserError(
            f"preflight: resources.{job.stage}.gpu is {asked.gpus}, and no GPU is visible here (or its driver is "
            f"older than CUDA {torch.version.cuda}); run it where the study will run, as with --profile slurm"
        )
    bench = Bench.choose("cuda" if asked.gpus else "cpu", None, None, asked.compile and asked.gpus > 0)
    bench = replace(bench, memory=asked.memory)
    machine = bench.machine() | {"gpus": asked.gpus, "visible_gpus": torch.cuda.device_count() if asked.gpus else 0}
    bench.setup(asked.deterministic)
    pairs: dict[str, list[LoggedJob]] = {}
    for each in (cast(LoggedJob, read(one)) for one in job.jobs):
        pairs.setdefault(f"{each.baseline}-{each.backbone}", []).append(each)
    rows: list[Row] = []
    with images(job.images) as (folder, kind):
        for name, pair in pairs.items():
            print(f"{name}: {len(pair)} to measure", flush=True)
            rows += _pair(bench, asked, pair, machine["peak_tflops"], folder)
    return {"stage": job.stage, "machine": machine, "images": kind, "rows": rows}


@contextmanager
def images(source: Photographs) -> Iterator[tuple[loading.Folder, str]]:
    """Yields a folder of images and what it is: the dataset, listed once for all rows, or made-up photographs."""
    root = str(place_of(source.root, source.convert))
    folder: dict[str, Any] = {"root": root, "num_classes": source.num_classes, "classes": source.classes}
    try:
        expected = dict.fromkeys(("train", "val"), folder["num_classes"])
        check("imagenet", folder["root"], expected=expected, classes=folder["classes"])
    except UserError:
        width, height = source.side
        with loading.photographs(512 if torch.cuda.is_available() else 64, (width, height)) as made:
            yield loading.of_one_class(made), f"made-up photographs of {width} x {height}"
    else:
        with TemporaryDirectory(prefix="mto-preflight-") as made:
            listing = Path(made, NAME)
            save(listing, Path(folder["root"]), ["train"], folder["classes"])
            yield {**folder, "listing": str(listing)}, root


def _pair(bench: Bench, asked: Asked, pair: list[LoggedJob], peak: float, folder: loading.Folder) -> list[Row]:
    """Measures one baseline and backbone, without and with MTO; of the last one also the micro-batch that fits."""
    rows = _rows(bench, asked, pair, peak, folder)
    if len(rows) == 2:
        rows[1] |= mto_ratio(*rows)
    last = rows[-1]
    if "error" not in last:
        fitted = {"micro_batch": last["micro_batch"], "images_per_second": last["step_images_per_second"]}
        if may_vary(pair[-1]):
            last |= _largest(bench, asked, pair[-1], fitted)
        else:
            last |= {"fits": fitted["micro_batch"], "fits_images_per_second": fitted["images_per_second"]}
    elif last["error"].startswith(OUT_OF_MEMORY):
        last |= _spared(bench, asked, pair[-1])
        last |= _largest(bench, asked, pair[-1], None) if may_vary(pair[-1]) else {}
    return rows


def _rows(bench: Bench, asked: Asked, jobs: list[LoggedJob], peak: float, folder: loading.Folder) -> list[Row]:
    """Returns a row for each job: what it is, and its numbers or its ``error``."""
    measured = side_by_side(bench, jobs, asked.micro(jobs[0]), partial(_measured, bench, asked, peak, folder))
    return [_described(job, asked) | row for job, row in zip(jobs, measured, strict=True)]


def _measured(bench: Bench, asked: Asked, peak: float, folder: loading.Folder, jobs: Sequence[LoggedJob]) -> list[Row]:
    """Measures jobs whose models are on the device together. They are gone with this function's variables."""
    trained = [_prepared(bench, job, asked.micro(job)) for job in jobs]
    rows = bench.rows(trained, peak, folder, asked.workers, ("step", "both"))
    for row in rows:
        row["images_per_second"] = row.get("both_images_per_second", row["step_images_per_second"])
    return rows


def _prepared(bench: Bench, job: LoggedJob, size: int) -> Trained:
    """Prepares a job to be timed, once it has taken its heaviest step, which is to fit, too.

    For pre-training with MTO, that is one that compares MTO's gradients with the method's.
    """
    trained = bench.prepare(job, size)
    if isinstance(job, PretrainJob) and job.mto.terms:
        model: Any = trained.work.model
        model.measure_gradients = True
        trained.step()
        model.measure_gradients = False
    return trained


def _described(job: LoggedJob, asked: Asked) -> Row:
    identity = {key: getattr(job, key) for key in ("run", "task", "baseline", "backbone")}
    mto = {"terms": job.mto.terms if isinstance(job, PretrainJob) else []}
    return {
        **identity,
        "mto": mto,
        "key": work_key(job),
        "train_flops": count(job).train,
        "micro_batch": asked.micro(job),
        "workers": asked.workers,
    }


def may_vary(job: LoggedJob) -> bool:
    """Returns whether the micro-batch leaves the results as they are, since no batch norm sees it."""
    if isinstance(job, LinearJob):
        return not job.probe.batch_norm
    return job.task == "finetune" or (job.task == "pretrain" and job.baseline != "conmim")


def _largest(bench: Bench, asked: Asked, job: LoggedJob, last: Row | None) -> Row:
    """Finds the largest micro-batch that fits: twice as large again and again, up to the recipe's share of a GPU.

    Args:
        last: what the configured one gave; None if it did not fit, and smaller ones are tried.
    """
    tried = [last] if last else []
    size = asked.micro(job)
    while True:
        size = size * 2 if last else size // 2
        if not 1 <= size <= asked.share(job) or asked.share(job) % size:
            break
        found = _attempt(bench, job, size)
        if found is not None:
            tried.append(found)
        if (found is None) == bool(last):  # the first that does not fit, or the first that does
            break
    if not tried:
        return {}
    best = tried[-1]
    return {"fits": best["micro_batch"], "fits_images_per_second": best["images_per_second"], "tried": tried}


def _spared(bench: Bench, asked: Asked, job: LoggedJob) -> Row:
    """Finds the first option of `mto.names.MEMORIES` with which the configured micro-batch fits, as ``spared``."""
    for memory in asked.leaner(job):
        found = _attempt(replace(bench, memory=memory), job, asked.micro(job))
        if found is not None:
            return {"spared": {"memory": memory} | found}
    return {}


def _attempt(bench: Bench, job: LoggedJob, size: int) -> Row | None:
    """Measures a micro-batch's images a second; None if it does not fit, or no kernel takes tensors of that size."""
    try:
        return {"micro_batch": size, "images_per_second": size / _seconds(bench, job, size)}
    except RuntimeError:
        return None
    finally:
        bench.free()


def _seconds(bench: Bench, job: LoggedJob, size: int) -> float:
    """Measures the seconds of a step. The model is gone with this function's variables."""
    trained = _prepared(bench, job, size)
    return bench.seconds_of({"": trained.step})[""]
