"""Whether MTO saves epochs for a baseline: one verdict, for the report, Table 1 and Figure 4."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from mto.names import Cell, Run
from mto.report.metrics import Report, mean
from mto.report.rauc import Curve, Saving, epochs_saved
from mto.report.sheet import UNKNOWN, spread

Kind = Literal["yes", "no", "mixed", "void", "open"]


class Measured(NamedTuple):
    """What one seed has so far, as fine-tuning accuracies in percent.

    Attributes:
        base: without MTO, by pre-training epoch.
        mto: with it.
        scratch: of the same network without pre-training; None where the study measures none.
    """

    base: Curve
    mto: Curve
    scratch: float | None = None

    @property
    def finite(self) -> Measured:
        """The same without what a task could not measure."""
        base, mto = ({epoch: v for epoch, v in curve.items() if math.isfinite(v)} for curve in (self.base, self.mto))
        scratch = self.scratch if self.scratch is not None and math.isfinite(self.scratch) else None
        return Measured(base, mto, scratch)


@dataclass(frozen=True)
class Verdict:
    """Whether MTO saves epochs for a baseline, over the seeds that can tell.

    Attributes:
        kind: ``yes``, in every seed; ``mixed``, in some; ``no``, in none; ``void``: the baseline's pre-training is no
            better than none, so that nothing follows from how soon its accuracy is reached; ``open``: not measured yet.
        sentence: the same in a few words.
        seeds: those that count, in their order.
        savings: of each of them; none where the verdict is void.
        to_match, saved, percent: as every place shows them, "—" where there is nothing to show.
    """

    kind: Kind
    sentence: str
    seeds: tuple[Measured, ...]
    savings: tuple[Saving, ...]
    to_match: str
    saved: str
    percent: str

    @property
    def share(self) -> float | None:
        """The share of the epochs that is needed, as a mean over the seeds; None where one of them never matches."""
        shares = [saving.epoch / saving.of for saving in self.savings if saving.epoch is not None]
        return mean(shares) if shares and len(shares) == len(self.savings) else None

    @property
    def bound(self) -> bool:
        """Whether a seed matches at its first checkpoint already, so that the share is an upper bound."""
        return any(saving.at_first for saving in self.savings)


def judge(seeds: Iterable[Measured], final: int) -> Verdict:
    """Returns the verdict over the seeds whose baseline has reached its end and that have anything with MTO.

    Args:
        final: the baseline's last epoch, whose accuracy is to be matched.
    """
    found = [seed.finite for seed in seeds]
    telling = tuple(seed for seed in found if final in seed.base and seed.mto)
    savings = tuple(epochs_saved(seed.base, seed.mto) for seed in telling)
    learned = [(seed.base[final], seed.scratch) for seed in telling if seed.scratch is not None]
    if learned and mean([own for own, _ in learned]) <= mean([scratch for _, scratch in learned]):
        scratch = spread([scratch for _, scratch in learned])
        sentence = f"without MTO it is no better than from scratch ({scratch})"
        return Verdict("void", sentence, telling, (), UNKNOWN, UNKNOWN, UNKNOWN)
    kind, sentence = _kind(savings, all(final in seed.mto for seed in telling))
    return Verdict(kind, sentence, telling, savings, *_texts(savings))


def of(report: Report, baseline: str) -> Verdict:
    """Returns the verdict on a baseline by the fine-tuning curves of a table's or figure's cells."""
    plain = Run.parse(baseline)
    run, scratch = plain.with_mto.name, Cell("finetune", plain.name, 0, "top1")
    final = max(cell.epoch for cell in report.cells if cell.run == plain.name)
    has = scratch in report.scratch
    seeds = [
        Measured(report.curve(plain.name, seed), report.curve(run, seed), report.value(scratch, seed) if has else None)
        for seed in report.seeds
    ]
    return judge(seeds, final)


def _kind(savings: tuple[Saving, ...], complete: bool) -> tuple[Kind, str]:
    if not savings:
        return "open", "not measured yet"
    wins = sum(saving.epoch is not None and saving.epochs > 0 for saving in savings)
    seeds = len(savings)
    if wins == seeds:
        return "yes", f"in all {seeds} seeds" if seeds > 1 else "in one seed"
    if not complete:
        return "open", "not reached so far; training with MTO goes on"
    if wins:
        return "mixed", f"in {wins} of {seeds} seeds"
    return "no", f"in none of {seeds} seeds" if seeds > 1 else "in one seed"


def _texts(savings: tuple[Saving, ...]) -> tuple[str, str, str]:
    """Returns epochs to match, saved, and percent, over seeds; where some never match, others have no mean."""
    missed = sum(saving.epoch is None for saving in savings)
    if not savings:
        return UNKNOWN, UNKNOWN, UNKNOWN
    if missed:
        which = "" if len(savings) == 1 else f" in {missed} of {len(savings)} seeds"
        return f"not reached{which}", UNKNOWN, UNKNOWN
    columns = [[s.epoch or 0.0 for s in savings], [s.epochs for s in savings], [s.percent for s in savings]]
    texts = [spread(values, digits=1) for values in columns]
    bounds = ("≤ ", "≥ ", "≥ ") if any(saving.at_first for saving in savings) else ("", "", "")
    return bounds[0] + texts[0], bounds[1] + texts[1], bounds[2] + texts[2]
