"""The jobs of the reports, as the workflow passes them and as `python -m mto report` works them out itself."""

from __future__ import annotations

from typing import Any

from mto.config.compare import differences
from mto.study.study import AUDIT, Study


def results_job(study: Study) -> dict[str, Any]:
    """Returns the steps of results.csv, [task, run, epoch], and their seeds: the paths would not fit a command line.

    ``mto`` is the preset of a run with MTO whose name gives none.
    """
    steps = dict.fromkeys((step.task, step.run, step.epoch) for step in study.segments() + study.steps())
    return {"mto": study.config.mto.default, "seeds": study.config.seeds, "steps": [list(step) for step in steps]}


def report_job(study: Study, name: str) -> dict[str, Any]:
    """Returns `Study.report_job`; the audit's has the rows in which the two recipes differ, which redraw it."""
    job = study.report_job(name)
    return job | {"recipes": [list(row) for row in differences()]} if name == AUDIT else job
