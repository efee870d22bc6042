"""A run on any form of the same images is the same run: weights, history and numbers, bit for bit, killed or not."""

import json

import pytest
from tiny import finetune_job, pretrain_job, run

from image_forms import WRITERS, pictures, write
from mto.data.forms.convert import convert
from mto.data.listing import NAME
from mto.tasks import data
from mto.training.hardware import Hardware
from mto.training.log import read_history
from typed_jobs import typed

#: What of a row depends on the time that it took.
CLOCK = ("seconds", "per_second", "wait", "data", "time", "memory", "gb")
FORMS = [*WRITERS, "converted"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The datasets, and what their own jobs left of them."""
    images = pictures(train=8, val=4)
    folders = {}
    for form in FORMS:
        out = tmp_path_factory.mktemp(form)
        if form == "converted":
            convert(folders["parquet"] / "root", out / "root", 1)
        else:
            write(form, images, out / "root")
        job = {"task": "data", "dataset": "imagenet", "root": str(out / "root"), "num_classes": 5, "make": None}
        data.run(typed(job), out / "data")
        folders[form] = out
    return folders


def jobs(out):
    """A pre-training and a fine-tuning that learn where their dataset lies from its manifest."""
    for job in (pretrain_job(out, "mae"), finetune_job(out, "mae", epochs=1)):
        job["data"] = {key: value for key, value in job["data"].items() if key != "root"} | {"num_classes": 5}
        yield job


def trained(made, form, out, workers=0):
    manifest = made[form] / "data" / "manifest.json"
    assert (manifest.with_name(NAME)).exists()
    pretrain, finetune = jobs(made[form])
    hardware = Hardware(workers=workers)
    first = run(pretrain, out / "pretrain", hardware, data=manifest)
    second = run(finetune, out / "finetune", hardware, data=manifest, encoder=first / "encoder.safetensors")
    return {
        "encoder": (first / "encoder.safetensors").read_bytes(),
        "histories": [[_told(row) for row in read_history(each / "history.jsonl")] for each in (first, second)],
        "metrics": json.loads((second / "metrics.json").read_text())["metrics"],
    }


def _told(row):
    return {name: value for name, value in row.items() if not any(word in name for word in CLOCK)}


@pytest.fixture(scope="module")
def expected(made, tmp_path_factory):
    return trained(made, "folders", tmp_path_factory.mktemp("expected"))


@pytest.mark.parametrize("form", FORMS)
def test_a_run_on_any_form_is_the_same_run(made, expected, tmp_path, form):
    found = trained(made, form, tmp_path, workers=2 if form in ("parquet", "archives") else 0)
    assert len(found["histories"][0]) > 2
    assert any("loss" in name for name in found["histories"][0][0])
    assert found == expected


def test_a_segment_may_be_continued_on_another_form(made, expected, tmp_path):
    """Who converts a dataset, or moves to another form, between two segments gets the very same run."""
    manifests = {form: made[form] / "data" / "manifest.json" for form in ("kaggle", "webdataset")}
    pretrain, _ = jobs(made["kaggle"])
    half = run(pretrain | {"epoch": 1}, tmp_path / "half", data=manifests["kaggle"])
    whole = run(pretrain, tmp_path / "whole", data=manifests["webdataset"], state=half / "state.pth")
    assert (whole / "encoder.safetensors").read_bytes() == expected["encoder"]
