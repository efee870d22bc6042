"""Encoders that people give to a task: another run's, one with a head, one that does not fit: a line with the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from dense_jobs import coco_job
from tiny import finetune_job, linear_job

from mto.data.demo import make_coco
from mto.errors import UserError
from mto.methods.encoder import build_classifier, build_encoder
from mto.tasks import coco, finetune, linear
from mto.tasks.task import Task
from mto.training.weights import save_weights
from typed_jobs import typed

OWN = {"run": "mae-vitb", "epoch": "2", "seed": "0"}


def given(path: Path, job: dict[str, Any], said: dict[str, str], weights: dict[str, Any] | None = None) -> Task:
    """A task whose encoder is a file that says so of itself."""
    state = build_encoder(**job["encoder"]).state_dict() if weights is None else weights
    save_weights(path / "e.safetensors", {name: value.contiguous() for name, value in state.items()}, said)
    return Task(job["task"], typed(job), {"encoder": path / "e.safetensors"}, path / "out")


@pytest.mark.parametrize("said", [OWN, {}, {"run": "mae-vitb"}])
def test_an_encoder_of_this_run_and_one_from_elsewhere_are_taken(images, tmp_path, said):
    task = given(tmp_path, finetune_job(images, "mae"), said)
    assert task.read_encoder()["cls_token"].shape == (1, 1, 16)


@pytest.mark.parametrize("key", OWN)
def test_an_encoder_of_another_run_is_refused(images, tmp_path, key):
    """ConMIM's has the shapes of SimMIM's; a folder renamed or linked by hand is enough."""
    task = given(tmp_path, finetune_job(images, "mae"), OWN | {key: "7"})
    with pytest.raises(UserError, match=rf"e\.safetensors: of {key} 7, but this job is of {key} {OWN[key]}; give"):
        task.read_encoder()


@pytest.mark.parametrize("module", [finetune, linear])
def test_a_network_with_its_head_is_no_encoder(images, tmp_path, module):
    """It was trained on labels already, maybe on those that are to be measured on."""
    job = (finetune_job if module is finetune else linear_job)(images, "mae")
    network = build_classifier(**job["encoder"], num_classes=3).state_dict()
    with pytest.raises(UserError, match=r"e\.safetensors: brings a head \((fc_norm|head)\."):
        module.run(given(tmp_path, job, {}, network))


FILES = {
    "a prefix": lambda state: {f"module.{name}": value for name, value in state.items()},
    "another depth": lambda state: {name: value for name, value in state.items() if "blocks.1." not in name},
    "another patch size": lambda state: state | {"patch_embed.proj.weight": torch.zeros(16, 3, 2, 2)},
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("module", [finetune, linear, coco])
def test_what_does_not_fit_is_a_line_with_the_file(images, tmp_path, module, kind):
    if module is coco:
        make_coco(tmp_path / "coco", size=48, train=2, val=1)
        job = coco_job(tmp_path / "coco", "mae")
    else:
        job = (finetune_job if module is finetune else linear_job)(images, "mae")
    weights = FILES[kind](build_encoder(**job["encoder"]).state_dict())
    with pytest.raises(UserError, match=r"e\.safetensors: the pre-trained encoder does not fit"):
        module.run(given(tmp_path, job, {}, weights))
