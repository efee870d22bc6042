"""Learning rate as a pure function of training time.

No state: a resumed run asks for the rate at its step and gets it. Time ``t`` runs in units of the schedule, fractional
epochs for the classification stages, iterations for ADE20K; one optimiser step is the smallest tick.
"""

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import Any, Literal

from mto.config.job import Rates


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, then ``cosine``, ``multistep`` or ``poly`` (linear unless ``power`` says otherwise).

    The warm-up of ``poly`` is a factor on its falling rate, as in mmcv; the others' rises to the peak.

    Args:
        kind: the shape after warm-up.
        total: length of the schedule; ``warmup`` and ``milestones`` are in the same unit.
        warmup_lr, min_lr: absolute rates, for a parameter group of multiplier 1.
        warmup_prefix: True: the shape begins when warm-up ends (MAE, BEiT). False: it began at 0 and warm-up merely
            covers its start: the rate jumps down where warm-up ends (timm's cosine, SimMIM:lr_scheduler.py:25).
        warmup_inclusive: the last step of warm-up already has the peak rate (BEiT's code, BootMAE:utils.py:425).
        by_epoch: the rate of the last whole unit holds until the next (BEiT:run_linear_eval.py:148).
        scale_min_lr: ``warmup_lr`` and ``min_lr`` are multiplied by the group's multiplier too
            (MAE:util/lr_sched.py:16, BEiT's code); otherwise they are the same number for all groups (timm, SimMIM).
    """

    kind: Literal["cosine", "multistep", "poly"]
    total: float
    warmup: float = 0.0
    warmup_lr: float = 0.0
    min_lr: float = 0.0
    milestones: tuple[float, ...] = ()
    gamma: float = 0.1
    power: float = 1.0
    warmup_prefix: bool = True
    warmup_inclusive: bool = False
    scale_min_lr: bool = False
    by_epoch: bool = False

    @classmethod
    def from_job(cls, schedule: Rates, total: float) -> "Schedule":
        """Builds the ``schedule`` of a job, of length ``total``, in epochs."""
        same = set(schedule.keys) - {"total_epochs", "warmup_epochs", "milestones"}
        values: dict[str, Any] = {name: getattr(schedule, name) for name in same}
        return cls(total=total, warmup=schedule.warmup_epochs, milestones=tuple(schedule.milestones), **values)

    def lr(self, t: float, peak: float, multiplier: float = 1.0, tick: float = 0.0) -> float:
        """Returns the rate at time ``t`` of a group with peak rate ``peak * multiplier``.

        Args:
            tick: length of one optimiser step in the unit of ``t``; only ``warmup_inclusive`` needs it.
        """
        if not self.scale_min_lr and multiplier != 1.0:
            return self.lr(t, peak * multiplier, 1.0, tick)
        # A whole number of steps that accumulated as a float must not fall an ulp short of a boundary.
        t = t + 1e-9 * max(tick, 1e-3)
        if self.by_epoch:
            t = math.floor(t)
        warming = 1.0
        if t < self.warmup:
            done = t / max(self.warmup - (tick if self.warmup_inclusive else 0.0), 1e-12)
            warmed = self.warmup_lr + (peak - self.warmup_lr) * min(done, 1.0)
            if self.kind != "poly":
                return multiplier * warmed
            warming = warmed / peak
        start = self.warmup if self.warmup_prefix else 0.0
        done = min((t - start) / max(self.total - start, 1e-12), 1.0)
        if self.kind == "multistep":
            return multiplier * peak * self.gamma ** bisect_right(self.milestones, t)
        shape = (1.0 - done) ** self.power if self.kind == "poly" else 0.5 * (1.0 + math.cos(math.pi * done))
        return multiplier * warming * (self.min_lr + (peak - self.min_lr) * shape)
