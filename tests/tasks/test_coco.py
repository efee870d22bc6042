"""COCO through mmdetection: its dataset class on our data, its recipe's decay, one training with evaluation."""

import json
import random

import numpy as np
import pytest
import torch
from dense_jobs import coco_job, save_encoder

from mto.data.demo import make_coco
from mto.data.rng import SeededDataset
from mto.errors import UserError
from mto.openmmlab.libraries import load_mmdet
from mto.tasks import coco
from mto.tasks.io import Task


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "coco"
    make_coco(root, size=48, train=4, val=2)
    return root


@pytest.fixture(autouse=True)
def mmdet():
    load_mmdet()


def test_mmdets_dataset_reads_the_data(root):
    from mto.openmmlab.maskrcnn import build_dataset

    truth = json.loads((root / "annotations" / "instances_train2017.json").read_text())
    dataset = build_dataset(coco_job(root), "train2017")
    assert (type(dataset).__name__, len(dataset)) == ("CocoDataset", 4)
    assert dataset.metainfo["classes"] == tuple(f"digit {d}" for d in range(10))
    instances = [instance for i in range(4) for instance in dataset.get_data_info(i)["instances"]]
    assert len(instances) == len(truth["annotations"])
    x, y, w, h = truth["annotations"][0]["bbox"]
    assert instances[0]["bbox"] == [x, y, x + w, y + h]
    assert instances[0]["bbox_label"] == truth["annotations"][0]["category_id"] - 1


def test_boxes_follow_the_masks_through_the_pipeline(root):
    from mto.openmmlab.maskrcnn import build_dataset

    dataset = SeededDataset(build_dataset(coco_job(root), "train2017"), 0)
    for index in range(4):
        sample = dataset[3, index]
        instances, shape = sample["data_samples"].gt_instances, sample["inputs"].shape
        assert max(shape[1:]) <= 48
        masks = instances.masks.masks.astype(bool)
        assert masks.shape == (len(instances.labels), *shape[1:])
        for box, mask in zip(instances.bboxes.tensor.tolist(), masks, strict=True):
            ys, xs = np.nonzero(mask)
            assert box == pytest.approx([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], abs=1.5)


def test_a_sample_is_a_function_of_seed_epoch_and_index(root):
    from mto.openmmlab.maskrcnn import build_dataset

    dataset = SeededDataset(build_dataset(coco_job(root), "train2017"), 0)

    def draw(key):
        random.random()  # the global generators are somewhere else at each call
        np.random.rand()  # noqa: NPY002
        return dataset[key]["inputs"]

    assert torch.equal(draw((1, 2)), draw((1, 2)))
    assert any(draw((e, 2)).shape != draw((1, 2)).shape for e in range(2, 6))


def test_another_number_of_classes_is_one_clear_line(root):
    from mto.openmmlab.maskrcnn import build_dataset

    job = coco_job(root)
    job["data"]["num_classes"] = 80
    with pytest.raises(UserError, match=r"10 categories, but datasets\.coco\.num_classes is 80"):
        build_dataset(job, "train2017")


def test_weight_decay_spares_positions_and_relative_tables(root):
    from mto.openmmlab.maskrcnn import build_model
    from mto.training.optim import parameter_groups

    model = build_model(coco_job(root, "mae"), None)
    groups = parameter_groups(model, weight_decay=0.1, no_decay=coco.NO_DECAY, prefix="backbone.")
    found = {name: group["weight_decay"] for group in groups for name in group["names"]}
    assert found["backbone.pos_embed"] == 0
    assert found["backbone.biases.window.table"] == found["backbone.biases.global.table"] == 0
    assert found["backbone.blocks.0.norm1.weight"] == 0
    assert found["backbone.blocks.0.attn.qkv.weight"] == found["rpn_head.rpn_cls.weight"] == 0.1


def test_images_become_squares_of_the_image_size(root):
    from mto.openmmlab.maskrcnn import build_dataset, build_model

    model = build_model(coco_job(root), None)
    sample = build_dataset(coco_job(root), "val2017")[0]
    sample = {"inputs": [sample["inputs"][:, :30]], "data_samples": [sample["data_samples"]]}
    images = model.data_preprocessor(sample, training=False)["inputs"]
    assert images.shape == (1, 3, 48, 48)
    assert (images[:, :, 30:] == 0).all()


def test_boxes_keep_their_precision_under_bfloat16(root):
    """A box at 1001.5 would move to 1000 if it were cast to the features' type."""
    from mto.openmmlab.maskrcnn import build_model

    extractor = build_model(coco_job(root), None).roi_head.bbox_roi_extractor
    ramp = torch.arange(2048.0).expand(1, 8, 16, 2048).to(torch.bfloat16)  # stride 1
    levels = (ramp, *(torch.zeros(1, 8, 8, 8, dtype=torch.bfloat16) for _ in range(3)))
    left, right = (extractor(levels, torch.tensor([[0, x, 4.0, x + 7, 11.0]])) for x in (1000.0, 1001.5))
    assert left.dtype == torch.float32
    assert (right - left).mean() == pytest.approx(1.5, abs=1.0)
    assert (right - left).abs().max() > 0


@pytest.mark.parametrize(("baseline", "precision"), [("bootmae", "fp32"), ("conmim", "bf16")])
def test_trains_and_evaluates(root, tmp_path, baseline, precision, capfd):
    job = coco_job(root, baseline) | {"precision": precision}
    task = Task("coco", job, {"encoder": save_encoder(tmp_path / "encoder.safetensors", job)}, tmp_path / "out")
    task.start()
    coco.run(task)
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())["metrics"]
    assert sorted(metrics) == ["box_ap", "box_ap50", "mask_ap", "mask_ap50"]
    assert all(0 <= value <= 100 for value in metrics.values())
    rows = [json.loads(line) for line in (tmp_path / "out" / "history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 2]
    assert {"loss_rpn_cls", "loss_rpn_bbox", "loss_cls", "loss_bbox", "loss_mask"} <= set(rows[0])
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) == 3  # a line a step and one of validation, nothing of pycocotools'
    assert "ETA" in lines[0]
