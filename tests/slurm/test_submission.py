"""What reaches Slurm from the committed profile, and what an outage does; the tasks are stand-ins that do nothing."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from lab import Cluster
from tiny_study import Run
from workflow_clone import Clone, copy_workflow

from mto.cluster import minutes
from mto.config import load
from mto.study import Study

Start = Callable[..., Run]
pytestmark = pytest.mark.slurm

STAGES = ("pretrain", "finetune", "linear", "ade20k", "coco", "heterogeneity")  # and the job of COCO's dataset
STEP = "mae-vitb/seed0/epoch0008"
SEGMENT = "results/demo/pretrain/mae-vitb/seed0/epoch0001/metrics.json"
ONE_OF_EACH = [f"results/demo/{stage}/{STEP}/metrics.json" for stage in STAGES]


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    """The study with the paper's hardware, tasks that do nothing, two datasets and the first links of a chain."""
    clone = copy_workflow(tmp_path / "clone")
    made = [f"data/{dataset}/manifest.json" for dataset in ("imagenet", "ade20k")]
    for epoch in (2, 4):
        folder = f"pretrain/mae-vitb/seed0/epoch{epoch:04d}"
        made += [f"{folder}/{name}" for name in ("encoder.safetensors", "state.pth", "metrics.json", "history.jsonl")]
    for file in (clone.path / "results/demo" / name for name in made):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    for stage, asked in load(clone.path / "config.yaml", scale="paper").resources:
        clone.set(f"scales.demo.resources.{stage}", asked.model_dump() | {"micro_batch": None})
    return clone


def test_what_each_stage_asks_of_slurm(cluster: Cluster, start: Start, clone: Clone) -> None:
    # Four GPUs of each node are taken: eight are free, and no node has them.
    for node in ("n1", "n2"):
        cluster.run("sbatch", f"--nodelist={node}", "--gpus=4", "--mem=10", "--output=/dev/null", "--wrap=sleep 900")
    taken = cluster.jobs()
    run = start(clone, *ONE_OF_EACH)

    def pretraining() -> dict[str, str] | None:
        jobs = map(cluster.job, run.submitted())
        return next((job for job in jobs if "pretrain" in job["Comment"] and job["Reason"] != "None"), None)

    job = run.until(pretraining, "the scheduler's look at the pre-training")
    assert job["JobState"] == "PENDING"
    # The first in line is told that it waits for resources; who stands behind it, that others come first.
    waiting = {job["Reason"] for job in map(cluster.job, run.submitted()) if job["JobState"] == "PENDING"}
    assert "Resources" in waiting
    assert job["Reason"] in ("Resources", "Priority")
    cluster.run("scancel", *taken)
    assert run.wait() == 0, run.printed()
    resources = Study(load(clone.path / "config.yaml")).resources
    jobs = {job["Comment"].split("_")[1]: job for job in map(cluster.job, run.submitted())}
    assert {*STAGES, "dataset"} == set(jobs)
    for stage, job in jobs.items():
        asked = resources(stage)
        assert (job["NumNodes"], job["NumCPUs"]) == ("1", str(asked.cpus_per_task))
        assert job["MinMemoryNode"] in (f"{asked.mem_mb}M", f"{asked.mem_mb / 1024:g}G")
        assert job.get("TresPerJob") == (f"gres:gpu:{asked.gpu}" if asked.gpu else None)
        assert minutes(job["TimeLimit"]) == asked.runtime
        assert job["ExitCode"] == "0:0"


def test_without_an_accounting_database_a_start_says_what_to_set(cluster: Cluster, start: Start, clone: Clone) -> None:
    """Nobody would learn that a job ended: by itself the executor plugin asks sacct, which is there and cannot know."""
    run = start(clone, SEGMENT, "--slurm-status-command", "sacct")
    assert run.wait() == 1
    (line,) = (line for line in run.printed().splitlines() if "sacct fails" in line)
    assert "slurm/profile.yaml: slurm-status-command" in line
    assert "squeue" in line
    assert not run.submitted()


# Stands in for a database: answers as sacct would, from squeue, except while the file `away` is there.
SACCT = """#!/bin/sh
if [ -e {away} ]; then echo "sacct: error: slurmdbd: Connection refused" >&2; exit 1; fi
while [ $# -gt 1 ]; do if [ "$1" = --name ]; then name=$2; fi; shift; done
[ -z "$name" ] || squeue --noheader --states=all --name="$name" --format="%i|%T"
"""


@pytest.mark.parametrize("service", ["slurmctld", "slurmdbd"])
def test_an_outage_while_a_job_ends(cluster: Cluster, start: Start, clone: Clone, tmp_path: Path, service: str) -> None:
    """The plugin looks a second after the submission, then after 11 more, and 21, and 31."""
    away = tmp_path / "away"
    sacct = tmp_path / "bin/sacct"
    sacct.parent.mkdir()
    sacct.write_text(SACCT.format(away=away))
    sacct.chmod(0o755)
    options = ("--slurm-status-command", "sacct") if service == "slurmdbd" else ()
    environment = {"PATH": f"{sacct.parent}:{cluster.environment['PATH']}"} if service == "slurmdbd" else {}
    run = start(clone, SEGMENT, *options, SECONDS_OF_WORK="5", **environment)
    run.until((clone.path / "logs/demo/pretrain/mae-vitb/seed0/epoch0001.log").exists, "the task's work")
    if service == "slurmctld":
        cluster.kill("slurmctld", signal.SIGKILL)
    else:
        away.touch()
    run.until(lambda: (clone.path / SEGMENT).exists(), "the job's end")
    time.sleep(25)  # the plugin looks in vain
    if service == "slurmctld":
        cluster.start_controller()
    else:
        away.unlink()
    assert run.wait() == 0, run.printed()
    assert len(run.submitted()) == 1


def test_what_a_job_on_two_nodes_asks_of_slurm(cluster: Cluster, start: Start, clone: Clone) -> None:
    for key, value in {"gpu": 16, "nodes": 2}.items():
        clone.set(f"scales.demo.resources.pretrain.{key}", value)
    run = start(clone, SEGMENT)
    assert run.wait() == 0, run.printed()
    job = cluster.job(run.submitted()[0])
    assert (job["NumNodes"], job["NumTasks"], job["CPUs/Task"]) == ("2", "2", "96")
    assert job["TresPerJob"] == "gres:gpu:16"
    given = (clone.path / SEGMENT).read_text()  # the stand-in wrote its arguments, once
    assert "--gpus 16 --nodes 2" in given
