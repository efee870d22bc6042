"""Pre-train one segment: from the previous one's state to ``epoch`` completed epochs of an ``epochs``-long schedule.

Out: encoder.safetensors (what downstream tasks load, timm's names), state.pth (what the next segment continues from),
metrics.json, history.jsonl. In: ``state``, the previous segment's state.pth, unless it starts the run.
"""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

from mto.config.job import HeterogeneityJob, PretrainJob
from mto.data.device.pixels import Pixels
from mto.data.imagenet import PretrainDataset, build_loader
from mto.data.sampler import EpochSampler
from mto.errors import UserError
from mto.files import link_or_copy
from mto.names import IMPORTED, TERMS, Run
from mto.tasks.build import build_method
from mto.tasks.task import Task
from mto.training.contract import Length
from mto.training.log import HISTORY, read_history
from mto.training.loop import Loop, train
from mto.training.mim import MaskedImageModel
from mto.training.optim import StepWrapper, build_optimizer, parameter_groups
from mto.training.resume import CHECKPOINT, WarmStart
from mto.training.schedule import Schedule
from mto.training.watch import Guard
from mto.training.weights import save_weights


def run(task: Task[PretrainJob]) -> None:
    job, hardware, guard = task.job, task.hardware, build_guard(task)
    if job.epoch > job.epochs:
        raise UserError(
            f"epoch {job.epoch} of {job.run} lies beyond its schedule of {job.epochs} epochs: in config.yaml "
            f"raise baselines.{job.baseline}.pretrain.schedule.total_epochs, or measure earlier epochs"
        )
    if "state" in task.inputs and (origin := task.input("state").with_name(IMPORTED)).exists():
        raise UserError(
            f"{origin.parent}: imported, and a published checkpoint has no optimiser state to continue from"
        )
    dataset = PretrainDataset(job)
    plan = hardware.plan(job.optim.batch_size)
    sampler = EpochSampler(
        len(dataset),
        seed=job.seed,
        shuffle=True,
        drop_last_to=plan.size,
        rank=hardware.rank,
        world_size=hardware.world_size,
        infinite=True,
    )
    model = build_model(job)
    model.compare_every = task.gradient_interval * job.log_interval
    groups = parameter_groups(
        model.method,
        weight_decay=job.optim.weight_decay,
        no_decay=set(job.optim.no_decay),
    )
    loader = build_loader(dataset, sampler, plan.micro, hardware.workers, pin_memory=hardware.gpus > 0)
    length = Length.in_epochs(job.epochs, sampler.used // plan.size, stop_at=job.epoch)
    run_job = {key: value for key, value in job.plain().items() if key != "epoch"}  # one run, in segments
    loop = train(
        task,
        model,
        StepWrapper(
            build_optimizer(groups, job.optim),
            accumulation=plan.accumulation,
            clip_grad=job.optim.clip_grad,
            precision=job.precision,
            device=hardware.device,
        ),
        Schedule.from_job(job.schedule, job.epochs),
        length,
        loader,
        job=run_job,
        resume_from=task.inputs.get("state"),
        start=warm_start(job, run_job, length),
        guard=guard,
    )
    if hardware.rank == 0:
        save(task, loop)


def build_guard(task: Task[PretrainJob]) -> Guard | None:
    """Returns the guard of a run with MTO, unless it is switched off.

    A run with only some of MTO's terms has none: of L_r alone the paper foresees a collapse (Section 5.4), and Table 3
    wants its accuracy all the same.

    Raises:
        Collapsed: it stopped an earlier attempt.
    """
    job = task.job
    if not task.guard or set(job.mto.terms) != set(TERMS):
        return None
    guard = Guard(job.run, task.guard, job.schedule.warmup_epochs, task.progress)
    guard.remind()
    return guard


def warm_start(job: PretrainJob, run_job: dict[str, Any], length: Length) -> WarmStart | None:
    """Returns where a run with MTO leaves the run without it (`mto.starts_at`); None of one that has MTO all along.

    Args:
        run_job: what a state of the run says of it.
    """
    if not job.mto.starts_at:
        return None
    plain = {**run_job, "run": Run.parse(job.run).without_mto.name, "mto": {"terms": []}}
    return WarmStart(plain, job.mto.starts_at * length.unit)


def build_model(job: PretrainJob | HeterogeneityJob) -> MaskedImageModel:
    """Builds the method, its teacher, and MTO."""
    from mto.losses.mto import MaskedTokenOptimization
    from mto.methods.masking import build_mask_sampler

    size = job.method
    counted = build_mask_sampler(size.img_size, size.patch_size, **job.mask.written()).num_masked
    switches = job.mto.written() if isinstance(job, PretrainJob) else {"terms": []}
    starts_at = switches.pop("starts_at", 0)
    mto = MaskedTokenOptimization(**switches)
    return MaskedImageModel(build_method(job.method, job.seed), mto, counted, Pixels.of(job), starts_at=starts_at)


def save(task: Task[PretrainJob], loop: Loop) -> None:
    """Writes the declared outputs. Until the last is there, a rerun finds the state in the progress folder."""
    task.lock.check()
    save_encoder(task, loop.model)
    link_or_copy(task.progress / CHECKPOINT, task.out / "state.pth")
    task.finish(last_epoch(task.progress / HISTORY), loop.log.usage)


def save_encoder(task: Task[PretrainJob], model: MaskedImageModel) -> None:
    """Writes encoder.safetensors, under timm's names; its metadata says which run it is of."""
    encoder = model.method.encoder_state(model.teacher)
    state = {name: value.detach().cpu().contiguous() for name, value in encoder.items()}
    save_weights(
        task.out / "encoder.safetensors", state, {key: str(getattr(task.job, key)) for key in ("run", "epoch", "seed")}
    )


def last_epoch(history: Path) -> dict[str, float]:
    """Returns means over the last epoch's rows; a diagnostic that was no number in one of them is left out."""
    rows = [row for row in read_history(history) if "loss" in row]
    if not rows:
        return {}
    begin = rows[-1]["epoch"] - 1
    rows = [row for row in rows if row["epoch"] > begin]
    names = [name for name in rows[-1] if name not in ("step", "epoch", "lr", "images_per_second")]
    means = {name: statistics.fmean(row[name] for row in rows if name in row) for name in names}
    return {name: mean for name, mean in means.items() if math.isfinite(mean)}
