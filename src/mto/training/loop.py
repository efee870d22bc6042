"""The training loop of every stage, counted in optimiser steps.

A **round** is training up to a multiple of ``round_steps`` (an epoch, or a recipe's ``save_interval``), then its
validation, if one is due; a round is closed when both are done. mmengine's two loops save before they validate, so
that a job killed while validating would resume past that validation and never have its numbers; and they count passes,
whose number changes with the micro-batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmengine.runner.base_loop import BaseLoop
from torch import nn
from torch.utils.data import DataLoader

from mto.errors import UserError


class StepLoop(BaseLoop):
    """Run from the step at which a state was saved, or 0, to ``stop_step``.

    Beyond mmengine's events it has ``after_step`` (the parameters moved; the round may be open), ``after_round``, and
    ``after_failure`` (an exception that is no user's mistake; a hook may raise one that says more).
    ``before_train_epoch`` is called at the start of each epoch, and when a run goes on in the middle of one; a schedule
    counted in steps is one epoch.

    Args:
        dataloader: micro-batches from an endless sampler with ``skip`` (``EpochSampler(..., infinite=True)``).
        accumulation: micro-batches a step.
        total_steps: length of the schedule.
        stop_step: where this segment of it ends.
        round_steps: of a round; the last may be shorter.
        epoch_steps: of an epoch; None for a schedule counted in steps.
        val_steps: a validation is due at its multiples, and at the end of the schedule.
    """

    def __init__(
        self,
        runner: Any,
        dataloader: DataLoader,
        *,
        accumulation: int,
        total_steps: int,
        stop_step: int,
        round_steps: int,
        epoch_steps: int | None,
        val_steps: int,
    ) -> None:
        super().__init__(runner, dataloader)
        self.accumulation = accumulation
        self.total_steps = total_steps
        self.stop_step = stop_step
        self.round_steps = round_steps
        self.epoch_steps = epoch_steps
        self.val_steps = val_steps
        self.stop_training = False
        self.step = 0
        self.round_open = False
        self._pass = 0

    # mmengine's names
    @property
    def iter(self) -> int:
        """Passes done: micro-batches, not steps."""
        return self.step * self.accumulation + self._pass

    @property
    def max_iters(self) -> int:
        return self.total_steps * self.accumulation

    @property
    def epoch(self) -> int:
        """The epoch of the next step, from 0."""
        return self.step // self.epoch_steps if self.epoch_steps else 0

    @property
    def max_epochs(self) -> int:
        return self.total_steps // self.epoch_steps if self.epoch_steps else 1

    def run(self) -> nn.Module:
        try:
            return self._run()
        except UserError:
            raise
        except Exception:
            self.runner.call_hook("after_failure")
            raise

    def _run(self) -> nn.Module:
        runner = self.runner
        runner.call_hook("before_train")
        runner.model.train()
        self.dataloader.sampler.skip(self.step * self.accumulation * self.dataloader.batch_size)
        batches: Iterator | None = None
        while (self.step < self.stop_step or self.round_open) and not self.stop_training:
            if not self.round_open:
                if batches is None or (self.epoch_steps and self.step % self.epoch_steps == 0):
                    runner.call_hook("before_train_epoch")
                batches = batches or runner.batches(self.dataloader)
                self._run_step(batches)
            if self.round_open:
                if runner.val_loop is not None and self._validation_is_due():
                    runner.val_loop.run()
                    runner.model.train()
                self.round_open = False
                runner.call_hook("after_round")
        runner.call_hook("after_train")
        return runner.model

    def _run_step(self, batches: Iterator) -> None:
        runner = self.runner
        for index in range(self.accumulation):
            batch = next(batches)
            runner.call_hook("before_train_iter", batch_idx=index, data_batch=batch)
            outputs = runner.model.train_step(batch, optim_wrapper=runner.optim_wrapper)
            runner.call_hook("after_train_iter", batch_idx=index, data_batch=batch, outputs=outputs)
            self._pass += 1
        self.step, self._pass = self.step + 1, 0
        if self.step == self.total_steps or (self.epoch_steps and self.step % self.epoch_steps == 0):
            runner.call_hook("after_train_epoch")
        self.round_open = self.step % self.round_steps == 0 or self.step == self.total_steps
        runner.call_hook("after_step")

    def _validation_is_due(self) -> bool:
        return self.step % self.val_steps == 0 or self.step == self.total_steps
