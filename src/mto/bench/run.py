"""The bench at work: build workloads, let their steps take turns, fill a row for each."""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data._utils.pin_memory import pin_memory

from mto.bench import loading
from mto.bench.cases import STAGES, WITH_LOADER
from mto.bench.counting import count
from mto.bench.measure import Step, flops, interleaved, memory, operators, peak_flops
from mto.bench.workloads import Workload, build, job_of
from mto.config.job import LoggedJob
from mto.data.device.decode import batches
from mto.data.rng import seed_of
from mto.errors import UserError
from mto.methods.memory import spare
from mto.names import Memory
from mto.study.study import Study
from mto.tasks.provenance import device_name
from mto.training.compiled import fell_back, forget, parts
from mto.training.hardware import Hardware, without_deterministic_form
from mto.training.loop import run_pass
from mto.training.optim import AUTOCAST, StepWrapper, build_optimizer, parameter_groups

Row = dict[str, Any]
Say = Callable[[str], None]
#: How the ``error`` of a row begins whose step does not fit the device.
OUT_OF_MEMORY = "out of memory"


@dataclass(frozen=True)
class Bench:
    """Holds where and how steps are measured.

    Attributes:
        steps: how many are timed.
        precision: one to take instead of the job's.
        compile: whether the steps of pre-training, fine-tuning and probes are compiled.
        memory: what is kept for the backward pass (`mto.methods.memory`).
    """

    device: torch.device
    steps: int
    precision: str | None
    compile: bool
    memory: Memory = "fast"

    @classmethod
    def choose(
        cls,
        device: str | None = None,
        steps: int | None = None,
        precision: str | None = None,
        compile_step: bool | None = None,
    ) -> Bench:
        """Chooses what is not given: a GPU if there is one, 20 compiled steps; on a CPU 3 eager steps in fp32.

        Raises:
            UserError: no GPU where one is asked for.
        """
        gpu = torch.cuda.is_available()
        if device == "cuda" and not gpu:
            raise UserError("--device cuda: no CUDA device visible here")
        chosen = torch.device(device or ("cuda" if gpu else "cpu"))
        small = chosen.type == "cpu"
        return cls(
            chosen,
            steps or (3 if small else 20),
            precision or ("fp32" if small else None),
            not small if compile_step is None else compile_step,
        )

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def machine(self) -> Row:
        """Describes the machine, with its measured peak in TFLOP/s."""
        # As `train` sets it.
        torch.set_float32_matmul_precision("highest" if self.precision == "fp32" else "high")
        dtype = AUTOCAST[self.precision or "bf16"] or torch.float32  # type: ignore[index]
        return {
            "device": device_name(Hardware(gpus=int(self.on_gpu))),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "precision": self.precision or "as configured",
            "compiled": self.compile,
            "peak_dtype": str(dtype),
            "peak_tflops": peak_flops(self.device, dtype) / 1e12,
        }

    def setup(self, deterministic: Literal["strict", "warn", "off"]) -> None:
        """Sets up kernels as a job has them (`Hardware.deterministic`)."""
        Hardware(gpus=int(self.on_gpu), deterministic=deterministic).setup()

    def prepare(self, job: LoggedJob, images: int) -> Trained:
        """Builds a job's workload on the device, and its training step."""
        if self.precision:
            job = job.changed(precision=self.precision)
        work = build(job, images)
        model = work.model.to(self.device)
        spare(model, self.memory)
        if self.compile and callable(compile_step := getattr(model, "compile_step", None)):
            compile_step(self.memory)
        groups = parameter_groups(model, weight_decay=job.optim.weight_decay)
        optimizer = build_optimizer(groups, job.optim)
        wrapper = StepWrapper(
            optimizer,
            clip_grad=job.optim.clip_grad,
            precision=job.precision,
            device=self.device,
        )
        if self.on_gpu and job.task in WITH_LOADER:  # pinned, as a loader leaves them
            work.batch = pin_memory(work.batch)

        def step(batch: Any) -> None:
            run_pass(model, wrapper, batch)
            wrapper.step()

        return Trained(work, step, optimizer)

    def free(self) -> None:
        """Frees the memory of models that nobody holds any more, and drops what was compiled for them."""
        if self.compile:
            forget()
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()

    def seconds_of(self, steps: dict[str, Step]) -> dict[str, float]:
        """Measures the median seconds of each step; they take turns."""
        return interleaved(steps, self.device, rounds=self.steps, warmup=2)

    def numbers(self, trained: Sequence[Trained], peak_tflops: float) -> list[Row]:
        """Times workloads that share the device and whose steps take turns; returns the numbers of each alone."""
        taken = self.seconds_of({str(i): one.step for i, one in enumerate(trained)})
        held = [one.held() for one in trained]
        return [
            one.numbers(self.device, seconds, peak_tflops, beside=sum(held) - own)
            for one, seconds, own in zip(trained, taken.values(), held, strict=True)
        ]

    def rows(
        self,
        trained: Sequence[Trained],
        peak_tflops: float,
        folder: loading.Folder | None,
        workers: int,
        what: Sequence[str],
    ) -> list[Row]:
        """Returns the numbers of workloads that share the device: of their steps, and of their loaders where there are.

        Args:
            folder: of the images that a loader reads; None for the step alone.
            what: of "step", "data" and "both".
        """
        rows: list[Row] = [{} for _ in trained]
        if {"step", "both"} & set(what):
            rows = self.numbers(trained, peak_tflops)
        for one, row in zip(trained, rows, strict=True):
            if folder is not None and one.work.job.task in WITH_LOADER:
                row |= self.loading(one, folder, workers, what)
        return rows

    def loading(self, trained: Trained, folder: loading.Folder, workers: int, what: Sequence[str]) -> Row:
        """Measures the images a second of a workload's loader, alone and together with the step.

        Args:
            what: of "data" and "both".
        """
        work = trained.work
        row: Row = {"workers": workers}

        def loader(which: str) -> DataLoader:
            # Another order each time: files that were read a moment ago are in the memory of the machine.
            job = work.job.changed(seed=seed_of(work.job.seed, work.job.task, work.job.run, which))
            return loading.loader_of(job, folder, work.images, workers, pin_memory=self.on_gpu)

        if "data" in what:
            row["data_images_per_second"] = loading.rate(loader("data"), work.images, self.steps)
        if "both" in what:
            data = loader("both")
            source = batches(data, work.model, self.device)
            both = loading.together(data, source, trained.train, work.images, self.steps, self.device)
            row |= {"both_images_per_second": both["images_per_second"], "waiting_share": both["waiting_share"]}
        return row


@dataclass(frozen=True)
class Trained:
    """A workload on the device, its training step as a function of a batch, and the optimiser of that step."""

    work: Workload
    train: Callable[[Any], object]
    optimizer: torch.optim.Optimizer

    def step(self) -> object:
        return self.train(dict(self.work.batch))

    def held(self) -> int:
        """Returns the bytes that stay between two steps: parameters, buffers, gradients, the optimiser's state."""
        model = self.work.model
        kept: list[Tensor] = [*model.parameters(), *model.buffers()]
        kept += [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        kept += [
            value for state in self.optimizer.state.values() for value in state.values() if isinstance(value, Tensor)
        ]
        return sum(tensor.nbytes for tensor in kept)

    @property
    def compiled(self) -> str:
        """How the step ran: `yes`; `no: fell back`, as the compiler failed; `-` where it was not to be compiled."""
        model = self.work.model
        return "-" if not parts(model) else "no: fell back" if fell_back(model) else "yes"

    def numbers(self, device: torch.device, seconds: float, peak_tflops: float, beside: int = 0) -> Row:
        """Returns the rates, operations and memory of a step that takes so many seconds.

        Args:
            beside: bytes that other workloads hold on the same device.

        ``operators`` is left out where the eager step, by which they are counted, does not fit the device.
        """
        images = self.work.images
        peak = memory(self.step, device) - (beside if device.type == "cuda" else 0)
        compiled = self.compiled
        counted: Row = {}
        try:
            with self._eager():
                operations: float = flops(self.step)
                counted = {"operators": operators(self.step)}
        except torch.OutOfMemoryError:
            operations = count(self.work.job).train * images
        rate = operations / seconds / 1e12
        return {
            "seconds": seconds,
            "step_images_per_second": images / seconds,
            "gflops_per_image": operations / images / 1e9,
            "tflops_per_second": rate,
            "peak_share": rate / peak_tflops,
            "memory_mib": peak / 2**20,
            "compiled": compiled,
            **counted,
        }

    @contextmanager
    def _eager(self) -> Iterator[None]:
        """Makes the model's step eager within: compiled code shows no operators and no operations."""
        model, kept = self.work.model, parts(self.work.model)
        for part, value in kept.items():
            setattr(model, part, value.eager if part == "loss" else None)
        try:
            yield
        finally:
            for part, value in kept.items():
                setattr(model, part, value)


def side_by_side(
    bench: Bench, jobs: Sequence[LoggedJob], images: int, measured: Callable[[Sequence[LoggedJob]], list[Row]]
) -> list[Row]:
    """Measures a row for each job. Their steps take turns; where that fails, as for want of memory, each is alone.

    A job that fails alone has the reason as its ``error`` and no numbers; the others are measured all the same.

    Args:
        images: of the micro-batch.
        measured: returns the rows of jobs whose models are on the device together, and gone when it returns.
    """
    try:
        return measured(jobs)
    except torch.OutOfMemoryError:
        reason = f"{OUT_OF_MEMORY} at micro-batch {images}"
    except (RuntimeError, UserError) as error:
        reason = without_deterministic_form(error, jobs[0].task) or (str(error) or repr(error)).partition("\n")[0]
    finally:  # after the handlers: an error holds the frames that it came through, and so the models
        bench.free()
    if len(jobs) == 1:
        return [{"error": reason}]
    print(f"not together, so one after the other: {reason}", flush=True)
    return [row for job in jobs for row in side_by_side(bench, [job], images, measured)]


def mto_ratio(without: Row, with_mto: Row) -> Row:
    """Returns the time of a step with MTO over one without, where both were measured."""
    both = "seconds" in without and "seconds" in with_mto
    return {"mto_ratio": with_mto["seconds"] / without["seconds"]} if both else {}


def measure(
    args: argparse.Namespace,
    bench: Bench,
    study: Study,
    baseline: str,
    peak_tflops: float,
    folder: loading.Folder | None,
    say: Say,
) -> list[Row]:
    """Measures the rows of one baseline's stages; pre-training without and with MTO take turns, step by step.

    Args:
        folder: of the images that a loader reads; not needed for the step alone.
    """
    rows: list[Row] = []
    pair = [stage for stage in args.stage if stage.startswith("pretrain")]
    for group in [pair, *([stage] for stage in args.stage if stage not in pair)]:
        if not group:
            continue
        say(f"{baseline}: {', '.join(group)}")
        task = STAGES[group[0]][0]
        bench.setup(study.resources(task).kernels)
        jobs = [job_of(study, stage, baseline, args.depth or (None if bench.on_gpu else 4)) for stage in group]
        configured = study.resources(task).micro_batch or jobs[0].optim.batch_size
        images = args.images or (configured if bench.on_gpu else 2)
        together = partial(_measured, args, bench, images, _workers(args, bench, study, task), peak_tflops, folder)
        measured = side_by_side(bench, jobs, images, together)
        found = {
            stage: {"baseline": baseline, "stage": stage, "images": images, **row}
            for stage, row in zip(group, measured, strict=True)
        }
        if {"pretrain", "pretrain-mto"} <= found.keys():
            found["pretrain-mto"] |= mto_ratio(found["pretrain"], found["pretrain-mto"])
        rows += found.values()
    return rows


def _measured(
    args: argparse.Namespace,
    bench: Bench,
    images: int,
    workers: int,
    peak_tflops: float,
    folder: loading.Folder | None,
    jobs: Sequence[LoggedJob],
) -> list[Row]:
    trained = [bench.prepare(job, images) for job in jobs]
    return bench.rows(trained, peak_tflops, folder, workers, args.what)


def _workers(args: argparse.Namespace, bench: Bench, study: Study, task: str) -> int:
    if args.workers is not None:
        return args.workers
    return study.resources(task).workers if bench.on_gpu else 0
