"""COCO through mmdetection: its dataset class on our data, its recipe's decay, one training with evaluation."""

import json
import random

import numpy as np
import pytest
import torch
from dense_jobs import coco_job, save_encoder
from mmengine.dataset import Compose
from PIL import Image

from mto.data.demo import make_coco
from mto.data.rng import SeededDataset
from mto.errors import UserError
from mto.openmmlab.libraries import load_mmdet
from mto.tasks import coco
from mto.tasks.task import Task
from typed_jobs import typed


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "coco"
    make_coco(root, size=48, train=4, val=2)
    return root


@pytest.fixture(autouse=True)
def mmdet():
    load_mmdet()


def test_mmdets_dataset_reads_the_data(root):
    from mmdet.datasets import CocoDataset

    from mto.openmmlab.maskrcnn import build_dataset

    truth = json.loads((root / "annotations" / "instances_train2017.json").read_text())
    dataset = build_dataset(typed(coco_job(root)), "train2017")
    assert (isinstance(dataset, CocoDataset), len(dataset)) == (True, 4)
    assert dataset.metainfo["classes"] == tuple(f"digit {d}" for d in range(10))
    instances = [instance for i in range(4) for instance in dataset.get_data_info(i)["instances"]]
    assert len(instances) == len(truth["annotations"])
    x, y, w, h = truth["annotations"][0]["bbox"]
    assert instances[0]["bbox"] == [x, y, x + w, y + h]
    assert instances[0]["bbox_label"] == truth["annotations"][0]["category_id"] - 1


def test_boxes_follow_the_masks_through_the_pipeline(root):
    from mto.openmmlab.maskrcnn import build_dataset

    dataset = SeededDataset(build_dataset(typed(coco_job(root)), "train2017"), 0)
    for index in range(4):
        sample = dataset[3, index]
        instances = sample["data_samples"].gt_instances
        assert sample["inputs"].shape == (3, 48, 48)
        assert len(instances.masks) == len(instances.labels)
        for box, polygons in zip(instances.bboxes.tensor.tolist(), instances.masks.masks, strict=True):
            points = np.concatenate(polygons).reshape(-1, 2)
            assert box == pytest.approx([*points.min(0), *points.max(0)], abs=1e-3)


def test_images_are_padded_before_they_are_flipped(root):
    """detectron2's order: the grey of an image that was made smaller lies on either side."""
    from mto.openmmlab.maskrcnn import build_dataset

    job = coco_job(root) | {"resize_ratio": [0.5, 0.5]}
    dataset = SeededDataset(build_dataset(typed(job), "train2017"), 0)
    sides = set()
    for epoch in range(12):
        image = dataset[epoch, 0]["inputs"]
        assert (image[:, 24:] == 128).all()
        sides.add(bool((image[:, :24, 24:] == 128).all()))
        assert (image[:, :24, 24:] == 128).all() != (image[:, :24, :24] == 128).all()
    assert sides == {True, False}


def test_pixels_are_averaged_when_an_image_shrinks(root, tmp_path):
    """A checkerboard of single pixels becomes grey, and no other checkerboard."""
    from mto.openmmlab.maskrcnn import _test_pipeline

    board = 255 * (np.indices((96, 96)).sum(0) % 2).astype(np.uint8)
    Image.fromarray(np.stack([board] * 3, -1)).save(tmp_path / "board.png")
    sample = Compose(_test_pipeline(typed(coco_job(root))))({"img_path": str(tmp_path / "board.png"), "img_id": 1})
    assert sample["inputs"].shape == (3, 48, 48)
    assert sample["inputs"][:, 1:-1, 1:-1].float().sub(127.5).abs().max() < 1  # a border has fewer pixels to average


def test_a_small_box_has_a_positive_anchor(root):
    """A box of 3 pixels overlaps no anchor, of 8 at patch 4, by the 0.3 that mmdet's usual settings ask for."""
    from mmengine.structures import InstanceData

    from mto.openmmlab.maskrcnn import build_model

    head = build_model(typed(coco_job(root)), None).rpn_head
    anchors = torch.cat(head.prior_generator.grid_priors([(48, 48), (24, 24), (12, 12), (6, 6), (3, 3)], device="cpu"))
    box = torch.tensor([[20.0, 20.0, 23.0, 23.0]])
    truth = InstanceData(bboxes=box, labels=torch.zeros(1, dtype=torch.long))
    assigned = head.assigner.assign(InstanceData(priors=anchors), truth)
    assert (assigned.gt_inds == 1).any()
    assert assigned.max_overlaps[assigned.gt_inds == 1].max() < 0.3


def test_heads_begin_as_detectron2s(root):
    from mto.openmmlab.maskrcnn import build_model

    model = build_model(typed(coco_job(root)), None)
    model.init_weights()
    mask_head, box_head = model.roi_head.mask_head, model.roi_head.bbox_head
    assert all(isinstance(conv.bn, torch.nn.BatchNorm2d) for conv in (*mask_head.convs, *box_head.shared_convs))
    assert 5e-4 < mask_head.conv_logits.weight.std() < 2e-3
    layer = box_head.shared_fcs[0]
    bound = (3 / layer.in_features) ** 0.5
    assert 0.97 * bound < layer.weight.abs().max() <= bound
    assert model.backbone.pyramid[1][0].bias.abs().max() == 0


def test_a_sample_is_a_function_of_seed_epoch_and_index(root):
    from mto.openmmlab.maskrcnn import build_dataset

    dataset = SeededDataset(build_dataset(typed(coco_job(root)), "train2017"), 0)

    def draw(key):
        random.random()  # the global generators are somewhere else at each call
        np.random.rand()  # noqa: NPY002
        return dataset[key]["inputs"]

    assert torch.equal(draw((1, 2)), draw((1, 2)))
    assert not torch.equal(draw((1, 2)), draw((2, 2)))


def test_another_number_of_classes_is_one_clear_line(root):
    from mto.openmmlab.maskrcnn import build_dataset

    job = coco_job(root)
    job["data"]["num_classes"] = 80
    with pytest.raises(UserError, match=r"10 categories, but datasets\.coco\.num_classes is 80"):
        build_dataset(typed(job), "train2017")


def test_weight_decay_spares_positions_and_relative_tables(root):
    from mto.openmmlab.maskrcnn import build_model
    from mto.training.optim import parameter_groups

    model = build_model(typed(coco_job(root, "mae")), None)
    groups = parameter_groups(model, weight_decay=0.1, prefix="backbone.", **coco.DECAY)
    found = {name: group["weight_decay"] for group in groups for name in group["names"]}
    assert found["backbone.pos_embed"] == 0
    assert found["backbone.biases.window.table"] == found["backbone.biases.global.table"] == 0
    assert found["backbone.blocks.0.norm1.weight"] == found["neck.lateral_convs.0.bn.bias"] == 0
    assert found["backbone.blocks.0.attn.qkv.bias"] == found["rpn_head.rpn_cls.bias"] == 0.1
    assert found["backbone.blocks.0.attn.qkv.weight"] == found["rpn_head.rpn_cls.weight"] == 0.1


def test_test_images_become_squares_but_boxes_stay_in_the_image(root, tmp_path):
    from mto.openmmlab.maskrcnn import _test_pipeline

    Image.new("RGB", (96, 60)).save(tmp_path / "black.png")
    sample = Compose(_test_pipeline(typed(coco_job(root))))({"img_path": str(tmp_path / "black.png"), "img_id": 1})
    assert sample["inputs"].shape == (3, 48, 48)
    assert (sample["inputs"][:, 30:] == 128).all()
    assert (sample["inputs"][:, :30] == 0).all()
    assert sample["data_samples"].img_shape == (30, 48)


def test_boxes_keep_their_precision_under_bfloat16(root):
    """A box at 1001.5 would move to 1000 if it were cast to the features' type."""
    from mto.openmmlab.maskrcnn import build_model

    extractor = build_model(typed(coco_job(root)), None).roi_head.bbox_roi_extractor
    ramp = torch.arange(2048.0).expand(1, 8, 16, 2048).to(torch.bfloat16)  # stride 1
    levels = (ramp, *(torch.zeros(1, 8, 8, 8, dtype=torch.bfloat16) for _ in range(3)))
    left, right = (extractor(levels, torch.tensor([[0, x, 4.0, x + 7, 11.0]])) for x in (1000.0, 1001.5))
    assert left.dtype == torch.float32
    assert (right - left).mean() == pytest.approx(1.5, abs=1.0)
    assert (right - left).abs().max() > 0


@pytest.mark.parametrize(("baseline", "precision"), [("bootmae", "fp32"), ("conmim", "bf16")])
def test_trains_and_evaluates(root, tmp_path, baseline, precision, capfd):
    job = coco_job(root, baseline) | {"precision": precision}
    task = Task("coco", typed(job), {"encoder": save_encoder(tmp_path / "encoder.safetensors", job)}, tmp_path / "out")
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
