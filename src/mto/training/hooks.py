"""What happens around the iterations of every stage: rates, seeds, checkpoints, the end of a segment, signals."""

import os
import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook

from mto.data.rng import seed_of
from mto.training.schedule import Schedule

CHECKPOINT = "last.pth"


class ScheduleHook(Hook):
    """Set every group's rate before each optimiser step, as a function of the step alone.

    Args:
        schedule: in units of epochs or of iterations.
        steps_per_unit: optimiser steps per epoch; 1 for a schedule in iterations.
    """

    priority = "VERY_HIGH"

    def __init__(self, schedule: Schedule, steps_per_unit: int) -> None:
        self.schedule = schedule
        self.steps_per_unit = steps_per_unit

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        wrapper = runner.optim_wrapper
        if runner.iter % wrapper.accumulation:
            return
        step = runner.iter // wrapper.accumulation
        for group in wrapper.optimizer.param_groups:
            group["lr"] = self.schedule.lr(
                step / self.steps_per_unit, group["peak_lr"], group["multiplier"], 1 / self.steps_per_unit
            )


class SeedHook(Hook):
    """Re-seed the model-side noise (drop path, mixup) each round from (seed, round, rank).

    Rounds are where checkpoints are written, so a resumed run draws what the unbroken one drew.
    """

    priority = "VERY_HIGH"

    def __init__(self, seed: int, by_epoch: bool) -> None:
        self.seed = seed
        self.by_epoch = by_epoch

    def before_train_epoch(self, runner) -> None:
        if self.by_epoch:
            self._reseed(runner.epoch, runner.rank)

    def before_round(self, runner) -> None:
        self._reseed(runner.iter, runner.rank)

    def _reseed(self, round_number: int, rank: int) -> None:
        number = seed_of(self.seed, "noise", round_number, rank)
        random.seed(number)
        np.random.seed(number % 2**32)  # noqa: NPY002  (timm's mixup draws from the legacy generator)
        torch.manual_seed(number)


class CheckpointHook(Hook):
    """Keep the last state in ``work_dir/last.pth``, replaced atomically after each round; end a segment.

    Args:
        directory: where the checkpoint is kept.
        stop_at: completed epochs after which this segment ends; None: the schedule's end.
    """

    priority = "VERY_LOW"

    def __init__(self, directory: Path, stop_at: int | None) -> None:
        self.directory = directory
        self.stop_at = stop_at

    def before_train(self, runner) -> None:
        self._stop_if_done(runner)  # an earlier attempt may have died between its last checkpoint and its outputs

    def after_round(self, runner) -> None:
        # The loop has counted this epoch (iteration) already.
        meta = {"epoch": runner.epoch, "iter": runner.iter}
        runner.save_checkpoint(str(self.directory), CHECKPOINT + ".tmp", meta=meta)
        if runner.rank == 0:
            os.replace(self.directory / (CHECKPOINT + ".tmp"), self.directory / CHECKPOINT)
        self._stop_if_done(runner)

    def _stop_if_done(self, runner) -> None:
        if self.stop_at is not None and runner.epoch >= self.stop_at:
            runner.train_loop.stop_training = True


class Interrupted(SystemExit):
    """The job was asked to stop (scheduler's time limit, Ctrl-C on the cluster): exit code 128 + signal."""


class SignalHook(Hook):
    """On SIGTERM or SIGUSR1 finish the iteration and leave; a rerun starts from the last round's checkpoint."""

    priority = "LOWEST"

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def before_train(self, runner) -> None:
        for number in (signal.SIGTERM, signal.SIGUSR1):
            self._previous[number] = signal.signal(number, self._note)

    def _note(self, number: int, frame: Any) -> None:
        self.received = number

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self._leave(runner)

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self._leave(runner)

    def _leave(self, runner) -> None:
        if self.received is not None:
            name = signal.Signals(self.received).name
            print(
                f"mto: stopped by {name} in epoch {runner.epoch}: run again to continue from the last checkpoint",
                flush=True,
            )
            raise Interrupted(128 + self.received)

    def after_train(self, runner) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
