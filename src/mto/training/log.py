"""What a run says while it trains: a progress line, ``history.jsonl`` and curves.

The line goes to stdout, which is a log file as often as a terminal: plain lines, no control characters.
"""

import json
import math
import time
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from mto.files import replacing
from mto.storage import again, exists
from mto.training import trackers
from mto.training.distributed import gather, mean, world_size

HISTORY = "history.jsonl"


def read_history(path: Path) -> list[dict[str, Any]]:
    """Returns the rows of a history file; none if there is no file. A line cut short by a crash is left out."""
    rows = []
    for line in again(path.read_bytes, path).decode().splitlines() if exists(path) else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


class Averages:
    """Running means of scalars, kept on their device: nothing waits for the GPU until they are read."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, float | Tensor] = {}

    def add(self, scalars: dict[str, Tensor]) -> None:
        for name, value in scalars.items():
            self._add(name, value.detach().double() if isinstance(value, Tensor) else torch.tensor(float(value)), 1)

    def add_finite(self, name: str, value: Tensor) -> None:
        """Adds a value unless it is nan or infinite, without waiting for the device."""
        finite = value.isfinite()
        self._add(name, torch.where(finite, value, 0.0).detach().double(), finite.double())

    def _add(self, name: str, value: Tensor, count: float | Tensor) -> None:
        self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.counts[name] = self.counts.get(name, 0) + count

    def read(self) -> dict[str, float]:
        """Returns the means over what was added, and over the ranks, and starts anew.

        A name without a finite value is left out.
        """
        counts = {name: float(count) for name, count in self.counts.items()}
        means = {name: (total / counts[name]).float() for name, total in self.sums.items() if counts[name]}
        self.sums, self.counts = {}, {}
        return {name: float(value) for name, value in mean(means).items()}

    def state(self) -> dict[str, tuple[float, float]]:
        """Returns the sum and count of each name, of this rank."""
        return {name: (float(total), float(self.counts[name])) for name, total in self.sums.items()}

    def load(self, states: list[dict[str, tuple[float, float]]], rank: int, world_size: int) -> None:
        """Goes on from this one of the ranks' states; among another number of ranks, from their mean."""
        own = states[rank % len(states)]
        if len(states) != world_size:
            own = {name: (fmean(state[name][0] for state in states), count) for name, (_, count) in own.items()}
        self.sums = {name: torch.tensor(total, dtype=torch.float64) for name, (total, _) in own.items()}
        self.counts = {name: count for name, (_, count) in own.items()}


class Log:
    """Averages what each pass returns; writes a row every ``log_interval`` optimiser steps and at each epoch's end.

    A row of ``history.jsonl``: ``step``, ``epoch`` (fractional), ``lr``, ``grad_norm``, the scalars the model returned,
    ``images_per_second``. Validation adds a row of its own. On resume the rows after the checkpoint are dropped, so the
    file reads like that of an unbroken run.

    Args:
        directory: of ``history.jsonl`` and ``tensorboard/``.
        job: what is trained, by which its curves are named.
        rank: of this process; the first one writes.
        batch_size: the global batch, for images/s.
        log_interval: in optimiser steps.
        steps_per_epoch: optimiser steps an epoch; None when the stage counts iterations.
        stop_step: the step at which this segment ends, for the time left.
        first_step: rows up to this step belong to the history of the segment before, and are not written again.
    """

    def __init__(
        self,
        directory: Path,
        job: dict[str, Any],
        *,
        rank: int,
        batch_size: int,
        log_interval: int,
        steps_per_epoch: int | None,
        stop_step: int,
        first_step: int = 0,
    ) -> None:
        self.directory = directory
        self.job = job
        self.rank = rank
        self.batch_size = batch_size
        self.log_interval = log_interval
        self.steps_per_epoch = steps_per_epoch
        self.stop_step = stop_step
        self.first_step = first_step
        self.averages = Averages()
        #: Seconds of training and images seen in them, over all attempts of this segment; of the images those that
        #: were trained on eagerly, since the compiler had failed.
        self.usage = {"train_seconds": 0.0, "images": 0, "eager_images": 0}
        self._since: float | None = time.perf_counter()  # None while validating
        self._done = 0
        self._trackers = trackers.asked()
        self._curves: trackers.Curves | None = None
        #: Rows that an earlier attempt had written, by step and whether they are a validation's.
        self._known: set[tuple[int, bool]] = set()

    def is_logged(self, step: int) -> bool:
        """Returns whether a row is written when the optimiser has made ``step`` steps."""
        return step % self.log_interval == 0 or bool(self.steps_per_epoch and step % self.steps_per_epoch == 0)

    # ------------------------------------------------------------------ what a resumed run needs to know
    def state(self) -> dict[str, Any]:
        """Returns what the rest of an open interval needs; every rank must ask."""
        return {"usage": {**self.usage, "stop_step": self.stop_step}, "averages": gather(self.averages.state())}

    def load(self, state: dict[str, Any]) -> None:
        """Goes on from a training state."""
        self.averages.load(state["averages"], self.rank, world_size())
        if state["usage"]["stop_step"] == self.stop_step:  # the same segment goes on
            self.usage |= {name: value for name, value in state["usage"].items() if name in self.usage}

    def begin(self, step: int, round_open: bool) -> None:
        """Cuts the history where training begins, at ``step``; a round that is still open has its validation ahead."""
        self._done = step
        if self.rank == 0:
            path = self.directory / HISTORY
            open_at = step if round_open else None
            rows = read_history(path)
            self._known = {_key(row) for row in rows}
            rows = [row for row in rows if row["step"] <= step]
            kept = [json.dumps(row) + "\n" for row in rows if "lr" in row or row["step"] != open_at]
            with replacing(path) as temporary:
                temporary.write_text("".join(kept), encoding="utf-8")

    # ------------------------------------------------------------------ measuring
    def start_clock(self) -> None:
        """Counts time as training time from here, unless it is counted already."""
        if self._since is None:
            self._since = time.perf_counter()

    def stop_clock(self) -> None:
        """Counts no time from here: a validation begins."""
        self._since = None

    def add(self, scalars: dict[str, Tensor]) -> None:
        """Takes a pass's scalars into the averages."""
        self.averages.add(scalars)

    def add_norm(self, norm: Tensor, scaled: bool) -> None:
        """Takes the gradient's norm into the averages.

        Args:
            scaled: the loss is scaled; then no step is taken where the scaled gradient overflows, and such a norm is
                left out.
        """
        if scaled:
            self.averages.add_finite("grad_norm", norm)
        else:
            self.averages.add({"grad_norm": norm})

    # ------------------------------------------------------------------ writing
    def row(self, step: int, lr: float, eager: bool) -> dict[str, float] | None:
        """Writes the row of ``step``, if one is due, and returns it, on every rank.

        Args:
            eager: the compiler has failed, and these images were trained on without it.
        """
        if not self.is_logged(step):
            return None
        scalars = self.averages.read()
        now = time.perf_counter()
        seconds, images = now - (self._since or now), (step - self._done) * self.batch_size
        self._since, self._done = now, step
        self.usage["train_seconds"] += seconds
        self.usage["images"] += images
        self.usage["eager_images"] += images if eager else 0
        row = {"step": step, "epoch": self._epoch(step), "lr": lr} | scalars
        self._write(row | {"images_per_second": images / seconds})
        left = (self.stop_step - step) * self.batch_size / (self.usage["images"] / self.usage["train_seconds"])
        loss = scalars.get("loss", math.nan)
        self._say(
            f"{self._where(step)}  loss {loss:.4f}  lr {lr:.2e}  {images / seconds:.1f} img/s  ETA {_clock(left)}"
        )
        return row

    def validation(self, step: int, metrics: dict[str, float]) -> None:
        """Writes the row of a validation."""
        scalars = {name: float(value) for name, value in metrics.items()}
        self._write({"step": step, "epoch": self._epoch(step)} | scalars)
        shown = "  ".join(f"{name} {value:.2f}" for name, value in scalars.items())
        self._say(f"{self._where(step)}  validation  {shown}")

    def close(self) -> None:
        """Closes the curves."""
        if self._curves:
            self._curves.close()
            self._curves = None

    def _epoch(self, step: int) -> float:
        return round(step / self.steps_per_epoch, 6) if self.steps_per_epoch else 0.0

    def _where(self, step: int) -> str:
        width = len(str(self.stop_step))
        where = f"step {step:>{width}}/{self.stop_step}"
        if self.steps_per_epoch:
            where = f"epoch {step / self.steps_per_epoch:.2f}/{self.stop_step / self.steps_per_epoch:g}  {where}"
        return where

    def _say(self, line: str) -> None:
        if self.rank == 0:
            print(line, flush=True)

    def _write(self, row: dict[str, float]) -> None:
        if self.rank or row["step"] <= self.first_step:
            return
        with (self.directory / HISTORY).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        step = int(row["step"])
        if self._curves is None:
            self._curves = trackers.Curves(self._trackers, self.job, self.directory, first_step=step)
        self._curves.add(step, {k: v for k, v in row.items() if k != "step"}, known=_key(row) in self._known)


def _key(row: dict[str, Any]) -> tuple[int, bool]:
    return row["step"], "lr" not in row


def _clock(seconds: float) -> str:
    seconds = int(seconds)
    days, clock = seconds // 86400, f"{seconds // 3600 % 24}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    return f"{days}d {clock}" if days else clock
