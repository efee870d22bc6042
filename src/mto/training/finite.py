"""A loss that is no number ends the run in one line, and never becomes a state that is continued.

No step waits for the device because of it: the means are looked at where they are logged, the sums and the weights
where a state is saved. Both are read there anyway.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from torch import Tensor

from mto.errors import UserError
from mto.training.checkpoint import Damaged, read_record
from mto.training.log import HISTORY, LogHook, read_history
from mto.training.resume import CHECKPOINT
from mto.training.writer import Writer

#: What must be a number, as people call it. A diagnostic may be none: it stops nothing.
WATCHED = {"loss": "the loss", "grad_norm": "the gradient's norm"}


class NotFinite(UserError):
    """Training has left the numbers."""


class FiniteHook(Hook):
    """Raise `NotFinite` before the first state that would keep the damage.

    Args:
        directory: of the states and the history.
        record: of the run (`describe_run`).
        writer: of the states; None: none is being written.
    """

    priority = "VERY_LOW"  # after the row is written, and after the log's part of a state

    def __init__(self, directory: Path, record: Mapping[str, Any], writer: Writer | None = None) -> None:
        self.directory = directory
        self.record = record
        self.writer = writer

    def after_step(self, runner) -> None:
        log = next(hook for hook in runner.hooks if isinstance(hook, LogHook))
        if log.row.get("step") == runner.step:
            self._look(runner.step, log.row)

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        for sums in checkpoint["averages"]:  # of every rank, on the first: since the last row
            self._look(runner.step, {name: total for name, (total, _) in sums.items()})
        self._look_at_weights(runner.step, checkpoint["state_dict"].values())

    def after_failure(self, runner) -> None:
        """Between two rows a network of nans may fail in ways that tell nobody why: a detector's boxes, a metric."""
        with suppress(RuntimeError):  # after some failures a GPU answers no more
            self._look_at_weights(runner.step, runner.model.state_dict().values())

    def _look_at_weights(self, step: int, tensors: Iterable[Tensor]) -> None:
        finite = [value.isfinite().all() for value in tensors if value.is_floating_point()]
        if finite and not torch.stack(finite).all():
            raise self._error("a weight is nan or infinite", step)

    def _look(self, step: int, values: Mapping[str, float]) -> None:
        for name, what in WATCHED.items():
            if not math.isfinite(values.get(name, 0.0)):
                raise self._error(f"{what} is {values[name]}", step)

    def _error(self, what: str, step: int) -> NotFinite:
        job, per_epoch = self.record["job"], self.record["steps_per_epoch"]
        epoch = f"epoch {step / per_epoch:.2f}, " if per_epoch else ""
        last = "no finite loss was logged before"
        for row in read_history(self.directory / HISTORY):
            if math.isfinite(row.get("loss", math.nan)):
                last = f"the last finite loss was {row['loss']:.4g}, at step {row['step']}"
        names = [job.get(key) for key in ("baseline", "task")]
        rate = f"baselines.{'.'.join(names)}.lr in config.yaml" if all(names) else "the learning rate"
        precision = job.get("precision", "fp32")
        other = "" if precision == "fp32" else f" or set precision: fp32 (it is {precision})"
        return NotFinite(
            f"{job.get('run', self.directory)}: {what} at {epoch}step {step} of {self.record['total_steps']}; {last}. "
            f"Started again, it goes on from {self._kept()}. If that does not help, lower {rate}{other}, which starts "
            f"it over. The terms of the loss are in {self.directory / HISTORY}"
        )

    def _kept(self) -> str:
        state = self.directory / CHECKPOINT
        if self.writer:
            with suppress(Exception):  # what became of a write is less than what is to be said here
                self.writer.wait()
        with suppress(Damaged):
            if state.exists():
                return f"the state of step {read_record(state)['step']}"
        return "the start of this job"
