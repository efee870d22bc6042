"""What two accuracy curves say about each other: RAUC (Eq. 6) and the epochs saved.

A curve maps a pre-training epoch to an accuracy. Pure functions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

Curve = dict[int, float]
Window = tuple[int, int]


def rauc(base: Curve, mto: Curve, window: Window | None = None, baseline_epoch: int | None = None) -> float:
    """Computes the relative area under the curve, Eq. 6, by the trapezoid rule on the checkpoints in [E1, E2].

    RAUC is the area between the curve with MTO and the level S1(E1), divided by the area between the baseline's curve
    S1 and that level; 1 means no gain.

    Args:
        base: the baseline's curve S1.
        mto: the curve with MTO, S2.
        window: E1 and E2; the first and the last epoch that both curves have, if not given.
        baseline_epoch: take the level from the baseline at this epoch instead of E1.

    Returns:
        NaN where the baseline's area is zero: the ratio is undefined.

    Raises:
        ValueError: if the curves share fewer than two epochs, lack the window's ends, or the baseline lacks
            `baseline_epoch`.
    """
    above_base, above_mto = gains(base, mto, window, baseline_epoch)
    flat = 1e-9 * max(map(abs, base.values()), default=0.0)
    return above_mto / above_base if abs(above_base) > flat else math.nan


def gains(
    base: Curve, mto: Curve, window: Window | None = None, baseline_epoch: int | None = None
) -> tuple[float, float]:
    """Returns both areas of Eq. 6, the baseline's first, divided by E2 - E1: mean gains in accuracy over the level.

    A baseline that gains nothing (zero or less) makes their ratio meaningless.
    """
    shared = sorted(base.keys() & mto.keys())
    if len(shared) < 2:
        raise ValueError(f"RAUC needs two epochs that both curves have, not {shared}")
    first, last = window or (shared[0], shared[-1])
    if first not in shared or last not in shared:
        raise ValueError(f"RAUC over ({first}, {last}): both curves have only {shared}")
    if baseline_epoch is not None and baseline_epoch not in base:
        raise ValueError(f"the baseline was not measured at baseline_epoch {baseline_epoch}, only at {sorted(base)}")
    level = base[first if baseline_epoch is None else baseline_epoch]
    return _mean_above(base, level, first, last), _mean_above(mto, level, first, last)


def _mean_above(curve: Curve, level: float, first: int, last: int) -> float:
    epochs = [epoch for epoch in sorted(curve) if first <= epoch <= last]
    area = sum((b - a) * ((curve[a] - level) + (curve[b] - level)) / 2 for a, b in pairwise(epochs))
    return area / (last - first)


@dataclass(frozen=True)
class Saving:
    """When the curve with MTO reaches the baseline's final accuracy.

    Attributes:
        of: the baseline's final epoch.
        epoch: the earliest epoch that reaches it, interpolated; None if none does.
        at_first: it does so at its first checkpoint already, so `epoch` is an upper bound.
    """

    of: int
    epoch: float | None
    at_first: bool = False

    @property
    def epochs(self) -> float:
        """Epochs saved; NaN if never reached."""
        return math.nan if self.epoch is None else self.of - self.epoch

    @property
    def percent(self) -> float:
        """Epochs saved, in percent of the baseline's; NaN if never reached."""
        return 100 * self.epochs / self.of


def epochs_saved(base: Curve, mto: Curve) -> Saving:
    """Finds the earliest epoch (linear between checkpoints) at which `mto` reaches `base`'s final accuracy."""
    final = max(base)
    target = base[final]
    epochs = sorted(mto)
    if mto[epochs[0]] >= target:
        return Saving(final, float(epochs[0]), at_first=True)
    for before, after in pairwise(epochs):
        if mto[after] >= target:
            share = (target - mto[before]) / (mto[after] - mto[before])
            return Saving(final, before + share * (after - before))
    return Saving(final, None)
