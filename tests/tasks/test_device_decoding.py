"""Whole jobs whose images the device decodes: on a CPU their history is that of workers who decode, to the last bit."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny import linear_job, pretrain_job, run

from mto.data.device.decode import ahead
from mto.errors import UserError
from mto.training import loop
from mto.training.hardware import Hardware
from mto.training.log import read_history

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def jpegs(images, tmp_path_factory) -> Path:
    """The tiny images as JPEGs, but for one of each class, which stays a PNG."""
    root = tmp_path_factory.mktemp("jpegs")
    for path in images.rglob("*.png"):
        target = root / path.relative_to(images)
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            image.save(target if path.name == "3.png" else target.with_suffix(".JPEG"))
    return root


def on_device(job: dict) -> dict:
    return job | {"data": job["data"] | {"decode": "device"}}


def history(out: Path) -> list[dict]:
    rows = read_history(out / "history.jsonl")
    return [{name: value for name, value in row.items() if name != "images_per_second"} for row in rows]


@pytest.mark.parametrize(
    ("baseline", "hardware"),
    [
        ("mae", Hardware(workers=2, micro_batch=6)),
        ("conmim", Hardware()),
        ("simmim", Hardware()),
        ("bootmae", Hardware()),
    ],
)
def test_pre_training(jpegs, tmp_path, baseline, hardware):
    job = pretrain_job(jpegs, baseline)
    outs = [run(job, tmp_path / "workers", hardware), run(on_device(job), tmp_path / "device", hardware)]
    histories = [history(out) for out in outs]
    assert histories[0] == histories[1] != []
    weights = [load_file(out / "encoder.safetensors") for out in outs]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_pre_training_with_the_next_batch_being_decoded(jpegs, tmp_path, monkeypatch):
    """As on a GPU, but for the stream: over accumulation and segments, and through a resumption."""
    given = []

    def batches(loader, model, device):
        given.append(model)
        pixels = model.data_preprocessor
        return ahead(iter(loader), lambda cuts: pixels.decode(cuts, CPU))

    hardware = Hardware(workers=1, micro_batch=6)
    plain = run(pretrain_job(jpegs, "mae"), tmp_path / "plain", hardware)
    monkeypatch.setattr(loop, "batches", batches)
    first = run(on_device(pretrain_job(jpegs, "mae", epoch=1)), tmp_path / "first", hardware)
    state = {"state": first / "state.pth"}
    second = run(on_device(pretrain_job(jpegs, "mae")), tmp_path / "second", hardware, **state)
    assert len(given) == 2
    assert history(first) + history(second) == history(plain)
    weights = [load_file(out / "encoder.safetensors") for out in (plain, second)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_linear_probe(jpegs, pretrained, tmp_path):
    encoder, job = pretrained("mae") / "encoder.safetensors", linear_job(jpegs, "mae")
    outs = [run(each, tmp_path / name, encoder=encoder) for name, each in {"a": job, "b": on_device(job)}.items()]
    assert history(outs[0]) == history(outs[1]) != []
    metrics = [json.loads((out / "metrics.json").read_text())["metrics"] for out in outs]
    assert metrics[0] == metrics[1]


def test_the_state_of_one_is_not_continued_by_the_other(jpegs, tmp_path):
    first = run(pretrain_job(jpegs, "mae", epoch=1), tmp_path / "first")
    with pytest.raises(UserError, match=r"job\.data\.decode|decode"):
        run(on_device(pretrain_job(jpegs, "mae")), tmp_path / "second", state=first / "state.pth")
