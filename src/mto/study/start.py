"""What is looked at before the first job starts, so that a mistake costs a line and no GPU-hour.

Each check takes the jobs that Snakemake has planned and returns a line for each problem.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from mto.data.forms.recognise import form_of, place_of
from mto.data.layout import check
from mto.errors import UserError
from mto.names import RESTART, STAGES
from mto.runtime import fewer_gpus, slurm
from mto.study.needs import stage_of
from mto.study.study import Study
from mto.training import trackers


class Planned(Protocol):
    """A job of Snakemake's, as far as it is looked at."""

    rule: Any
    params: Any
    resources: Any
    wildcards_dict: Mapping[str, str]


def missing_datasets(study: Study, jobs: Sequence[Planned]) -> list[str]:
    """Returns a line for each dataset that the jobs read and that is not there; says of the others what they are."""
    problems = []
    for dataset in sorted({dataset for job in jobs if (dataset := _reads(job))}):
        source = getattr(study.config.datasets, dataset)
        try:
            if source.make is None:
                root = place_of(source.root, getattr(source, "convert", None))
                check(dataset, root, classes=getattr(source, "classes", None), num_classes=source.num_classes)
                print(f"{dataset}: {form_of(dataset, root)}, at {root}", file=sys.stderr)
        except UserError as error:
            problems.append(f"config.yaml: {error}")
    return problems


def missing_trackers(study: Study) -> list[str]:
    """Returns a line if a tracker that `log` names is not installed."""
    try:
        trackers.refuse(study.config.log)
    except UserError as error:
        return [f"config.yaml: {error}"]
    return []


def missing_gpus(study: Study, jobs: Sequence[Planned], here: int | None) -> list[str]:
    """Returns a line for each stage whose jobs would get other GPUs than it has in config.yaml.

    Args:
        study: the plan.
        jobs: that are planned.
        here: GPUs of this machine where jobs run on it, else None.
    """
    own = [job for job in jobs if stage_of(job.rule.name) or "stage" in job.wildcards_dict]
    return fewer_gpus.problems([_gpus(study, job) for job in own if "gpu" in job.resources.keys()], here)  # noqa: SIM118


def start_forced_jobs_over(jobs: Sequence[Planned]) -> None:
    """Lets forced jobs begin at their first step: a task left to itself goes on, or publishes what it had made."""
    for job in jobs:
        progress = Path(job.params.get("out", "."), "progress")
        if progress.is_dir():
            (progress / RESTART).touch()


def request(job: Planned) -> slurm.Request:
    """Returns what a job asks of Slurm."""
    amounts = {name: job.resources.get(name, 0) for name in ("gpu", "cpus_per_task", "mem_mb", "runtime")}
    partition = job.resources.get("slurm_partition")
    stage = job.wildcards_dict.get("stage", stage_of(job.rule.name) or job.rule.name)
    return slurm.Request(stage, partition, **amounts, nodes=job.resources.get("nodes", 1))


def _reads(job: Planned) -> str | None:
    """Returns the dataset that a job reads."""
    stage = STAGES.get(stage_of(job.rule.name) or "")
    return stage.dataset if stage else job.wildcards_dict.get("dataset")


def _gpus(study: Study, job: Planned) -> fewer_gpus.Asked:
    """Returns the GPUs that a job is given, beside those that it should have."""
    stage = job.wildcards_dict.get("stage") or stage_of(job.rule.name) or ""
    asked = study.resources(stage)
    each = asked.nodes if job.rule.name == "preflight_stage" else 1
    return fewer_gpus.Asked(stage, asked.gpu // each, job.resources.gpu, asked.micro_batch)
