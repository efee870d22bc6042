"""The measurements of one baseline: build its workloads, let their steps take turns, fill a row for each."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch

from mto.__main__ import DETERMINISTIC
from mto.bench import loading
from mto.bench.cli import WITH_LOADER
from mto.bench.measure import Step, flops, interleaved, memory, operators, peak_flops
from mto.bench.workloads import STAGES, Workload, build, job_of
from mto.errors import UserError
from mto.study import Study
from mto.tasks.provenance import device_name
from mto.training.hardware import Hardware
from mto.training.optim import AUTOCAST, StepWrapper, build_optimizer, parameter_groups

Row = dict[str, Any]


def machine(args: argparse.Namespace) -> Row:
    """Choose the device, fill what the arguments left open, and say what the machine is and could do."""
    gpu = torch.cuda.is_available()
    if args.device == "cuda" and not gpu:
        raise UserError("--device cuda: no CUDA device visible here")
    args.device = torch.device(args.device or ("cuda" if gpu else "cpu"))
    small = args.device.type == "cpu"
    if small:
        args.depth, args.images = args.depth or 4, args.images or 2
        args.workers = args.workers or 0
    args.steps = args.steps or (3 if small else 20)
    args.precision = args.precision or ("fp32" if small else None)
    args.compile = (not small) if args.compile is None else args.compile
    torch.set_float32_matmul_precision("highest" if args.precision == "fp32" else "high")  # as `train` does
    dtype = AUTOCAST[args.precision or "bf16"] or torch.float32
    return {
        "device": device_name(Hardware(gpus=0 if small else 1)),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "precision": args.precision or "as configured",
        "compiled": args.compile,
        "peak_dtype": str(dtype),
        "peak_tflops": peak_flops(args.device, dtype) / 1e12,
    }


def measure(
    args: argparse.Namespace, study: Study, baseline: str, peak_tflops: float, say: Callable[[str], None]
) -> list[Row]:
    """The rows of one baseline's stages; pre-training without and with MTO take turns, step by step."""
    rows = []
    pair = [stage for stage in args.stage if stage.startswith("pretrain")]
    for group in [pair, *([stage] for stage in args.stage if stage not in pair)]:
        if not group:
            continue
        say(f"{baseline}: {', '.join(group)}")
        kernels = DETERMINISTIC.get(STAGES[group[0]][0], "strict")  # as a job of that task has them
        Hardware(gpus=int(args.device.type == "cuda"), deterministic=kernels).setup()
        trained = {stage: prepare(args, study, stage, baseline) for stage in group}
        found = [{"baseline": baseline, "stage": stage, "images": work.images} for stage, (work, _) in trained.items()]
        if {"step", "both"} & set(args.what):
            steps = {stage: _on_device(args, work, train) for stage, (work, train) in trained.items()}
            taken = interleaved(steps, args.device, rounds=args.steps, warmup=2)
            for row, (stage, step) in zip(found, steps.items(), strict=True):
                row |= _step_numbers(args, trained[stage], step, taken[stage], peak_tflops)
                if stage == "pretrain-mto" and "pretrain" in taken:
                    row["mto_ratio"] = taken[stage] / taken["pretrain"]
        if {"data", "both"} & set(args.what):
            for row, (stage, (work, train)) in zip(found, trained.items(), strict=True):
                if stage in WITH_LOADER:
                    row |= _loading_numbers(args, study, work, train)
        rows += found
        trained.clear()
        torch.cuda.empty_cache()
    return rows


def prepare(
    args: argparse.Namespace, study: Study, stage: str, baseline: str
) -> tuple[Workload, Callable[[Any], object]]:
    """A workload on the device, and its training step as a function of a batch."""
    job = job_of(study, stage, baseline, args.depth)
    if args.precision:
        job["precision"] = args.precision
    configured = study.resources(STAGES[stage][0]).micro_batch or job["optim"]["batch_size"]
    work = build(job, args.images or configured, name=stage)
    model = work.model.to(args.device)
    if args.compile and callable(compile_step := getattr(model, "compile_step", None)):
        compile_step()
    groups = parameter_groups(model, weight_decay=job["optim"]["weight_decay"])
    wrapper = StepWrapper(
        build_optimizer(groups, job["optim"]),
        clip_grad=job["optim"].get("clip_grad"),
        precision=job["precision"],
        device=args.device,
    )
    return work, lambda batch: model.train_step(batch, wrapper)


def _on_device(args: argparse.Namespace, work: Workload, train: Callable[[Any], object]) -> Step:
    """A step whose images wait in pinned memory, as a loader leaves them."""
    if args.device.type == "cuda" and work.name in WITH_LOADER:
        work.batch = {name: value.pin_memory() for name, value in work.batch.items()}
    return lambda: train(dict(work.batch))


def _step_numbers(
    args: argparse.Namespace, trained: tuple[Workload, Any], step: Step, seconds: float, peak_tflops: float
) -> Row:
    work, _ = trained
    compiled = [part for part in ("compiled", "loss") if isinstance(getattr(work.model, part, None), _compiled_type())]
    kept = {part: getattr(work.model, part) for part in compiled}
    peak = memory(step, args.device)
    for part in compiled:  # operators and their FLOPs are those of the eager step: compiled code shows none
        setattr(work.model, part, kept[part].eager if part == "loss" else None)
    counted, operations = operators(step), flops(step)
    for part in compiled:
        setattr(work.model, part, kept[part])
    rate = operations / seconds / 1e12
    return {
        "seconds": seconds,
        "step_images_per_second": work.images / seconds,
        "gflops_per_image": operations / work.images / 1e9,
        "tflops_per_second": rate,
        "peak_share": rate / peak_tflops,
        "memory_mib": peak / 2**20,
        "operators": counted,
    }


def _compiled_type() -> type:
    from mto.training.compiled import Compiled

    return Compiled


def _loading_numbers(args: argparse.Namespace, study: Study, work: Workload, train: Callable[[Any], object]) -> Row:
    workers = study.resources(work.job["task"]).workers if args.workers is None else args.workers
    row: Row = {"workers": workers}
    with loading.photographs(64 if args.device.type == "cpu" else 512) as root:
        if "data" in args.what:
            loader = loading.loader_of(work.job, root, work.images, workers, pin_memory=args.device.type == "cuda")
            row["data_images_per_second"] = loading.rate(loader, work.images, args.steps)
        if "both" in args.what:
            loader = loading.loader_of(work.job, root, work.images, workers, pin_memory=args.device.type == "cuda")
            both = loading.together(loader, train, work.images, args.steps, args.device)
            row |= {"both_images_per_second": both["images_per_second"], "waiting_share": both["waiting_share"]}
    return row
