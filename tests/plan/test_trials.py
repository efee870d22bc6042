"""The measuring of a preflight: real steps on a CPU, the search for the largest micro-batch, and what it refuses."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from mto.bench.loading import loader_of
from mto.config import load
from mto.errors import UserError
from mto.plan import preflight, trials
from mto.plan.trials import Asked
from mto.study import Step, Study

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def demo() -> Study:
    return Study(load(ROOT / "config.yaml", scale="demo"))


@pytest.fixture(scope="module")
def paper() -> Study:
    return Study(load(ROOT / "config.yaml", scale="paper"))


def test_real_steps_are_measured(demo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where no dataset is
    job = preflight.job(demo, "pretrain")
    job["jobs"] = [each for each in job["jobs"] if each["run"] in ("mae-vitb", "mae-vitb-mto")]
    found = trials.measure(job, Asked(gpus=0, workers=0, micro_batch=16, compile=True))
    assert found["images"] == "made-up photographs of 24 x 24"
    assert (found["machine"]["gpus"], found["machine"]["compiled"]) == (0, False)
    plain, with_mto = found["rows"]
    for row in found["rows"]:
        assert row["micro_batch"] == 16
        assert 0 < row["images_per_second"] == row["both_images_per_second"]
        assert 0 < row["waiting_share"] < 1
        assert row["memory_mib"] > 0
        assert "error" not in row
    assert with_mto["mto_ratio"] == with_mto["seconds"] / plain["seconds"]
    assert with_mto["train_flops"] > plain["train_flops"]
    assert with_mto["fits"] == 32  # the recipe's whole batch
    assert [tried["micro_batch"] for tried in with_mto["tried"]] == [16, 32]


def test_of_a_dataset_with_other_classes_the_chosen_are_read(demo, tmp_path, monkeypatch):
    for place in ("train/a", "train/b", "train/other", "val/a", "val/b", "val/other"):
        (tmp_path / place).mkdir(parents=True)
        Image.new("RGB", (30, 30)).save(tmp_path / place / "0.png")
    chosen = {"root": str(tmp_path), "num_classes": 2, "classes": ["a", "b"]}
    job = demo.job(Step("finetune", "mae-vitb", 0, 8))
    job["data"] |= {"num_classes": 2, "classes": ["a", "b"]}
    for images, size in ((chosen, 2), ({**chosen, "root": "nowhere"}, 64)):  # else photographs, which are of one class
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with trials.images({"images": {**images, "side": [24, 24]}}) as (folder, _):
            assert len(loader_of(job, folder, 2, 0, pin_memory=False).dataset) == size


@pytest.mark.parametrize(
    ("most", "configured_fits", "tried", "fits"),
    [
        (10_000, True, [64, 128, 256, 512], 512),  # up to the recipe's share of a GPU
        (200, True, [64, 128], 128),
        (20, False, [16], 16),  # the configured one does not fit: half as much until one does
        (0, False, [], None),
    ],
)
def test_the_largest_micro_batch(paper, monkeypatch, most, configured_fits, tried, fits):
    def attempt(bench, job, size):
        return {"micro_batch": size, "images_per_second": 1.0} if size <= most else None

    monkeypatch.setattr(trials, "_attempt", attempt)
    job = paper.job(Step("pretrain", "mae-vitb-mto", 0, 800))  # 4096 on 8 GPUs
    last = {"micro_batch": 64, "images_per_second": 1.0} if configured_fits else None
    found = trials._largest(None, Asked(8, 11, 64, True), job, last)
    assert [each["micro_batch"] for each in found.get("tried", [])] == tried
    assert found.get("fits") == fits


def test_what_does_not_fit_is_said_and_nothing_else_is_lost(demo, tmp_path, monkeypatch):
    def prepare(*_):
        raise torch.OutOfMemoryError("no")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trials.Bench, "prepare", prepare)
    job = preflight.job(demo, "coco")
    rows = trials.measure(job, Asked(0, 0, None, False))["rows"]
    assert [row["error"] for row in rows] == ["out of memory at micro-batch 4"] * 3
    assert not any("images_per_second" in row for row in rows)


def test_batch_norms_keep_their_micro_batch(paper):
    vary = {
        (step.task, step.run)
        for step in [*paper.segments(), *paper.steps()]
        if step.task != "heterogeneity" and trials.may_vary(paper.job(step))
    }
    assert {task for task, run in vary if run.startswith("conmim")} == {"finetune", "linear"}  # BEiT's probe has none
    assert ("linear", "mae-vitb") not in vary
    assert {task for task, _ in vary} == {"pretrain", "finetune", "linear"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_the_papers_stages_are_refused_in_one_line(paper):
    with pytest.raises(UserError, match=r"resources.pretrain.gpu is 8, and no GPU is visible here") as caught:
        trials.measure(preflight.job(paper, "pretrain"), Asked(8, 11, 64, True))
    assert "\n" not in str(caught.value)
