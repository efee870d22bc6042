"""Jobs that keep less for the backward pass: the bits of those that keep all, also where one goes on from another."""

import json
import os
import signal

import pytest
import torch
from dense_jobs import ade20k_job, save_encoder
from safetensors.torch import load_file
from tiny import finetune_job, pretrain_job
from torch.optim.optimizer import register_optimizer_step_post_hook

from mto.__main__ import main
from mto.data.demo import make_ade20k
from mto.methods.memory import spare
from mto.names import BASELINES
from mto.training.log import read_history


def start(job, out, memory: str, *passes: str, **inputs) -> int:
    given = ["--inputs", *(f"{name}={path}" for name, path in inputs.items())] if inputs else []
    return main([job["task"], "--job", json.dumps(job), "--out", str(out), *given, "--memory", memory, *passes])


def rows(*folders) -> list[dict]:
    return [
        row | {"images_per_second": None}
        for folder in folders
        for row in read_history(next(folder.rglob("history.jsonl")))
    ]


@pytest.mark.parametrize("baseline", BASELINES)
def test_segments_that_keep_less_equal_those_that_keep_all(images, tmp_path, monkeypatch, baseline):
    """Gradients are compared as well; the second segment goes on from the state of the first."""
    found, spared = [], []
    monkeypatch.setattr("mto.training.loop.spare", lambda *given: spared.append(given[1]) or spare(*given))
    for name, first, second in (("all", "fast", "fast"), ("less", "lean", "least")):
        begun, done = tmp_path / name / "begun", tmp_path / name / "done"
        assert start(pretrain_job(images, baseline, epoch=1), begun, first, "--gradients", "1") == 0
        state = begun / "state.pth"
        assert start(pretrain_job(images, baseline), done, second, "--gradients", "1", state=state) == 0
        found.append((rows(begun, done), load_file(done / "encoder.safetensors")))
    assert spared == ["fast", "fast", "lean", "least"]
    (kept, whole), (less, weights) = found
    assert less == kept
    assert weights.keys() == whole.keys()
    assert all(torch.equal(weights[name], value) for name, value in whole.items())


@pytest.mark.parametrize("task", ["finetune", "ade20k"])
def test_a_job_that_is_stopped_goes_on_with_another_option(images, tmp_path, task):
    """With drop path, and for fine-tuning mixup."""
    if task == "finetune":
        job = finetune_job(images, "bootmae", ema_decay=0.9)
    else:
        make_ade20k(tmp_path / "data", size=48, train=4, val=2)
        job = ade20k_job(tmp_path / "data") | {"iterations": 4}
    encoder = save_encoder(tmp_path / "encoder.safetensors", job)
    assert start(job, tmp_path / "whole", "fast", encoder=encoder) == 0
    steps = []

    def stop(*_) -> None:
        steps.append(1)
        if len(steps) == 2:
            os.kill(os.getpid(), signal.SIGUSR1)

    hook = register_optimizer_step_post_hook(stop)
    try:
        with pytest.raises(SystemExit):
            start(job, tmp_path / "parts", "lean", encoder=encoder)
        assert len(steps) == 2
        assert start(job, tmp_path / "parts", "least", encoder=encoder) == 0
    finally:
        hook.remove()
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")
