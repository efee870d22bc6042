"""A chain of segments, each of which meets a fault of a real Slurm and ends with the undisturbed numbers."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from lab import Cluster
from machine import wait
from tiny_study import (
    EPOCHS,
    MEMORY,
    SEGMENT,
    Run,
    Undisturbed,
    assert_same,
    first_epoch,
    folder,
    stopped,
    swell,
    target,
    tasks_of,
    tiny_study,
)
from workflow_clone import Clone

Start = Callable[..., Run]
pytestmark = pytest.mark.slurm


def cancel(cluster: Cluster, clone: Clone, job: str) -> None:
    with stopped(clone):
        cluster.run("scancel", job)


def kill_the_task(cluster: Cluster, clone: Clone, job: str) -> None:
    for process in tasks_of(clone):
        process.kill()


def meet_the_time_limit(cluster: Cluster, clone: Clone, job: str) -> None:
    with stopped(clone):
        cluster.run("scontrol", "update", f"jobid={job}", "EndTime=now+1")
        wait(lambda: cluster.job(job)["JobState"] in ("COMPLETING", "TIMEOUT"), "the job is at its limit", 120)


def run_out_of_memory(cluster: Cluster, clone: Clone, job: str) -> None:
    """Slurm sees that the job takes more than it asked for, and kills it; so it would again with the same amount."""
    swell(clone)
    with stopped(clone):
        wait(lambda: cluster.job(job)["JobState"] in ("FAILED", "OUT_OF_MEMORY"), "the job is out of memory", 120)


def requeue(cluster: Cluster, clone: Clone, job: str) -> None:
    with stopped(clone):
        cluster.run("scontrol", "requeue", job)


def preempt(cluster: Cluster, clone: Clone, job: str) -> None:
    """Another job may take what it wants from this one, and wants the whole node for a moment."""
    node = cluster.job(job)["NodeList"]
    wants = ("--partition=urgent", f"--nodelist={node}", "--exclusive", "--output=/dev/null")
    with stopped(clone):
        urgent = cluster.run("sbatch", "--parsable", *wants, "--wrap=sleep 1").strip()
        wait(lambda: cluster.job(job)["JobState"] != "RUNNING", "the job is told to go")
    wait(lambda: cluster.job(urgent)["JobState"] != "PENDING", "the other job has the node")
    assert cluster.job(job)["Restarts"] == "1"


def crash_the_node(cluster: Cluster, clone: Clone, job: str) -> None:
    """Nothing of it is left: Slurm starts the job on the other node."""
    node = cluster.job(job)["NodeList"]
    cluster.crash(node, job)
    wait(lambda: cluster.job(job)["NodeList"] not in ("", "(null)", node), "the job is on the other node", 180)
    cluster.start_node(node)


def lose_the_node(cluster: Cluster, clone: Clone, job: str) -> None:
    """Only its slurmd dies: Slurm starts the job on the other node while the task, unseen, lives and then trains on."""
    node = cluster.job(job)["NodeList"]
    with stopped(clone):
        before = set(tasks_of(clone))
        cluster.kill(f"slurmd.{node}", signal.SIGKILL)
        wait(lambda: set(tasks_of(clone)) - before, "the job is started on the other node", 180)
        assert cluster.job(job)["NodeList"] != node


Fault = Callable[[Cluster, Clone, str], None]
# After these Snakemake submits the segment again; after those Slurm itself starts the same job again.
SUBMITTED_AGAIN: tuple[Fault, ...] = (cancel, kill_the_task, meet_the_time_limit, run_out_of_memory)
STARTED_AGAIN: tuple[Fault, ...] = (requeue, preempt, crash_the_node, lose_the_node)
FAULTS = SUBMITTED_AGAIN + STARTED_AGAIN


def test_a_chain_with_a_fault_in_every_segment(
    cluster: Cluster, start: Start, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    undisturbed.begin(EPOCHS[-1])
    clone = tiny_study(tmp_path / "clone")
    run = start(clone, target(EPOCHS[-1]))
    for epoch, fault in zip(EPOCHS, FAULTS, strict=True):
        fault(cluster, clone, run.training(epoch))
    assert run.wait() == 0, run.printed()
    expected = [MEMORY]  # of the dataset's job
    for fault in FAULTS:
        again = MEMORY * 3 // 2 if fault is run_out_of_memory else MEMORY
        expected += [MEMORY, again] if fault in SUBMITTED_AGAIN else [MEMORY]
    asked = [cluster.job(job)["MinMemoryNode"] for job in run.submitted()]
    assert asked == [f"{amount}M" for amount in expected]
    for epoch, fault in zip(EPOCHS, FAULTS, strict=True):
        assert_same(clone.path / folder(epoch), undisturbed(epoch))
        if fault is not lose_the_node:  # there the first copy may have come to the end
            assert first_epoch(clone, epoch) > epoch - SEGMENT + 1, f"{fault.__name__}: from the start again"
