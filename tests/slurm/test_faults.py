"""Faults of a real Slurm: each ends with the undisturbed numbers, to the last bit, or with a refusal."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from lab import Cluster, wait
from tiny_study import EPOCHS, SEGMENT, Run, assert_same, first_epoch, folder, stopped, target, tasks_of, tiny_study
from workflow_clone import Clone

from mto.config import load
from mto.study import Step, Study

Start = Callable[..., Run]
pytestmark = pytest.mark.slurm


def cancel(cluster: Cluster, clone: Clone, job: str) -> None:
    with stopped(clone):
        cluster.run("scancel", job)


def kill_the_task(cluster: Cluster, clone: Clone, job: str) -> None:
    for process in tasks_of(clone):
        os.kill(process, signal.SIGKILL)


def requeue(cluster: Cluster, clone: Clone, job: str) -> None:
    with stopped(clone):
        cluster.run("scontrol", "requeue", job)


def meet_the_time_limit(cluster: Cluster, clone: Clone, job: str) -> None:
    with stopped(clone):
        cluster.run("scontrol", "update", f"jobid={job}", "EndTime=now+1")
        wait(lambda: cluster.job(job)["JobState"] in ("COMPLETING", "TIMEOUT"), "the job is at its limit", 120)


def lose_the_node(cluster: Cluster, clone: Clone, job: str) -> None:
    """Only its slurmd dies: Slurm starts the job on the other node while the task, unseen, lives and then trains on."""
    node = cluster.job(job)["NodeList"]
    with stopped(clone):
        before = set(tasks_of(clone))
        cluster.kill(f"slurmd.{node}", signal.SIGKILL)
        wait(lambda: set(tasks_of(clone)) - before, "the job is started on the other node", 180)
        assert cluster.job(job)["NodeList"] != node


FAULTS: dict[int, Callable[[Cluster, Clone, str], None]] = dict(
    zip(EPOCHS, (cancel, kill_the_task, requeue, meet_the_time_limit, lose_the_node), strict=True)
)


def test_a_chain_with_a_fault_in_every_segment(
    cluster: Cluster, start: Start, undisturbed: Clone, tmp_path: Path
) -> None:
    clone = tiny_study(tmp_path / "clone")
    run = start(clone, target(EPOCHS[-1]))
    for epoch, fault in FAULTS.items():
        fault(cluster, clone, run.training(epoch))
    assert run.wait() == 0, run.printed()
    # The dataset, the segments, three of them again; the requeued and the lost job are started again by Slurm itself.
    assert len(run.submitted()) == 1 + len(EPOCHS) + 3
    for epoch, fault in FAULTS.items():
        assert_same(clone.path / folder(epoch), undisturbed.path / folder(epoch))
        if fault is not lose_the_node:  # there the first copy may have come to the end
            assert first_epoch(clone, epoch) > epoch - SEGMENT + 1, f"{fault.__name__}: from the start again"


def test_a_killed_controller_started_again(cluster: Cluster, start: Start, undisturbed: Clone, tmp_path: Path) -> None:
    """Its job lives on, and the new controller submits another for the same segment: one of them writes."""
    clone = tiny_study(tmp_path / "clone")
    first = start(clone, target(EPOCHS[0]))
    first.training(EPOCHS[0])
    with stopped(clone):
        first.kill()
        clone.snakemake("--unlock", target(EPOCHS[0]))
        second = start(clone, target(EPOCHS[0]))
        second.until(lambda: "is at work here" in logs(clone), "the second copy's meeting the first")
    assert second.wait() == 0, second.printed()
    assert len(second.submitted()) == 1
    assert_same(clone.path / folder(EPOCHS[0]), undisturbed.path / folder(EPOCHS[0]))
    # Reported failed although it had finished: Snakemake removes what the job declared.
    for name in ("encoder.safetensors", "state.pth", "metrics.json", "history.jsonl"):
        (clone.path / folder(EPOCHS[0]) / name).unlink()
    third = start(clone, target(EPOCHS[0]))
    assert third.wait() == 0, third.printed()
    assert "| epoch" in first.slurm_log()
    assert "| epoch" not in third.slurm_log()
    assert_same(clone.path / folder(EPOCHS[0]), undisturbed.path / folder(EPOCHS[0]))


def test_an_edit_after_a_segment_that_no_controller_saw_end(cluster: Cluster, start: Start, tmp_path: Path) -> None:
    """Snakemake knows nothing of that segment's job: the next one's task must see that it is another's."""
    clone = tiny_study(tmp_path / "clone")
    first = start(clone, target(EPOCHS[1]))
    first.training(EPOCHS[0])
    first.kill()
    wait(lambda: not cluster.jobs(), "the segment ends by itself", 180)
    assert (clone.path / target(EPOCHS[0])).exists()
    clone.snakemake("--unlock", target(EPOCHS[1]))
    clone.set("scales.demo.baselines.mae.pretrain.clip_grad", 0.5)
    edited = Study(load(clone.path / "config.yaml")).job(Step("pretrain", "mae-vitb-mto", 0, EPOCHS[0]))
    assert edited != json.loads((clone.path / folder(EPOCHS[0]) / "job.json").read_text())["job"]
    second = start(clone, target(EPOCHS[1]))
    if second.wait() == 0:
        assert re.search(r"epoch0012 \| epoch +1\.00/", second.slurm_log()), "the other job's segment was continued"
    else:
        assert "mto: error: " in second.slurm_log()
        assert len(second.submitted()) == 1, "a refusal was tried again"
        assert not (clone.path / target(EPOCHS[1])).exists()


def logs(clone: Clone) -> str:
    return "".join(file.read_text() for file in (clone.path / "logs").rglob("*.log"))
