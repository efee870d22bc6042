"""What happens around the steps of every stage: rates, noise, the state on disk."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook

from mto.data.rng import seed_of
from mto.files import link_or_copy, sync
from mto.runtime.lock import Lock
from mto.training.checkpoint import State, fingerprint, save_state
from mto.training.log import HISTORY
from mto.training.resume import CHECKPOINT, PREVIOUS
from mto.training.schedule import Schedule
from mto.training.writer import Writer, on_host


class ScheduleHook(Hook):
    """Set every group's rate before each optimiser step, as a function of the step alone.

    Args:
        schedule: in units of epochs or of steps.
        steps_per_unit: optimiser steps per epoch; 1 for a schedule in steps.
    """

    priority = "VERY_HIGH"

    def __init__(self, schedule: Schedule, steps_per_unit: int) -> None:
        self.schedule = schedule
        self.steps_per_unit = steps_per_unit

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        if batch_idx:
            return
        for group in runner.optim_wrapper.optimizer.param_groups:
            group["lr"] = self.schedule.lr(
                runner.step / self.steps_per_unit, group["peak_lr"], group["multiplier"], 1 / self.steps_per_unit
            )


class SeedHook(Hook):
    """Re-seed the model-side noise (drop path, mixup) at each step from (seed, step, rank).

    So a run that is resumed at any step draws what the unbroken one drew, without a state of generators to keep.
    """

    priority = "VERY_HIGH"

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        if batch_idx:
            return
        number = seed_of(self.seed, "noise", runner.step, runner.rank)
        random.seed(number)
        np.random.seed(number % 2**32)  # noqa: NPY002  (timm's mixup draws from the legacy generator)
        torch.default_generator.manual_seed(number)
        if torch.cuda.is_initialized():  # else torch would note down, at each step, where it is to be seeded from
            torch.cuda.manual_seed(number)


class CheckpointHook(Hook):
    """Keep the run's state in ``last.pth`` after each round, and the one before it in ``previous.pth``.

    A thread writes, while training goes on; the next state waits for it. Where a write failed, the next step raises it.

    Args:
        directory: where they are kept.
        record: whose states these are (`describe_run`).
        lock: of the folder; None: nobody else can be at work in it.
        writer: open as long as the run is at work.
    """

    priority = "VERY_LOW"

    def __init__(self, directory: Path, record: dict[str, Any], lock: Lock | None, writer: Writer) -> None:
        self.directory = directory
        self.record = record
        self.lock = lock
        self.writer = writer

    def after_step(self, runner) -> None:
        self.writer.check()

    def after_round(self, runner) -> None:
        self.save(runner)

    def save(self, runner) -> None:
        """Of every rank at once. The parameters are rank 0's; what ranks do not share is gathered."""
        state = runner.state()
        if runner.rank:
            return
        loop = runner.train_loop
        record = self.record | {
            "step": loop.step,
            "samples": loop.step * self.record["batch_size"],
            "epoch": loop.epoch,
            "round_open": loop.round_open,
        }
        at_end = loop.step == loop.stop_step and not loop.round_open
        self.writer.wait()  # or three states would be in memory
        self.writer.start(self._write, on_host(state), record, at_end)

    def _write(self, state: State, record: dict[str, Any], at_end: bool) -> None:
        if self.lock:
            self.lock.check()
        if at_end:
            record = record | {"fingerprint": fingerprint(state["state_dict"])}
        history = self.directory / HISTORY
        if history.exists():
            sync(history)  # its rows belong to the state
        last, previous = self.directory / CHECKPOINT, self.directory / PREVIOUS
        if last.exists():
            link_or_copy(last, previous)
        save_state(last, state, record)
