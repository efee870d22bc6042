"""Leaving when asked to, or when the job's time is up: finish the step, save, and end without a traceback.

Asked by SIGTERM or SIGUSR1, as on a preemption; that a time limit is near, `mto.runtime.time_limit` knows by itself.
"""

from __future__ import annotations

import signal
from typing import Any

import torch
from mmengine.hooks import Hook
from torch import distributed

from mto.runtime.time_limit import TimeLimit
from mto.training.hooks import CheckpointHook

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
#: Stands for a time limit that is near where processes tell each other why they leave, and in the exit code.
TIME_IS_UP = signal.SIGXCPU


class Interrupted(SystemExit):
    """The job was asked to stop (scheduler's time limit, Ctrl-C on the cluster): exit code 128 + signal."""


class SignalHook(Hook):
    """Save and leave after the step (or, in validation, after the batch) in which a reason to stop came to any process.

    The processes must leave at the same step, or those that stay wait for the others' gradients for ever. So each step
    they tell each other, over gloo, what they received; the answer is read one step later, so that nobody waits for it.

    Args:
        checkpoint: how to save.
    """

    priority = "LOWEST"

    def __init__(self, checkpoint: CheckpointHook) -> None:
        self.checkpoint = checkpoint
        self.received = 0
        self._limit: TimeLimit | None = None
        self._previous: dict[int, Any] = {}
        self._group: Any = None
        self._told: tuple[torch.Tensor, Any] | None = None

    def before_train(self, runner) -> None:
        for number in SIGNALS:
            self._previous[number] = signal.signal(number, self._note)
        if runner.rank == 0:
            self._limit = TimeLimit()
        if runner.distributed:
            self._group = distributed.new_group(backend="gloo")

    @property
    def reason(self) -> int:
        """The signal for which this process should stop; 0: none."""
        if not self.received and self._limit is not None and self._limit.is_near():
            return TIME_IS_UP
        return self.received

    def _note(self, number: int, frame: Any) -> None:
        self.received = number

    def after_step(self, runner) -> None:
        if not runner.distributed:
            self._leave(runner, self.reason)
            return
        last, self._told = self._told, self._tell()
        if last is not None:
            self._leave(runner, self._hear(last))

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        loader = runner.val_dataloader
        if not runner.distributed:
            self._leave(runner, self.reason)
        elif (batch_idx + 1) * loader.batch_size * runner.world_size <= len(loader.dataset):  # a batch that all have
            self._leave(runner, self._hear(self._tell()))

    def _tell(self) -> tuple[torch.Tensor, Any]:
        number = torch.tensor(self.reason)
        return number, distributed.all_reduce(number, distributed.ReduceOp.MAX, group=self._group, async_op=True)

    def _hear(self, told: tuple[torch.Tensor, Any]) -> int:
        number, work = told
        work.wait()
        return int(number)

    def _leave(self, runner, number: int) -> None:
        if not number:
            return
        for asked in SIGNALS:
            signal.signal(asked, signal.SIG_IGN)  # it is being done
        self._settle()
        self.checkpoint.save(runner)
        self.checkpoint.writer.wait()
        if runner.distributed:
            distributed.barrier(
                group=self._group
            )  # a node whose processes are gone may end the others' before they saved
        if runner.rank == 0:
            why = "the time limit is near" if number == TIME_IS_UP else signal.Signals(number).name
            print(f"mto: {why}: stopped and saved at step {runner.step}; run again to continue from there", flush=True)
        raise Interrupted(128 + number)

    def after_train(self, runner) -> None:
        self._settle()
        if self._limit is not None:
            self._limit.close()
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _settle(self) -> None:
        if self._told is not None:
            self._hear(self._told)
            self._told = None
