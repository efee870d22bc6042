"""Jobs in states that the executor plugin does not know: each is submitted again, and none is waited for in vain."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from lab import Cluster
from machine import wait
from tiny_study import Run
from workflow_clone import Clone, copy_workflow

Start = Callable[..., Run]
pytestmark = pytest.mark.slurm

TARGET = "results/demo/finetune/mae-vitb/seed0/epoch0000/metrics.json"
LOG = "logs/demo/finetune/mae-vitb/seed0/epoch0000.log"


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    """One fine-tuning that works until it is told to go, in a partition whose jobs are never queued again."""
    clone = copy_workflow(tmp_path / "clone")
    manifest = clone.path / "results/demo/data/imagenet/manifest.json"
    manifest.parent.mkdir(parents=True)
    manifest.touch()
    task = clone.path / "src/mto/__main__.py"
    work = 'time.sleep(float(os.environ.get("SECONDS_OF_WORK", 0)))'
    assert work in task.read_text()
    task.write_text(task.read_text().replace(work, 'while not Path("go").exists():\n    time.sleep(0.2)'))
    profile = clone.path / "slurm/profile.yaml"
    profile.write_text(profile.read_text().replace("# slurm_partition: gpu", "slurm_partition: yielding"))
    return clone


@pytest.mark.parametrize("command", ["squeue", "sacct"])
def test_a_job_is_submitted_again_however_it_is_lost(
    cluster: Cluster, start: Start, clone: Clone, request: pytest.FixtureRequest, command: str
) -> None:
    if command == "sacct":
        request.getfixturevalue("database")
    run = start(clone, TARGET, "--slurm-status-command", command)

    def job(number: int) -> str:
        """The attempt of that number, once it is at work."""
        run.until(lambda: len(run.submitted()) >= number, f"submission {number}")
        latest = run.submitted()[-1]
        run.until(lambda: cluster.job(latest)["JobState"] == "RUNNING", "Slurm's start of the job")
        run.until(lambda: "at work" in run.slurm_log(latest), "the task's work")
        return latest

    cluster.run("scancel", job(1))

    second = job(2)
    wants = ("--partition=urgent", f"--nodelist={cluster.job(second)['NodeList']}", "--exclusive", "--output=/dev/null")
    cluster.run("sbatch", *wants, "--wrap=true")
    run.until(lambda: cluster.job(second)["JobState"] == "PREEMPTED", "the preemption")
    with cluster.no_launches():
        run.until(lambda: len(run.submitted()) == 3, "the third submission")
        third = run.submitted()[-1]
        run.until(lambda: f"Slurm job {third} could not be launched" in run.printed(), "the word that it is held")
    assert f"Slurm job {second} ended as PREEMPTED" in run.printed()
    wait(lambda: cluster.job(third)["JobState"] == "CANCELLED", "the end of the held job")

    fourth = job(4)
    cluster.forget_jobs()
    fifth = job(5)
    if command == "squeue":
        assert f"Slurm job {fourth} is known to neither squeue nor sacct any more" in run.printed()
    else:  # the database had noted the loss; now it loses a job itself, which slurmctld knows
        forget = f"delete from tests_job_table where id_job = {fifth}"
        cluster.run("mariadb", f"--socket={cluster.root / 'mariadb.socket'}", "slurm", "-e", forget)
        assert not cluster.run("sacct", "-X", "-n", "-j", fifth)

    (clone.path / "go").touch()
    assert run.wait() == 0, run.printed()
    assert (clone.path / TARGET).exists()
    assert len(run.submitted()) == 5


def test_a_job_that_somebody_holds_is_said_once(cluster: Cluster, start: Start, clone: Clone) -> None:
    (clone.path / "go").touch()
    cluster.run("scontrol", "update", "partitionname=yielding", "state=down")  # until the hold is there
    run = start(clone, TARGET)
    run.until(run.submitted, "the submission")
    (job,) = run.submitted()
    cluster.run("scontrol", "hold", job)
    cluster.run("scontrol", "update", "partitionname=yielding", "state=up")
    run.until(lambda: "is held" in run.printed(), "the word that it is held")
    cluster.run("scontrol", "release", job)
    assert run.wait() == 0, run.printed()
    assert run.printed().count(f"scontrol release {job}") == 1
    assert len(run.submitted()) == 1


def test_job_arrays_are_refused(cluster: Cluster, start: Start, clone: Clone) -> None:
    run = start(clone, TARGET, "--slurm-array-jobs", "finetune_encoder")
    assert run.wait() == 1
    assert "slurm/profile.yaml: slurm-array-jobs: finetune_encoder: leave it out" in run.printed()
    assert not run.submitted()
