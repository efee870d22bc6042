"""ADE20K through mmsegmentation: its dataset class on our data, its recipe's rates, one training with evaluation."""

import json
import random

import numpy as np
import pytest
import torch
from dense_jobs import ade20k_job, save_encoder
from PIL import Image

from mto.data.demo import make_ade20k
from mto.data.rng import SeededDataset
from mto.errors import UserError
from mto.openmmlab.libraries import load_mmseg
from mto.tasks import ade20k
from mto.tasks.task import Task
from typed_jobs import typed


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "ade20k"
    make_ade20k(root, size=48, train=4, val=2)
    return root


@pytest.fixture(autouse=True)
def mmseg():
    load_mmseg()


def test_mmsegs_dataset_reads_the_data(root):
    from mto.openmmlab.upernet import build_dataset

    dataset = build_dataset(typed(ade20k_job(root)), "validation")
    assert (type(dataset).__name__, len(dataset), len(dataset.metainfo["classes"])) == ("ADE20KDataset", 2, 11)
    sample = dataset[0]["data_samples"]
    annotation = np.array(Image.open(sample.seg_map_path)).astype(int)
    assert (annotation == 0).any()  # 0 is ignored: 255; the others move down by one
    assert np.array_equal(sample.gt_sem_seg.data[0].numpy(), np.where(annotation == 0, 255, annotation - 1))


def test_a_class_beyond_the_jobs_number_is_ignored(root):
    from mto.openmmlab.upernet import build_dataset

    job = ade20k_job(root)
    job["data"]["num_classes"] = 10  # without the ground
    labels = build_dataset(typed(job), "validation")[0]["data_samples"].gt_sem_seg.data
    assert (labels == 255).float().mean() > 0.5
    assert 10 not in labels


def test_a_sample_is_a_function_of_seed_epoch_and_index(root):
    from mto.openmmlab.upernet import build_dataset

    dataset = SeededDataset(build_dataset(typed(ade20k_job(root)), "training"), 0)
    assert len(dataset) == 4

    def draw(key):
        random.random()  # the global generators are somewhere else at each call
        np.random.rand()  # noqa: NPY002
        return dataset[key]["inputs"]

    assert draw((1, 2)).shape == (3, 32, 32)
    assert torch.equal(draw((1, 2)), draw((1, 2)))
    assert not torch.equal(draw((1, 2)), draw((2, 2)))


def test_no_images_is_one_clear_line(root, tmp_path):
    from mto.openmmlab.upernet import build_dataset

    (tmp_path / "images" / "training").mkdir(parents=True)
    (tmp_path / "annotations" / "training").mkdir(parents=True)
    with pytest.raises(UserError, match=r"no \.jpg image; set datasets\.ade20k\.root"):
        build_dataset(typed(ade20k_job(tmp_path)), "training")


def test_layer_decay_and_weight_decay_are_those_of_beits_segmentation(root):
    """MAEseg: 0.65^(13 - level); position and class token are decayed, heads and pyramid have the full rate."""
    from mto.openmmlab.upernet import build_model
    from mto.training.optim import parameter_groups

    model = build_model(typed(ade20k_job(root)), None)
    groups = parameter_groups(model, weight_decay=0.05, layer_decay=0.65, depth=4, prefix="backbone.")
    found = {name: (group["multiplier"], group["weight_decay"]) for group in groups for name in group["names"]}
    assert found["backbone.pos_embed"] == found["backbone.cls_token"] == (pytest.approx(0.65**5), 0.05)
    assert found["backbone.patch_embed.weight"] == (pytest.approx(0.65**5), 0.05)
    assert found["backbone.blocks.2.bias.table"] == (pytest.approx(0.65**2), 0.05)
    assert found["backbone.blocks.2.gamma_1"] == (pytest.approx(0.65**2), 0.0)
    assert found["backbone.pyramid.0.0.weight"] == found["decode_head.conv_seg.weight"] == (1.0, 0.05)
    assert found["decode_head.conv_seg.bias"] == (1.0, 0.0)


def test_rates_of_the_paper_scale(root):
    from mto.openmmlab.fit import schedule_of

    job = ade20k_job(root) | {"iterations": 160_000}
    job["schedule"] |= {"warmup_iterations": 1500}
    rates = schedule_of(typed(job), 1)
    assert rates.lr(0, 1e-4, 0.65) == pytest.approx(1e-3 * 1e-6 * 0.65)
    falling = 1e-3 * (1 - 750 / 160_000)
    assert rates.lr(750, 1e-3) == pytest.approx(0.5 * falling, rel=1e-5)  # half of mmcv's factor
    assert rates.lr(80_000, 1e-3, 0.5) == pytest.approx(0.25e-3)
    assert rates.lr(160_000, 1e-3) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(("baseline", "precision"), [("mae", "fp32"), ("conmim", "bf16")])
def test_trains_and_evaluates(root, tmp_path, baseline, precision, capfd):
    job = ade20k_job(root, baseline) | {"precision": precision}
    task = Task(
        "ade20k", typed(job), {"encoder": save_encoder(tmp_path / "encoder.safetensors", job)}, tmp_path / "out"
    )
    task.start()
    ade20k.run(task)
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["run"] == f"{baseline}-vitb"
    assert sorted(metrics["metrics"]) == ["aAcc", "mAcc", "mIoU"]
    assert all(0 <= value <= 100 for value in metrics["metrics"].values())
    rows = [json.loads(line) for line in (tmp_path / "out" / "history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 2]
    assert rows[0]["loss"] == pytest.approx(rows[0]["decode.loss_ce"] + rows[0]["aux.loss_ce"], rel=1e-5)
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) == 3  # a line a step and one of validation, nothing of mmseg's
    assert "ETA" in lines[0]
