"""The training loop of every stage; what happens in a step, and in which order, is the order of the lines of `Loop`.

It is counted in optimiser steps. A **round** is training up to a multiple of ``Length.round`` (an epoch, or a recipe's
``save_interval``), then its validation, if one is due; a round is closed, and its state kept, when both are done. So a
job that is stopped in a validation resumes with that validation. Rates and noise are functions of the step: whatever
its number of attempts, machines and micro-batches, a run is one and the same.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.utils.data import DataLoader

from mto.data.device.decode import batches
from mto.data.rng import seed_of
from mto.errors import UserError
from mto.methods.memory import spare
from mto.storage import exists
from mto.training import failure
from mto.training.checkpoint import State
from mto.training.compiled import fell_back
from mto.training.contract import Evaluator, Length, Logged, Moment, Validation, Work
from mto.training.distributed import gather, unwrap, wrap
from mto.training.log import Log
from mto.training.optim import NORMS, StepWrapper
from mto.training.resume import WarmStart, describe_run, find_state, first_step
from mto.training.schedule import Schedule
from mto.training.signals import Interrupted, Signals, name_of
from mto.training.watch import Finite, Guard, NotFinite
from mto.training.writer import Checkpoints, Writer


def train(
    work: Work[Logged],
    model: Any,
    optimizer: StepWrapper,
    schedule: Schedule,
    length: Length,
    loader: DataLoader,
    validation: Validation | None = None,
    *,
    job: dict[str, Any] | None = None,
    resume_from: Path | None = None,
    start: WarmStart | None = None,
    guard: Guard | None = None,
) -> Loop:
    """Trains, validates, keeps a state each round, and picks up where an earlier attempt was cut off.

    Args:
        model: a `Trainable`; it is moved to the device here.
        schedule: in epochs, or in steps where ``length`` has no epochs.
        loader: micro-batches (`mto.data.imagenet.build_loader`) from an endless sampler
            (``EpochSampler(..., infinite=True)``).
        job: what a state must be of to be continued, where that is less than ``work.job``.
        resume_from: state of the previous segment, used when the progress has none. Where only its weights are left,
            training begins at the start, and the history where that segment's ends.
        start: of a run that goes on from another's state, which ``resume_from`` then is.
        guard: against a collapse.

    Returns:
        The loop at its end: ``model``, and the ``usage`` of its log.

    Raises:
        UserError: the state to go on from is damaged, or of another run; the loss, or a weight, is no number any more;
            the guard has stopped the run.
    """
    hardware = work.hardware
    if hardware.gpus and optimizer.autocast_dtype is not None:
        torch.set_float32_matmul_precision("high")  # TF32 for products left in float32; MTO's refuse it (losses.gram)
    work.progress.mkdir(parents=True, exist_ok=True)
    sampler: Any = loader.sampler
    batch_size = (loader.batch_size or 1) * optimizer.accumulation * hardware.world_size
    sizes = {"dataset_size": sampler.size, "batch_size": batch_size}
    record = describe_run(job or work.job.plain(), **sizes, steps_per_epoch=length.epoch, total_steps=length.total)
    if hardware.world_size > 1:
        distributed.barrier()  # rank 0 has tidied the folder before the others look into it
    if work.replay and exists(before := work.replay.with_name(failure.BEFORE)):
        resume_from = before
    state = find_state(work.progress, resume_from, record, hardware.device, quiet=hardware.rank > 0, start=start)
    model = model.to(hardware.device)
    spare(model, hardware.memory)
    if hardware.compiles and callable(compile_step := getattr(model, "compile_step", None)):
        compile_step(hardware.memory)  # the dense tasks have none: their images differ in size
    log = Log(
        work.progress,
        work.job.plain(),
        rank=hardware.rank,
        batch_size=batch_size,
        log_interval=work.job.log_interval,
        steps_per_epoch=length.epoch,
        stop_step=length.stop,
        first_step=first_step(resume_from),
    )
    with Writer() as writer:  # a state that is still being written when an error ends the run is finished
        checkpoints = Checkpoints(work.progress, work.lock, writer)
        finite = Finite(work.progress, record, writer)
        loop = Loop(
            work, model, optimizer, schedule, length, loader, validation, record, log, finite, guard, checkpoints
        )
        if state is not None:
            loop.load(state)
        del state  # as large as the model and its moments
        if work.replay:
            failure.replay(loop, work.replay)
        loop.run()
    return loop


@dataclass
class Loop:
    """Training from the step of a state, or 0, to the end of a segment.

    Attributes:
        record: what the run's states say of it (`describe_run`).
        step: optimiser steps done.
        round_open: a round's steps are done, and its validation or its state is not.
    """

    work: Work[Logged]
    model: Any
    optimizer: StepWrapper
    schedule: Schedule
    length: Length
    loader: DataLoader
    validation: Validation | None
    record: dict[str, Any]
    log: Log
    finite: Finite
    guard: Guard | None
    checkpoints: Checkpoints
    step: int = 0
    round_open: bool = False

    def __post_init__(self) -> None:
        self.hardware = self.work.hardware
        self.signals = Signals()
        self.trace = failure.Trace()
        self.wrapped = wrap(self.model, self.hardware)

    @property
    def epoch(self) -> int:
        """The epoch of the next step, from 0."""
        return self.step // self.length.epoch if self.length.epoch else 0

    def run(self) -> None:
        """Trains to the end of the segment.

        Raises:
            Interrupted: a signal came; the state was kept.
            UserError: see `train`.
        """
        try:
            self._explained()
        except NotFinite as error:
            if command := failure.keep(self, str(error)):
                error.args = (f"{error}. {command} takes that step again",)
            raise
        finally:
            self.log.close()

    def _explained(self) -> None:
        try:
            self._run()
        except UserError:
            raise
        except Exception:
            self.finite.explain(self.step, self.model)
            raise

    def _run(self) -> None:
        self.signals.listen(self.hardware.rank)
        self.log.begin(self.step, self.round_open)
        self.wrapped.train()
        self.loader.sampler.skip(self.step * self.optimizer.accumulation * self.loader.batch_size)  # type: ignore
        stream: Iterator[Any] | None = None
        while self.step < self.length.stop or self.round_open:
            if not self.round_open:
                stream = stream or batches(self.loader, self.model, self.hardware.device)
                row = self.take_step(stream)
                self.watch(row)
                self.leave_if_asked(self.signals.after_step())
            if self.round_open:
                if self.validation and self.length.is_validated(self.step):
                    self.validate(*self.validation)
                self.round_open = False
                self.save()
        self.signals.stop()

    def take_step(self, stream: Iterator[Any]) -> dict[str, float] | None:
        """Takes an optimiser step; returns the row of the history that it completes, if it does."""
        self.optimizer.set_rates(self.schedule, self.step, self.length.unit)
        seed_noise(self.work.job.seed, self.step, self.hardware.rank)
        logged = self.log.is_logged(self.step + 1)
        for number in range(1, self.optimizer.accumulation + 1):
            batch = next(stream)
            self.log.start_clock()
            now = Moment(self.step, self.epoch, number == 1, logged, self.length)
            self.model.before_pass(now)
            last = number == self.optimizer.accumulation
            scalars = run_pass(self.wrapped, self.optimizer, batch, last)
            self.trace.note(self.step, number, scalars)
            self.log.add(scalars)
        norm = self.optimizer.step()
        if self.optimizer.scaler is None:
            self.trace.note_norm(self.step, norm)
        self.model.after_step(now)
        self.log.add_norm(norm, scaled=self.optimizer.scaler is not None)
        row = self.log.row(self.step + 1, self.optimizer.lr, fell_back(self.model))
        self.step += 1
        if self.length.ends_epoch(self.step):
            self.model.after_epoch()
        self.round_open = self.length.ends_round(self.step)
        return row

    def watch(self, row: dict[str, float] | None) -> None:
        """Ends the run where going on is of no use.

        Raises:
            UserError: the loss is no number, a state could not be written, or the guard has seen enough.
        """
        if row:
            self.finite.look(self.step, row)
        self.checkpoints.writer.check()
        if row and self.guard:
            self.guard.look(row, keep=self.hardware.rank == 0)

    @torch.no_grad()
    def validate(self, loader: DataLoader, evaluator: Evaluator) -> None:
        """Validates, and logs the result; a signal is obeyed between two batches."""
        self.log.stop_clock()
        self.wrapped.eval()
        images = len(loader.dataset)  # type: ignore[arg-type]
        for number, batch in enumerate(loader, start=1):
            outputs = self.model(**self.model.data_preprocessor(batch, False), mode="predict")
            evaluator.process(data_samples=outputs, data_batch=batch)
            everyone = number * loader.batch_size * self.hardware.world_size <= images  # type: ignore[operator]
            self.leave_if_asked(self.signals.in_validation(everyone))
        self.log.validation(self.step, evaluator.evaluate(images))
        self.wrapped.train()

    def leave_if_asked(self, reason: int) -> None:
        """Saves and leaves, if there is a reason.

        Raises:
            Interrupted: there is.
        """
        if not reason:
            return
        self.signals.obey()
        self.save()
        self.checkpoints.writer.wait()
        self.signals.wait_for_others()
        if self.hardware.rank == 0:
            why = name_of(reason)
            print(f"mto: {why}: stopped and saved at step {self.step}; run again to continue from there", flush=True)
        raise Interrupted(128 + reason)

    # ------------------------------------------------------------------ states
    def save(self) -> None:
        """Keeps a state. The parameters are rank 0's; what ranks do not share is gathered.

        Raises:
            NotFinite: it would hold a NaN.
        """
        state = self.state()
        self.finite.look_at_state(self.step, state)
        if self.hardware.rank:
            return
        record = self.record | {
            "step": self.step,
            "samples": self.step * self.record["batch_size"],
            "epoch": self.epoch,
            "round_open": self.round_open,
        }
        self.checkpoints.save(state, record, at_end=self.step == self.length.stop and not self.round_open)

    def state(self) -> State:
        """Returns all that it takes to go on from here; every rank must ask. It is complete on rank 0 alone."""
        return {
            "state_dict": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "statistics": gather(_statistics(self.model)),
            **self.log.state(),
            **({"guard": self.guard.seen} if self.guard else {}),
        }

    def load(self, state: State) -> None:
        """Goes on from a state. A state that does not fit the model is an error, not a warning."""
        self.log.load(state)
        if self.guard:
            self.guard.seen = state.get("guard", 0)
        self.model.load_state_dict(state["state_dict"])
        if len(state["statistics"]) == self.hardware.world_size:
            self.model.load_state_dict(state["statistics"][self.hardware.rank], strict=False)
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["meta"]["step"]
        self.round_open = state["meta"]["round_open"]


def run_pass(model: nn.Module, optimizer: StepWrapper, batch: Any, last: bool = True) -> dict[str, Tensor]:
    """Runs a micro-batch forward and back; returns what is to be logged of it.

    Args:
        model: a `Trainable`, maybe wrapped for several processes.
        last: of the step; before it no process waits for the others' gradients.
    """
    bare = unwrap(model)
    alone: Callable = getattr(model, "no_sync", nullcontext) if not last else nullcontext
    with alone(), optimizer.autocast():
        losses = model(**bare.data_preprocessor(batch, True), mode="loss")
    loss, scalars = bare.parse_losses(losses)
    optimizer.backward(loss)
    return scalars


def seed_noise(seed: int, step: int, rank: int) -> None:
    """Seeds the model-side noise (drop path, mixup) from (seed, step, rank).

    So a run that is resumed at any step draws what the unbroken one drew, without a state of generators to keep.
    """
    number = seed_of(seed, "noise", step, rank)
    random.seed(number)
    np.random.seed(number % 2**32)  # noqa: NPY002  (timm's mixup draws from the legacy generator)
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_initialized():  # else torch would note down, at each step, where it is to be seeded from
        torch.cuda.manual_seed(number)


def _statistics(model: nn.Module) -> dict[str, Tensor]:
    """Returns the running statistics of batch norms, which each rank keeps of its own share."""
    found: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, NORMS):
            found |= {f"{name}.{key}": value.cpu() for key, value in module.named_buffers(recurse=False)}
    return found
