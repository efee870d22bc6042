"""What the training loop asks of a task, a model and an evaluator, and what it tells a model in return."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from torch import Tensor
from torch.utils.data import DataLoader

from mto.runtime.lock import Lock
from mto.training.hardware import Hardware


class Logged(Protocol):
    """What a training run needs of its job (`mto.config.job.LoggedJob`)."""

    @property
    def seed(self) -> int: ...

    @property
    def log_interval(self) -> int: ...

    def plain(self) -> dict[str, Any]:
        """Returns what a state must be of to be continued."""


J = TypeVar("J", bound=Logged, covariant=True)


class Work(Protocol[J]):
    """What a training run needs of its task (`mto.tasks.task.Task`).

    Attributes:
        name: of the task.
        inputs: files of earlier jobs, by name.
        job: what this run is, with its ``seed`` and ``log_interval``. A state of another job is not continued.
        progress: the folder of state, history and curves; a ``last.pth`` in it is resumed from.
        lock: of the run's folder, held, and asked before each write; None: nobody else can be at work in it.
        replay: the record of a failed step (`mto.training.failure`) that is to be taken again, instead of training.
    """

    @property
    def name(self) -> str: ...

    @property
    def inputs(self) -> dict[str, Path]: ...

    @property
    def job(self) -> J: ...

    @property
    def hardware(self) -> Hardware: ...

    @property
    def lock(self) -> Lock | None: ...

    @property
    def progress(self) -> Path: ...

    @property
    def replay(self) -> Path | None: ...


class Trainable:
    """What the loop asks of a model. The first three are mmengine's, whose networks train here as they are.

    * ``data_preprocessor(batch, training)`` gives the keyword arguments of ``forward``, on the device.
    * ``forward(**inputs, mode="loss")`` gives named losses, ``mode="predict"`` what the evaluator takes.
    * ``parse_losses(losses)`` gives the loss to go back from, and the scalars to be logged.
    """

    def parse_losses(self, losses: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the total, and everything for the log; a model that names its total ``loss`` has no more to say."""
        return losses["loss"], {name: value.detach() for name, value in losses.items()}

    def before_pass(self, now: Moment) -> None:
        """Learns where training stands, before each micro-batch."""

    def after_step(self, now: Moment) -> None:
        """Follows the parameters, which an optimiser step has just moved: a teacher, a running average."""

    def after_epoch(self) -> None:
        """Ends an epoch, before its validation."""


class Evaluator(Protocol):
    """What judges a validation's predictions; mmengine's, too, is one."""

    def process(self, data_samples: Any, data_batch: Any) -> None: ...

    def evaluate(self, size: int) -> dict[str, float]: ...


class Validation(NamedTuple):
    """What a model is validated on, and what judges it."""

    loader: DataLoader
    evaluator: Evaluator


@dataclass(frozen=True)
class Length:
    """How long a run is, in optimiser steps.

    Attributes:
        total: of the whole schedule.
        stop: where this segment of it ends.
        round: of a round; the last may be shorter.
        validation: a validation is due at its multiples, and at the end of the schedule.
        epoch: of an epoch; None for a schedule that is counted in steps, which is one epoch.
    """

    total: int
    stop: int
    round: int
    validation: int
    epoch: int | None = None

    @classmethod
    def in_epochs(cls, epochs: int, steps: int, *, stop_at: int | None = None, validate_every: int = 1) -> Length:
        """Returns the length of ``epochs`` of ``steps`` each, with a state an epoch.

        Args:
            stop_at: epochs done at the end of this segment; all of them by default.
            validate_every: epochs from one validation to the next.
        """
        return cls(epochs * steps, (stop_at or epochs) * steps, steps, validate_every * steps, steps)

    @property
    def unit(self) -> int:
        """Steps in the unit of the schedule: an epoch, or a step."""
        return self.epoch or 1

    def ends_epoch(self, step: int) -> bool:
        return step == self.total or bool(self.epoch and step % self.epoch == 0)

    def ends_round(self, step: int) -> bool:
        return step % self.round == 0 or step == self.total

    def is_validated(self, step: int) -> bool:
        return step % self.validation == 0 or step == self.total


class Moment(NamedTuple):
    """Where training stands, when a step is taken.

    Attributes:
        step: optimiser steps done.
        epoch: epochs done, whole ones.
        first_pass: the step's first micro-batch.
        logged: a row of the history follows the step.
        length: of the run.
    """

    step: int
    epoch: int
    first_pass: bool
    logged: bool
    length: Length
