"""Leaving when asked to, or when the job's time is up: finish the step, save, and end without a traceback.

Asked by SIGTERM or SIGUSR1, as on a preemption; that a time limit is near, `mto.runtime.time_limit` knows by itself.
"""

from __future__ import annotations

import signal
from typing import Any

import torch
from torch import distributed

from mto.runtime.time_limit import TimeLimit
from mto.training.distributed import world_size

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
#: Stands for a time limit that is near where processes tell each other why they leave, and in the exit code.
TIME_IS_UP = signal.SIGXCPU


class Interrupted(SystemExit):
    """The job was asked to stop (scheduler's time limit, Ctrl-C on the cluster): exit code 128 + signal."""


class Signals:
    """Answers whether any process has a reason to stop, to all processes alike; the reason is a signal's number.

    The processes must leave at the same step, or those that stay wait for the others' gradients for ever. So each step
    they tell each other, over gloo, what they received; the answer is read one step later, so that nobody waits for it.
    """

    def __init__(self) -> None:
        self.received = 0
        self._limit: TimeLimit | None = None
        self._previous: dict[int, Any] = {}
        self._group: Any = None
        self._told: tuple[torch.Tensor, Any] | None = None

    def listen(self, rank: int) -> None:
        """Takes notice of signals from now on, instead of being ended by them, and on rank 0 of the time limit."""
        for number in SIGNALS:
            self._previous[number] = signal.signal(number, self._note)
        if rank == 0:
            self._limit = TimeLimit()
        if world_size() > 1:
            self._group = distributed.new_group(backend="gloo")

    def _note(self, number: int, frame: Any) -> None:
        self.received = number

    @property
    def reason(self) -> int:
        """The signal for which this process should stop; 0: none."""
        if not self.received and self._limit is not None and self._limit.is_near():
            return TIME_IS_UP
        return self.received

    def after_step(self) -> int:
        """Returns the reason for which all must leave after this step, or 0."""
        if self._group is None:
            return self.reason
        last, self._told = self._told, self._tell()
        return 0 if last is None else self._hear(last)

    def in_validation(self, everyone: bool) -> int:
        """Returns the reason for which all must leave a validation, or 0.

        Args:
            everyone: all processes have this batch; the last one may be some processes' alone.
        """
        if self._group is None:
            return self.reason
        return self._hear(self._tell()) if everyone else 0

    def obey(self) -> None:
        """Takes no more notice of signals, since it is being done; ends what the processes were telling each other."""
        for asked in SIGNALS:
            signal.signal(asked, signal.SIG_IGN)
        self._settle()

    def wait_for_others(self) -> None:
        """Waits until every process has saved: a node whose processes are gone may end the others'."""
        if self._group is not None:
            distributed.barrier(group=self._group)

    def stop(self) -> None:
        """Gives the signals back to whoever had them before, when training has come to its end."""
        self._settle()
        if self._limit is not None:
            self._limit.close()
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _tell(self) -> tuple[torch.Tensor, Any]:
        number = torch.tensor(self.reason)
        return number, distributed.all_reduce(number, distributed.ReduceOp.MAX, group=self._group, async_op=True)

    def _hear(self, told: tuple[torch.Tensor, Any]) -> int:
        number, work = told
        work.wait()
        return int(number)

    def _settle(self) -> None:
        if self._told is not None:
            self._hear(self._told)
            self._told = None


def name_of(reason: int) -> str:
    """Returns a reason in words."""
    return "the time limit is near" if reason == TIME_IS_UP else signal.Signals(reason).name
