"""Hashes of every job of the study: what a change must not alter by accident, since it would queue all of it again.

`python tests/golden_jobs.py` writes tests/golden/jobs.txt anew. Do so for a change of jobs that is meant, and say in
the commit which jobs changed and why: each changed line is GPU-hours that a running study pays again.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).with_name("golden") / "jobs.txt"
SCALES = ("demo", "mini", "small", "paper")


def jobs(scale: str, recipe: str) -> Iterator[tuple[str, Any]]:
    """Every job that a rule can get at a scale with a recipe, by the folder or the name of what it makes."""
    from mto.config import load
    from mto.cost import preflight
    from mto.names import TRAINED, Run, Step
    from mto.report import page
    from mto.study import report_jobs
    from mto.study.study import Study

    study = Study(load(ROOT / "config.yaml", scale=scale, recipe=recipe))
    steps = [*study.segments(), *study.steps()]
    # a run that no table has may be asked for by its name
    named = [Run.parse(name) for name in ("mae-vitb-mto@text", "simmim-vitb-mto@as_printed", "conmim-vitb-mto_e")]
    for step in [*steps, *(Step("pretrain", run.name, 0, study.config.study.measured_epochs[0]) for run in named)]:
        yield f"{step.task}/{step.run}/seed{step.seed}/epoch{step.epoch:04d}", study.job(step)
    for dataset in study.datasets:
        yield f"data/{dataset}", study.data_job(dataset)
    for baseline in study.config.pilot.baselines:
        for preset in (None, study.config.mto.default):
            run = Run.parse(baseline) if preset is None else study.with_mto(Run.parse(baseline), preset)
            job = study.pilot_job(run.name, study.config.seeds[0], study.config.pilot.epochs)
            yield f"pilot/{run.name}", job
    yield "pilot/report", study.pilot_report_job()
    for stage in TRAINED:
        if study.select(stage):
            yield f"preflight/{stage}", preflight.job(study, stage)
    yield "results", report_jobs.results_job(study)
    yield "page", page.job(study)
    for name in (*study.tables, *study.figures):
        yield f"report/{name}", report_jobs.report_job(study, name)


def lines() -> list[str]:
    """One line a group of jobs that differ in seed or epoch alone: where it is, how many jobs, their hash."""
    found = []
    for scale in SCALES:
        for recipe in ("paper", "official"):
            groups: dict[str, list[tuple[str, str]]] = {}
            for name, job in jobs(scale, recipe):
                plain = job if isinstance(job, dict) else job.plain()
                canonical = json.dumps(plain, sort_keys=True, separators=(",", ":"))
                groups.setdefault(name.split("/seed")[0], []).append((name, canonical))
            for group, members in groups.items():
                digest = hashlib.sha256(repr(sorted(members)).encode()).hexdigest()[:16]
                found.append(f"{scale} {recipe} {group} {len(members)} {digest}")
    return found


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "src"))
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text("\n".join(lines()) + "\n")
    print(GOLDEN)
