"""Snakemake itself is killed while its jobs live on: no segment is written twice, or goes on under another setting."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from lab import Cluster
from machine import wait
from tiny_study import EPOCHS, Run, Undisturbed, assert_same, folder, stopped, target, tiny_study
from workflow_clone import Clone, copy_workflow

from mto.config import load
from mto.names import Step
from mto.study.study import Study

Start = Callable[..., Run]
pytestmark = pytest.mark.slurm


def test_a_killed_controller_started_again(
    cluster: Cluster, start: Start, undisturbed: Undisturbed, tmp_path: Path
) -> None:
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
    assert_same(clone.path / folder(EPOCHS[0]), undisturbed(EPOCHS[0]))
    # Reported failed although it had finished: Snakemake removes what the job declared.
    for name in ("encoder.safetensors", "state.pth", "metrics.json", "history.jsonl"):
        (clone.path / folder(EPOCHS[0]) / name).unlink()
    third = start(clone, target(EPOCHS[0]))
    assert third.wait() == 0, third.printed()
    assert "| epoch" in first.slurm_log()
    assert "| epoch" not in third.slurm_log()
    assert_same(clone.path / folder(EPOCHS[0]), undisturbed(EPOCHS[0]))


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
    edited = Study(load(clone.path / "config.yaml")).job(Step("pretrain", "mae-vitb-mto", 0, EPOCHS[0])).plain()
    assert edited != json.loads((clone.path / folder(EPOCHS[0]) / "job.json").read_text())["job"]
    second = start(clone, target(EPOCHS[1]))
    if second.wait() == 0:
        assert re.search(r"epoch0012 \| epoch +1\.00/", second.slurm_log()), "the other job's segment was continued"
    else:
        assert "mto: error: " in second.slurm_log()
        assert len(second.submitted()) == 1, "a refusal was tried again"
        assert not (clone.path / target(EPOCHS[1])).exists()


def test_an_edit_while_jobs_wait_is_not_in_them(start: Start, tmp_path: Path) -> None:
    """One job at a time: those that start after the edit have the settings under which Snakemake files them."""
    clone = copy_workflow(tmp_path / "clone")
    manifest = clone.path / "results/demo/data/imagenet/manifest.json"
    manifest.parent.mkdir(parents=True)
    manifest.touch()
    study, baselines = Study(load(clone.path / "config.yaml")), ("mae", "simmim", "conmim")
    steps = [Step("finetune", f"{baseline}-vitb", 0, 0) for baseline in baselines]
    made = [clone.path / study.folder(step) / "metrics.json" for step in steps]
    run = start(clone, "--jobs", "1", *(str(file.relative_to(clone.path)) for file in made), SECONDS_OF_WORK="3")
    run.until(lambda: any(file.exists() for file in made), "the first job's end")
    clone.set("weight_decay_of_everyone", 1)  # no such key: a job that read it would refuse to start
    for baseline in baselines:
        clone.set(f"scales.demo.baselines.{baseline}.finetune.weight_decay", 0.3)
    assert run.wait() == 0, run.printed()
    for file, step in zip(made, steps, strict=True):
        ran = re.search(r"--job (\{.*?\}) --inputs", file.read_text())
        assert json.loads(ran[1])["optim"] == study.job(step).plain()["optim"], step


def logs(clone: Clone) -> str:
    return "".join(file.read_text() for file in (clone.path / "logs").rglob("*.log"))
