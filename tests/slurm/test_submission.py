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

from mto.config import load
from mto.runtime.slurm import minutes
from mto.study.study import Study

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

    def waits() -> bool:
        waiting = [job for job in map(cluster.job, run.submitted()) if job["JobState"] == "PENDING"]
        pretraining = {job["Reason"] for job in waiting if "pretrain" in job["Comment"]}
        # The first in line is told that it waits for resources; who stands behind it, that others come first.
        return "Resources" in {job["Reason"] for job in waiting} and pretraining in ({"Resources"}, {"Priority"})

    run.until(waits, "the scheduler's word that the pre-training waits")
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


@pytest.mark.parametrize("service", ["slurmctld", "slurmdbd"])
def test_an_outage_while_a_job_ends(
    cluster: Cluster, start: Start, clone: Clone, request: pytest.FixtureRequest, service: str
) -> None:
    options = ()
    if service == "slurmdbd":
        request.getfixturevalue("database")
        options = ("--slurm-status-command", "sacct")
    run = start(clone, SEGMENT, *options, SECONDS_OF_WORK="12")
    run.until((clone.path / "logs/demo/pretrain/mae-vitb/seed0/epoch0001.log").exists, "the task's work")
    time.sleep(6)  # slurmctld saves within five seconds that the job runs; it would start it again
    cluster.kill(service, signal.SIGKILL)
    run.until(lambda: (clone.path / SEGMENT).exists(), "the job's end")
    time.sleep(25)  # Snakemake looks in vain, more often than it would by the plugin's own five attempts
    assert run.process.poll() is None, run.printed()
    if service == "slurmctld":
        cluster.start_controller()
    else:
        cluster.start_daemon("slurmdbd")
    assert run.wait() == 0, run.printed()
    assert len(run.submitted()) == 1


def test_an_outage_before_the_next_submission(cluster: Cluster, start: Start, clone: Clone) -> None:
    """A refused submission is no attempt of the job: of those there is one alone here."""
    targets = [f"results/demo/finetune/{run}-vitb/seed0/epoch0000/metrics.json" for run in ("mae", "simmim")]
    run = start(clone, "--retries", "0", "--jobs", "2", "--max-jobs-per-timespan", "1/25s", *targets)
    run.until(lambda: any((clone.path / target).exists() for target in targets), "the first job's end")
    run.until(lambda: "Finished jobid" in run.printed(), "Snakemake's notice of it")
    cluster.kill("slurmctld", signal.SIGKILL)
    time.sleep(30)  # the second submission comes and waits
    assert len(run.submitted()) == 1
    assert run.process.poll() is None, run.printed()
    cluster.start_controller()
    assert run.wait() == 0, run.printed()
    assert len(run.submitted()) == 2
    assert "sbatch failed" not in run.printed()


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
