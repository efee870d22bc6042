"""Scale small: ImageNet-100 out of the whole of ImageNet, rates that follow the batch, steps at the true sizes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mto.config import load
from mto.config.classes import described
from mto.data.demo import make_ade20k, make_coco
from mto.data.imagenet import ImageFolder
from mto.files import read_json
from mto.names import BASELINES, Step
from mto.study.study import Study
from mto.tasks import data
from tasks.dense_jobs import save_encoder
from tasks.tiny import run
from typed_jobs import typed

FILE = Path(__file__).parents[2] / "config.yaml"
LIST = Path(__file__).parents[2] / "src/mto/data/imagenet100.txt"
OTHERS = ["n00000001", "n01440764", "n99999999"]  # class folders that are none of the hundred


@pytest.fixture(scope="module")
def study() -> Study:
    return Study(load(FILE, scale="small"))


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The hundred class folders with a JPEG in each split, and three more folders."""
    root = tmp_path_factory.mktemp("imagenet")
    random = np.random.default_rng(0)
    for name in [*LIST.read_text().split(), *OTHERS]:
        pixels = random.integers(0, 256, (25, 33, 3), dtype=np.uint8)
        for split in ("train", "val"):
            (root / split / name).mkdir(parents=True)
            Image.fromarray(pixels).resize((200, 150)).save(root / split / name / f"{name}_0.JPEG")
    return root


# -------------------------------------------------------------------------------------------------- the hundred classes
def test_the_list_is_a_hundred_of_imagenets_class_folders(study: Study) -> None:
    names = LIST.read_text().split()
    assert len(set(names)) == len(names) == study.config.datasets.imagenet.num_classes == 100
    assert all(len(name) == 9 and name[0] == "n" and name[1:].isdigit() for name in names)
    assert study.config.datasets.imagenet.classes == sorted(names)


def test_the_hundred_are_taken_where_they_lie(study: Study, imagenet: Path, tmp_path: Path) -> None:
    """From the folder of the thousand: looked over, and labelled 0 to 99 in the order of their names."""
    job = study.data_job("imagenet").plain() | {"root": str(imagenet)}
    for name in OTHERS:
        (imagenet / "train" / name / "damaged.JPEG").write_bytes(b"nobody looks")
    data.run(typed(job), tmp_path)
    assert read_json(tmp_path / "manifest.json")["counts"] == {"train": 100, "val": 100}
    seen = study.job(Step("linear", "mae-vitb", 0, 200)).plain()
    folder = ImageFolder.of(typed(seen | {"data": seen["data"] | {"root": str(imagenet)}}), "train")
    assert folder.classes == sorted(LIST.read_text().split())
    assert folder.labels.tolist() == list(range(100))
    assert [Path(folder.path(index)).parent.name for index in range(100)] == folder.classes


# ---------------------------------------------------------------------------------------------------------- the recipes
@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_rates_are_the_papers_for_another_batch(study: Study, baseline: str, stage: str) -> None:
    """By one rule in all four recipes: the peak is in proportion to the batch."""
    small = getattr(study.config.of(baseline, "vitb"), stage)
    paper = getattr(load(FILE, scale="paper").of(baseline, "vitb"), stage)
    share = small.batch_size / paper.batch_size
    assert share < 1
    assert small.lr.peak(small.batch_size) == pytest.approx(paper.lr.peak(paper.batch_size) * share)
    if stage == "pretrain":
        assert small.schedule.min_lr == pytest.approx(paper.schedule.min_lr * share)
    lengths = [study.config.study.pretrain_epochs, 800] if stage == "pretrain" else [small.epochs, paper.epochs]
    shares = [each.schedule.warmup_epochs / epochs for each, epochs in zip((small, paper), lengths, strict=True)]
    assert shares[0] == pytest.approx(shares[1])


def test_masks_cover_the_share_that_the_papers_do(study: Study) -> None:
    from mto.data.rng import generator
    from mto.methods.masking import build_mask_sampler

    paper = Study(load(FILE, scale="paper"))
    for baseline in BASELINES:
        shares = []
        for plan in (study, paper):
            job = plan.job(Step("pretrain", f"{baseline}-vitb", 0, plan.config.study.pretrain_epochs)).plain()
            sampler = build_mask_sampler(job["method"]["img_size"], job["method"]["patch_size"], **job["mask"])
            shares.append(sampler(generator(0)).float().mean().item())
        assert shares[0] == pytest.approx(shares[1], abs=0.02)


def test_epochs_stand_for_the_papers(study: Study) -> None:
    """A quarter of each, so that every value has a printed one beside it."""
    small, paper = study.config.study, load(FILE, scale="paper").study
    assert [4 * epoch for epoch in small.measured_epochs] == paper.measured_epochs
    for table, epochs in paper.asked().items():
        assert {4 * epoch for epoch in small.asked()[table]} == set(epochs)


def test_every_table_of_the_paper_is_made(study: Study) -> None:
    paper = Study(load(FILE, scale="paper"))
    assert study.tables == paper.tables
    assert study.figures == paper.figures


# ------------------------------------------------------------------------------------------ steps, at the true sizes
def shortened(job: dict[str, Any], root: Path) -> dict[str, Any]:
    """The study's own job, of one epoch of one step of two images; of ImageNet two of the hundred classes."""
    job = job | {"data": job["data"] | {"root": str(root)}, "precision": "fp32"}
    if "classes" in job["data"]:
        job["data"] |= {"classes": job["data"]["classes"][:2], "num_classes": 2}
    if "optim" in job:
        job["optim"] |= {"batch_size": 2}
        job["schedule"] |= {key: 0 for key in ("warmup_epochs", "warmup_iterations") if key in job["schedule"]}
    short = {"epochs": 1, "iterations": 1, "images": 2, "affinity_images": 2}
    return job | {key: short[key] for key in short if key in job}


@pytest.mark.slow
@pytest.mark.parametrize("mto", ["", "-mto"])
@pytest.mark.parametrize("baseline", BASELINES)
def test_a_step_of_every_method_and_what_follows(
    study: Study, imagenet: Path, tmp_path: Path, baseline: str, mto: str
) -> None:
    """Pre-training, then fine-tuning, a probe and the analysis of what it left."""
    name, last = f"{baseline}-vitb{mto}", study.config.study.pretrain_epochs

    def metrics(task: str, **inputs: Path) -> dict[str, float]:
        job = shortened(study.job(Step(task, name, 0, last)).plain(), imagenet)
        if task == "pretrain":
            job["epoch"] = 1
        return read_json(run(job, tmp_path / task, **inputs) / "metrics.json")["metrics"]

    trained = metrics("pretrain")
    assert math.isfinite(trained["loss"])
    assert ({"loss_spa", "loss_e", "loss_r"} <= trained.keys()) == bool(mto)
    for task in ("finetune", "linear"):
        assert metrics(task, encoder=tmp_path / "pretrain/encoder.safetensors")["top1"] in (0.0, 50.0, 100.0)
    assert metrics("heterogeneity", method=tmp_path / "pretrain/state.pth")["images"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("task", ["ade20k", "coco"])
def test_a_step_of_the_dense_tasks(study: Study, tmp_path: Path, task: str) -> None:
    """The networks at their size, on scenes of 512 pixels with the demo's classes."""
    make = {"ade20k": make_ade20k, "coco": make_coco}[task]
    make(tmp_path / "data", size=512, train=2, val=1)
    job = shortened(study.job(Step(task, "mae-vitb-mto", 0, 200)).plain(), tmp_path / "data")
    job["data"]["num_classes"] = {"ade20k": 11, "coco": 10}[task]
    encoder = save_encoder(tmp_path / "encoder.safetensors", job)
    metrics = read_json(run(job, tmp_path / "out", encoder=encoder) / "metrics.json")["metrics"]
    for metric in {"ade20k": ["mIoU"], "coco": ["box_ap", "mask_ap"]}[task]:
        assert 0 <= metrics[metric] <= 100


def test_the_caption_says_which_list_it_is():
    """Several lists are called ImageNet-100."""
    config = load(FILE, scale="small")
    source = config.datasets.imagenet
    images = Study(config)._size_of_scale()["images"]
    assert images == f"ImageNet-100 ({described(source.classes)})"
    assert "Tian et al.'s list (HobbitLong/CMC) of 100 classes, SHA-256 5ee5db69d488" in images
    other = described(sorted([*source.classes[:-1], "n99999999"]))
    assert other.startswith("a list of one's own of 100 classes, SHA-256 ")
    assert not other.endswith("5ee5db69d488")
