"""What the pilot costs, which comes before the study and on top of it. No torch."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy

from mto.bench.work import Work
from mto.config.job import Job
from mto.cost.estimate import Cost, estimate
from mto.cost.measured import Measured
from mto.names import Step
from mto.study.study import Study


class PilotStudy(Study):
    """The pilot as if it were a study: each of its runs is one segment of pre-training, and nothing measures it."""

    def segments(self) -> list[Step]:
        seed, epoch = self.config.seeds[0], self.config.pilot.epochs
        return [Step("pretrain", run.name, seed, epoch) for run in self.pilot_runs()]

    def steps(self, report: str | None = None) -> list[Step]:
        return []

    def previous(self, step: Step) -> Step | None:
        return None

    def job(self, step: Step) -> Job:
        return self.pilot_job(step.run, step.seed, step.epoch)

    def folder(self, step: Step) -> str:
        return super().folder(step._replace(task="pilot"))


def pilot_costs(study: Study, measured: Measured, count: Callable[[Job], Work]) -> dict[Step, Cost]:
    """Estimates the cost of each of the pilot's jobs.

    Args:
        measured: what was learned of the study's own jobs counts here too.
    """
    pilot, there = PilotStudy(study.config), copy(measured)
    there.study = pilot
    return estimate(pilot, there, count)
