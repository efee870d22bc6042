"""Few labels: a balanced share of the training images, the same for every run of a seed."""

import numpy as np
import pytest
import torch

from mto.config import load
from mto.cost.amounts import amount, size_of
from mto.data.imagenet import ClassificationDataset
from mto.data.labels import labelled
from mto.data.transforms import eval_transform
from mto.errors import UserError
from mto.names import Step
from mto.report.metrics import Report
from mto.study.study import Study
from typed_jobs import typed

#: Classes of 200, 30 and 4 images, mixed.
LABELS = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [200, 30, 4]))


def test_each_class_keeps_its_share_and_at_least_one_image():
    for share, counts in ((0.1, [20, 3, 1]), (0.01, [2, 1, 1]), (1.0, [200, 30, 4])):
        chosen = labelled(LABELS, share, seed=3)
        assert np.bincount(LABELS[chosen]).tolist() == counts
        assert (np.diff(chosen) > 0).all()


def test_fewer_labels_are_a_part_of_more():
    few, more = (set(labelled(LABELS, share, seed=3).tolist()) for share in (0.1, 0.2))
    assert few < more


def test_the_seed_chooses():
    assert (labelled(LABELS, 0.1, seed=3) == labelled(LABELS, 0.1, seed=3)).all()
    assert set(labelled(LABELS, 0.1, seed=3)) != set(labelled(LABELS, 0.1, seed=4))


def test_a_dataset_of_few_labels_has_those_images_alone(finetune_job):
    whole = ClassificationDataset(typed(finetune_job), "train", eval_transform(typed(finetune_job)))
    job = {**finetune_job, "data": {**finetune_job["data"], "labels": 0.5}}
    few = ClassificationDataset(typed(job), "train", eval_transform(typed(job)))
    places = labelled(whole.images.labels, 0.5, job["seed"])
    assert len(few) == len(places) < len(whole)
    for index, place in enumerate(places.tolist()):
        assert torch.equal(few[0, index]["image"], whole[0, place]["image"])
        assert few[0, index]["label"] == whole[0, place]["label"]
    assert len(ClassificationDataset(typed(job), "val", eval_transform(typed(job)))) == len(
        ClassificationDataset(typed(finetune_job), "val", eval_transform(typed(finetune_job)))
    )


def test_every_stage_that_reads_labels_is_told_and_no_other():
    few = {"baselines": {"mae": {"finetune": {"labels": 0.1}, "linear": {"labels": 0.2}}}}
    study, plain = (Study(load(over, scale="demo")) for over in (few, {}))
    for task, share in (("finetune", 0.1), ("linear", 0.2), ("knn", 0.2), ("pretrain", None), ("ade20k", None)):
        step = Step(task, "mae-vitb", 0, 8)
        assert study.job(step).plain()["data"].get("labels") == share
    assert study.job(Step("pretrain", "mae-vitb", 0, 8)) == plain.job(Step("pretrain", "mae-vitb", 0, 8))
    assert "labels" not in Study(load({}, scale="paper")).job(Step("finetune", "mae-vitb", 0, 800)).plain()["data"]


def test_captions_say_how_many_labels_were_used(tmp_path):
    few = {"baselines": {"mae": {"finetune": {"labels": 0.1}}}}
    study = Study(load(few, scale="demo"))
    line = Report(study.report_job("table1_rauc"), tmp_path).scale_line
    assert "fine-tuned on 10 to 100 % of the labels; not comparable" in line


def test_the_plan_counts_the_images_with_labels():
    study = Study(load({"baselines": {"mae": {"finetune": {"labels": 0.1}}}}, scale="paper"))
    job = study.job(Step("finetune", "mae-vitb", 0, 800))
    steps = 128_117 // job.optim.batch_size * job.epochs
    assert amount(job, 0, size_of(study.config, "finetune")).steps == steps


def test_labels_that_fill_no_batch_are_refused_before_anything_is_trained():
    with pytest.raises(UserError, match=r"finetune\.labels 0\.01: leaves 10 of 800 training images"):
        load({"baselines": {"mae": {"finetune": {"labels": 0.01}}}}, scale="demo")
