"""Stop a run that MTO has destroyed after a few log intervals, not after months.

What counts as a collapse is in `mto.losses.collapsed`. Every network starts like that; only a collapse stays there past
the warm-up. The guard changes no number of a run that it lets pass: it is in no job, so that switching it re-queues
nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mmengine.hooks import Hook

from mto.errors import UserError
from mto.losses.collapsed import collapsed
from mto.names import Run
from mto.training.log import LogHook

VERDICT = "collapsed.txt"


class Collapsed(UserError):
    """The guard stopped a run."""


class Guard(Hook):
    """Raise `Collapsed` when so many logged rows in a row, past the warm-up of the rate, show a collapse.

    The verdict is kept beside the checkpoint: a scheduler that tries again is told at once.

    Args:
        run: its name, for the message.
        intervals: log intervals in a row.
        warmup_epochs: of the rate; before, every network predicts a constant.
        directory: of the checkpoint.
    """

    priority = "VERY_LOW"  # after the row is written

    def __init__(self, run: str, intervals: int, warmup_epochs: float, directory: Path) -> None:
        self.run = run
        self.intervals = intervals
        self.warmup_epochs = warmup_epochs
        self.verdict = directory / VERDICT
        self.seen = 0

    def remind(self) -> None:
        """Say again what an earlier attempt was stopped for, before anything is read or built.

        Raises:
            Collapsed: there was one.
        """
        if self.verdict.exists():
            raise Collapsed(self.verdict.read_text())

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        checkpoint["guard"] = self.seen

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        self.seen = checkpoint.get("guard", 0)

    def after_step(self, runner) -> None:
        log = next(hook for hook in runner.hooks if isinstance(hook, LogHook))
        if log.row.get("step") == runner.step:
            try:
                self.look(log.row)
            except Collapsed as verdict:
                if runner.rank == 0:
                    self.verdict.write_text(str(verdict))
                raise

    def look(self, row: Mapping[str, float]) -> None:
        """Take notice of a row of history.jsonl.

        Raises:
            Collapsed: it is the last of `intervals` in a row that show a collapse.
        """
        signs = collapsed(row) if row["epoch"] > self.warmup_epochs else None
        self.seen = self.seen + 1 if signs else 0
        if self.seen >= self.intervals:  # above it where a later attempt was given fewer
            preset = Run.parse(self.run).preset
            raise Collapsed(
                f"{self.run} has collapsed and was stopped at step {row['step']} (epoch {row['epoch']:.2f}): {signs}, "
                f"for {self.seen} log intervals past the warm-up. Choose another preset of MTO than "
                f"{preset or 'mto.default'} in config.yaml; mto.guard: null lets this one go on"
            )
