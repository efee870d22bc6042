"""No job of any scale or recipe changes by accident: a changed job is GPU-hours that a running study pays again."""

from __future__ import annotations

import golden_jobs


def test_every_job_is_what_it_was() -> None:
    known = set(golden_jobs.GOLDEN.read_text().splitlines())
    now = set(golden_jobs.lines())
    changed, gone = sorted(now - known), sorted(known - now)
    assert (changed, gone) == ([], []), (
        "jobs changed: where that is meant, run python tests/golden_jobs.py and say in the commit which, and why"
    )
