"""What ends a run before it wastes more: a loss that is no number, and a collapse that stays.

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
from torch import Tensor

from mto.errors import UserError
from mto.losses.collapsed import collapsed
from mto.names import BASELINES, Run
from mto.training.checkpoint import Damaged, State, read_record
from mto.training.log import HISTORY, read_history
from mto.training.resume import CHECKPOINT
from mto.training.writer import Writer

#: What must be a number, as people call it. A diagnostic may be none: it stops nothing.
WATCHED = {"loss": "the loss", "grad_norm": "the gradient's norm"}
#: Where the guard's verdict is kept.
VERDICT = "collapsed.txt"


class NotFinite(UserError):
    """A loss, a gradient or a weight is not finite."""


class Collapsed(UserError):
    """The guard stopped a run."""


class Finite:
    """Raises `NotFinite` before the first state that would keep the damage.

    Args:
        directory: of the states and the history.
        record: of the run (`describe_run`).
        writer: of the states; None: none is being written.
    """

    def __init__(self, directory: Path, record: Mapping[str, Any], writer: Writer | None = None) -> None:
        self.directory = directory
        self.record = record
        self.writer = writer

    def look(self, step: int, values: Mapping[str, float]) -> None:
        """Looks at a row of the history, or at sums that one will be made of."""
        for name, what in WATCHED.items():
            if not math.isfinite(values.get(name, 0.0)):
                raise self._error(f"{what} is {values[name]}", step)

    def look_at_state(self, step: int, state: State) -> None:
        """Looks at what is about to be saved."""
        for sums in state["averages"]:  # of every rank, on the first: since the last row
            self.look(step, {name: total for name, (total, _) in sums.items()})
        self.look_at_weights(step, state["state_dict"].values())

    def look_at_weights(self, step: int, tensors: Iterable[Tensor]) -> None:
        """Looks at every weight, in one answer of the device."""
        finite = [value.isfinite().all() for value in tensors if value.is_floating_point()]
        if finite and not torch.stack(finite).all():
            raise self._error("a weight is nan or infinite", step)

    def explain(self, step: int, model: torch.nn.Module) -> None:
        """Looks at the weights after an exception that is no user's mistake.

        Between two rows a network of nans may fail in ways that tell nobody why, such as in a detector's boxes or a
        metric.
        """
        with suppress(RuntimeError):  # after some failures a GPU answers no more
            self.look_at_weights(step, model.state_dict().values())

    def _error(self, what: str, step: int) -> NotFinite:
        job, per_epoch = self.record["job"], self.record["steps_per_epoch"]
        epoch = f"epoch {step / per_epoch:.2f}, " if per_epoch else ""
        last = "no finite loss was logged before"
        for row in read_history(self.directory / HISTORY):
            if math.isfinite(row.get("loss", math.nan)):
                last = f"the last finite loss was {row['loss']:.4g}, at step {row['step']}"
        names = [job.get(key) for key in ("baseline", "task")]
        ours = names[0] in BASELINES and names[1]
        rate = f"baselines.{'.'.join(names)}.lr in config.yaml" if ours else "the learning rate"
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


class Guard:
    """Stops a run that MTO has destroyed after a few log intervals, not after months.

    What counts as a collapse is in `mto.losses.collapsed`. Every network starts like that; only a collapse stays there
    past the warm-up. The guard changes no number of a run that it lets pass: it is in no job, so that switching it
    re-queues nothing. Its verdict is kept beside the checkpoint: a scheduler that tries again is told at once.

    Args:
        run: its name, for the message.
        intervals: log intervals in a row.
        warmup_epochs: of the rate; before, every network predicts a constant.
        directory: of the checkpoint.
    """

    def __init__(self, run: str, intervals: int, warmup_epochs: float, directory: Path) -> None:
        self.run = run
        self.intervals = intervals
        self.warmup_epochs = warmup_epochs
        self.verdict = directory / VERDICT
        self.seen = 0

    def remind(self) -> None:
        """Says again what an earlier attempt was stopped for, before anything is read or built.

        Raises:
            Collapsed: there was one.
        """
        if self.verdict.exists():
            raise Collapsed(self.verdict.read_text(encoding="utf-8"))

    def look(self, row: Mapping[str, float], keep: bool = False) -> None:
        """Takes notice of a row of history.jsonl.

        Args:
            keep: write the verdict down, if there is one.

        Raises:
            Collapsed: it is the last of `intervals` in a row that show a collapse.
        """
        signs = collapsed(row) if row["epoch"] > self.warmup_epochs else None
        self.seen = self.seen + 1 if signs else 0
        if self.seen >= self.intervals:  # above it where a later attempt was given fewer
            preset = Run.parse(self.run).preset
            verdict = (
                f"{self.run} has collapsed and was stopped at step {row['step']} (epoch {row['epoch']:.2f}): {signs}, "
                f"for {self.seen} log intervals past the warm-up. Choose another preset of MTO than "
                f"{preset or 'mto.default'} in config.yaml; mto.guard: null lets this one go on"
            )
            if keep:
                self.verdict.write_text(verdict, encoding="utf-8")
            raise Collapsed(verdict)
