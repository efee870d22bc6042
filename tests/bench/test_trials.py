"""The measuring of a preflight: real steps on a CPU, the search for the largest micro-batch, and what it refuses."""

import gc
import weakref
from pathlib import Path

import pytest
import torch
from PIL import Image

from mto.bench import trials
from mto.bench.loading import loader_of
from mto.bench.run import Bench
from mto.bench.trials import Asked
from mto.config import load
from mto.config.job import Photographs, PreflightJob
from mto.cost import preflight
from mto.errors import UserError
from mto.names import Step
from mto.study.study import Study
from mto.training.mim import MaskedImageModel

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def demo() -> Study:
    return Study(load(ROOT / "config.yaml", scale="demo"))


@pytest.fixture(scope="module")
def paper() -> Study:
    return Study(load(ROOT / "config.yaml", scale="paper"))


def of_runs(study: Study, *runs: str) -> PreflightJob:
    job = preflight.job(study, "pretrain")
    return job.changed(jobs=[each for each in job.jobs if each["run"] in runs])


def test_real_steps_are_measured(demo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where no dataset is
    job = of_runs(demo, "mae-vitb", "mae-vitb-mto")
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


MAE = ("mae-vitb", "mae-vitb-mto")


@pytest.fixture
def two(demo, tmp_path, monkeypatch):
    """The preflight of two of the demo's runs, where no dataset is; a function of what is asked for."""
    monkeypatch.chdir(tmp_path)
    job = of_runs(demo, *MAE)
    return lambda micro_batch=32: trials.measure(job, Asked(0, 0, micro_batch, False))["rows"]


@torch._dynamo.config.patch(recompile_limit=3)  # torch has 8, and a stage of the paper ten models and more
def test_more_models_than_torch_compiles_of_one_function(demo, tmp_path, monkeypatch, capsys):
    """All models of a stage share the function that is compiled."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mto.training.compiled.BACKEND", "eager")
    monkeypatch.setattr(
        trials.Bench, "choose", lambda *_: Bench(torch.device("cpu"), steps=1, precision="fp32", compile=True)
    )
    torch._dynamo.reset()
    job = of_runs(demo, "simmim-vitb", "simmim-vitb-mto", *MAE)
    rows = trials.measure(job, Asked(gpus=0, workers=0, micro_batch=16, compile=True))["rows"]
    assert len(rows) + sum(len(row["tried"]) - 1 for row in rows if "tried" in row) == 6
    assert [row.get("error", row["compiled"]) for row in rows] == ["yes"] * 4
    assert "trains eagerly" not in capsys.readouterr().out


def test_models_that_do_not_fit_together_are_measured_one_after_the_other(two, monkeypatch, capsys):
    """And what did not fit is gone by then, though an error holds all frames that it came through."""
    alive = []

    def prepare(bench, job, images):
        if any(model() is not None for model in alive):
            raise torch.OutOfMemoryError("no")
        trained = real(bench, job, images)
        alive.append(weakref.ref(trained.work.model))
        return trained

    real = trials.Bench.prepare
    monkeypatch.setattr(trials.Bench, "prepare", prepare)
    plain, with_mto = two(16)
    assert len(alive) == 4  # the first of the pair, each alone, a larger micro-batch
    assert with_mto["mto_ratio"] == with_mto["seconds"] / plain["seconds"]
    assert [tried["micro_batch"] for tried in with_mto["tried"]] == [16, 32]
    assert "not together, so one after the other: out of memory at micro-batch 16" in capsys.readouterr().out


def test_the_search_runs_without_the_models_that_did_not_fit(two, monkeypatch):
    alive, beside = [], []

    def numbers(bench, trained, peak):
        alive.extend(weakref.ref(one.work.model) for one in trained)
        raise torch.OutOfMemoryError("no")

    def attempt(bench, job, size):
        beside.append(sum(model() is not None for model in alive))
        return {"micro_batch": size, "images_per_second": 7.0} if size <= 8 else None

    monkeypatch.setattr(trials.Bench, "numbers", numbers)
    monkeypatch.setattr(trials, "_attempt", attempt)
    plain, with_mto = two()
    assert (len(alive), beside) == (4, [0] * 4)  # as it is, and with a leaner option
    assert plain["error"] == with_mto["error"] == "out of memory at micro-batch 32"
    assert (with_mto["fits"], with_mto["fits_images_per_second"]) == (8, 7.0)


def test_a_micro_batch_that_does_not_fit_leaves_nothing_behind(demo, monkeypatch):
    alive = []

    def seconds_of(bench, steps):
        (step,) = steps.values()
        alive.append(weakref.ref(step.__self__.work.model))
        raise torch.OutOfMemoryError("no")

    bench = Bench(torch.device("cpu"), 1, "fp32", compile=False)
    monkeypatch.setattr(trials.Bench, "seconds_of", seconds_of)
    monkeypatch.setattr(trials.Bench, "free", lambda _: (gc.collect(), alive.append(alive[0]())))
    assert trials._attempt(bench, demo.job(Step("pretrain", "mae-vitb", 0, 8)), 4) is None
    assert alive[1] is None


def test_what_fits_can_compare_gradients_too(two, monkeypatch):
    """Which a job with MTO does now and then, in a pass of its own that is never compiled."""

    def gradients(model, image, *others):
        if len(image) > 16:
            raise torch.OutOfMemoryError("no")
        return real(model, image, *others)

    real = MaskedImageModel._gradients
    monkeypatch.setattr(MaskedImageModel, "_gradients", gradients)
    plain, with_mto = two(32)
    assert plain["images_per_second"] > 0
    assert with_mto["error"] == "out of memory at micro-batch 32"
    assert with_mto["fits"] == 16


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("no kernel here\nand a long story"), "no kernel here"),
        (RuntimeError(), "RuntimeError()"),
        (UserError("x.png: no whole image"), "x.png: no whole image"),
        (
            RuntimeError("cumsum does not have a deterministic implementation, but you set"),
            "cumsum has no deterministic form on this device; set resources.pretrain.deterministic: warn in "
            "config.yaml, or --deterministic warn here",
        ),
    ],
)
def test_what_fails_is_said_in_its_row_and_nothing_else_is_lost(two, monkeypatch, error, said):
    def prepare(bench, job, images):
        if job.run == "mae-vitb-mto":
            raise error
        return real(bench, job, images)

    real = trials.Bench.prepare
    monkeypatch.setattr(trials.Bench, "prepare", prepare)
    plain, with_mto = two()
    assert plain["images_per_second"] > 0
    assert with_mto["error"] == said
    assert "fits" not in with_mto
    assert "images_per_second" not in with_mto


def test_the_dataset_is_listed_once(demo, tmp_path, monkeypatch):
    for place in ("train/a", "train/b", "val/a", "val/b"):
        (tmp_path / place).mkdir(parents=True)
        Image.new("RGB", (30, 30)).save(tmp_path / place / "0.png")
    job = demo.job(Step("linear", "mae-vitb", 0, 8)).reading(num_classes=2)
    with trials.images(Photographs(root=str(tmp_path), num_classes=2, side=[24, 24])) as (folder, said):
        monkeypatch.setattr("mto.data.imagenet.walk", lambda *_: pytest.fail("it was walked again"))
        assert [len(loader_of(job, folder, 2, 0, pin_memory=False).dataset) for _ in range(2)] == [2, 2]
        assert said == str(tmp_path)


def test_of_a_dataset_with_other_classes_the_chosen_are_read(demo, tmp_path, monkeypatch):
    for place in ("train/a", "train/b", "train/other", "val/a", "val/b", "val/other"):
        (tmp_path / place).mkdir(parents=True)
        Image.new("RGB", (30, 30)).save(tmp_path / place / "0.png")
    chosen = {"root": str(tmp_path), "num_classes": 2, "classes": ["a", "b"]}
    job = demo.job(Step("finetune", "mae-vitb", 0, 8)).reading(num_classes=2, classes=["a", "b"])
    for images, size in ((chosen, 2), ({**chosen, "root": "nowhere"}, 64)):  # else photographs, which are of one class
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with trials.images(Photographs(**images, side=[24, 24])) as (folder, _):
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


def test_what_does_not_fit_is_tried_with_less_that_is_kept(two, monkeypatch):
    """The micro-batch, which a batch norm may see, stays as it was."""

    def prepare(bench, job, images):
        if bench.memory != "least":
            raise torch.OutOfMemoryError("no")
        return real(bench, job, images)

    real = trials.Bench.prepare
    monkeypatch.setattr(trials.Bench, "prepare", prepare)
    monkeypatch.setattr(trials, "may_vary", lambda job: False)
    plain, with_mto = two(16)
    assert (plain["error"], "spared" in plain) == ("out of memory at micro-batch 16", False)
    assert (with_mto["spared"]["memory"], with_mto["spared"]["micro_batch"]) == ("least", 16)
    said = preflight._failure(with_mto)
    assert said.startswith("out of memory at micro-batch 16; it fits with memory: least, ")
