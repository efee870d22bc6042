"""Stop a run that MTO has destroyed after a few log intervals, not after months.

The sign is a method whose loss is no better than one patch for all masked ones of an image, while the masked tokens are
one: of one direction, or all nearest to the same visible token. Neither alone is enough. Healthy masked tokens may be
as close (0.99 on photographs), and every network starts with a constant; only a collapse stays there past the warm-up.

The guard changes no number of a run that it lets pass. So it is no part of a job, and switching it re-queues nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mmengine.hooks import Hook

from mto.errors import UserError
from mto.study import Run
from mto.training.log import LogHook

#: A method predicts a constant above this part of a constant prediction's loss.
CONSTANT = 0.98
#: Masked tokens are one above this mean cosine, or with more than this share nearest to the same visible token.
COSINE, SHARE = 0.99, 0.9
VERDICT = "collapsed.txt"


class Collapsed(UserError):
    """The guard stopped a run."""


def collapsed(row: Mapping[str, float]) -> str | None:
    """What in a row of history.jsonl shows a collapse, in words; None if nothing does.

    Of several streams one is enough. A row without the measures, as a validation's, shows nothing.
    """
    ratio = row.get("constant_ratio", 0.0)
    for name in row if ratio > CONSTANT else ():
        stream = name.removesuffix("masked_cosine")
        cosine, share = row[name], row.get(f"{stream}modal_share", 0.0)
        if stream != name and (cosine > COSINE or share > SHARE):
            return (
                f"its loss is {ratio:.2f} of a constant patch's, its masked tokens are one (mean cosine {cosine:.2f}, "
                f"{share:.0%} of them nearest to the same visible token)"
            )
    return None


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
        if self.seen == self.intervals:
            preset = Run.parse(self.run).preset
            raise Collapsed(
                f"{self.run} has collapsed and was stopped at step {row['step']} (epoch {row['epoch']:.2f}): {signs}, "
                f"for {self.seen} log intervals past the warm-up. Choose another preset of MTO than "
                f"{preset or 'mto.default'} in config.yaml; mto.guard: null lets this one go on"
            )
