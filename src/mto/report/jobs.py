"""The job of a table or figure, as the workflow passes it and as `python -m mto report` works it out itself."""

from __future__ import annotations

from typing import Any

from mto.config.compare import differences
from mto.config.reading import Source
from mto.study import AUDIT, Study


def report_job(study: Study, source: Source, name: str) -> dict[str, Any]:
    """`Study.report_job`, and for the audit the rows in which the two recipes of config.yaml (`source`) differ."""
    job = study.report_job(name)
    return job | {"recipes": [list(row) for row in differences(source)]} if name == AUDIT else job
