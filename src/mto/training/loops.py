"""mmengine's two training loops with one more event, ``after_round``: training and its validation are both done.

A checkpoint belongs there. mmengine saves before it validates, so a job killed while validating would resume past that
epoch and never have its numbers.
"""

from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from torch import nn


class EpochLoop(EpochBasedTrainLoop):
    """Rounds are epochs."""

    def run(self) -> nn.Module:
        self.runner.call_hook("before_train")
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            if self.runner.val_loop is not None and (
                self._epoch % self.val_interval == 0 or self._epoch == self._max_epochs
            ):
                self.runner.val_loop.run()
            self.runner.call_hook("after_round")
        self.runner.call_hook("after_train")
        return self.runner.model


class IterationLoop(IterBasedTrainLoop):
    """Rounds are ``round_length`` iterations, as every recipe counted in iterations has it; the last may be shorter.

    The loader's sampler must be endless and have ``skip`` (``EpochSampler(..., infinite=True)``).
    """

    def __init__(self, runner, dataloader, max_iters: int, round_length: int, val_interval: int = 1000) -> None:
        super().__init__(runner, dataloader, max_iters=max_iters, val_interval=val_interval)
        self.round_length = round_length

    def run(self) -> nn.Module:
        self.runner.call_hook("before_train")
        self.runner.call_hook("before_train_epoch")
        self.dataloader_iterator.skip_iter(self._iter)
        while self._iter < self._max_iters and not self.stop_training:
            if self._iter % self.round_length == 0:
                self.runner.call_hook("before_round")
            self.runner.model.train()
            self.run_iter(next(self.dataloader_iterator))
            last = self._iter == self._max_iters
            if self.runner.val_loop is not None and (self._iter % self.val_interval == 0 or last):
                self.runner.val_loop.run()
            if self._iter % self.round_length == 0 or last:
                self.runner.call_hook("after_round")
        self.runner.call_hook("after_train_epoch")
        self.runner.call_hook("after_train")
        return self.runner.model
