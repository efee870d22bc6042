"""What a stop costs a training on a production Slurm, in steps: with control groups, and on one node and on two."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from lab import Cluster
from test_chain import cancel, meet_the_time_limit, preempt
from tiny_study import SAID, Run, stopped, target, tiny_study
from workflow_clone import Clone

Start = Callable[..., Run]
Stop = Callable[[Cluster, Clone, str], None]
pytestmark = pytest.mark.slurm


def ask_by_signal(cluster: Cluster, clone: Clone, job: str) -> None:
    """As `--signal=USR1@600` in `slurm_extra` does."""
    with stopped(clone):
        cluster.run("scancel", "--signal=USR1", job)


# What befalls the trainings, and what they say as they leave.
STOPS: dict[Stop, str] = {
    cancel: "SIGTERM",
    meet_the_time_limit: "SIGTERM",
    preempt: "SIGTERM",
    ask_by_signal: "SIGUSR1",
}
ON_TWO_NODES = {"resources.pretrain.gpu": 16, "resources.pretrain.nodes": 2, "resources.pretrain.mem_mb": 6000}


@pytest.mark.parametrize("nodes", [1, 2], ids=["one node", "two nodes"])
@pytest.mark.parametrize("cluster", ["cgroup", "linuxproc"], indirect=True)
def test_no_stop_costs_a_step(cluster: Cluster, start: Start, tmp_path: Path, nodes: int) -> None:
    clone = tiny_study(tmp_path / "clone")
    epochs = range(4, 4 * (len(STOPS) + 2), 4)  # of the segments' ends; each has twenty steps
    for key, value in {
        "study.pretrain_epochs": epochs[-1],
        "study.measured_epochs": [*epochs],
        "study.fig4_epochs.epochs": [*epochs],
        "log_interval": 1,
        **(ON_TWO_NODES if nodes > 1 else {}),
    }.items():
        clone.set(f"scales.demo.{key}", value)
    run = start(clone, target(epochs[-1]))
    for epoch, stop in zip(epochs[:-1], STOPS, strict=True):
        job = run.training(epoch)
        if epoch == epochs[-2]:
            (clone.path / "careful").touch()
        stop(cluster, clone, job)

    def begins() -> bool:
        job = cluster.job(run.submitted()[-1])
        return job["Comment"].endswith(f"{epochs[-1]:04d}") and job["JobState"] == "RUNNING"

    run.until(begins, "the start of the last segment's job")
    cluster.run("scontrol", "update", f"jobid={run.submitted()[-1]}", "EndTime=now+110")  # and nothing else befalls it
    assert run.wait() == 0, run.printed()
    said = (clone.path / SAID).read_text()
    reasons = re.findall(r"mto: (.*): stopped and saved at step", said)
    assert reasons == [*STOPS.values(), "the time limit is near"], said
    trained = list(map(int, re.findall(r"\bstep +(\d+)/", said)))
    assert trained == list(range(1, max(trained) + 1)), f"trained twice, or not at all: {trained}"
