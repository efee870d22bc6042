"""The listing of an image folder: what a walk finds, as long as nothing was changed."""

import json
import shutil
import time

import numpy as np
import pytest

from mto.data import layout, listing
from mto.data.imagenet import ImageFolder
from mto.tasks import data
from mto.tasks.task import Task
from mto.training.resume import describe_run
from typed_jobs import typed


@pytest.fixture
def root(digits, tmp_path):
    return shutil.copytree(digits, tmp_path / "digits")


def same(a: listing.Listing, b: listing.Listing) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_it_holds_what_a_walk_finds(root, tmp_path):
    listing.save(tmp_path / "listing.npz", root, ("train", "val"))
    for split, count in (("train", 60), ("val", 20)):
        found = listing.load(tmp_path / "listing.npz", root / split)
        assert same(found, listing.walk(root / split))
        assert found.counts.sum() == len(found.names) == count
        walked, read = ImageFolder(root, split, 10), ImageFolder(root, split, 10, tmp_path / "listing.npz")
        assert [walked.path(i) for i in range(count)] == [read.path(i) for i in range(count)]
        assert np.array_equal(walked.labels, read.labels)


def test_names_of_any_bytes_survive(root, tmp_path):
    (root / "train" / "digit3" / "\udcff\u00e9 x.png").write_bytes(b"")
    listing.save(tmp_path / "listing.npz", root, ["train"])
    assert same(listing.load(tmp_path / "listing.npz", root / "train"), listing.walk(root / "train"))


def added(root):
    (root / "train" / "digit3" / "new.png").touch()


def removed(root):
    next((root / "train" / "digit3").iterdir()).unlink()


def renamed(root):
    (root / "train" / "digit3").rename(root / "train" / "three")


def another_class(root):
    (root / "train" / "more").mkdir()


@pytest.mark.parametrize("change", [added, removed, renamed, another_class])
def test_a_folder_that_was_changed_is_listed_anew(root, tmp_path, change):
    listing.save(tmp_path / "listing.npz", root, ("train", "val"))
    time.sleep(0.01)  # a file system's clock may stand still for some milliseconds
    change(root)
    assert listing.load(tmp_path / "listing.npz", root / "train") is None
    assert listing.load(tmp_path / "listing.npz", root / "val") is not None
    classes = 11 if change is another_class else 10
    assert len(ImageFolder(root, "train", classes, tmp_path / "listing.npz")) == len(listing.walk(root / "train").names)


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9, 0.999])
def test_a_damaged_listing_is_none(root, tmp_path, keep):
    path = tmp_path / "listing.npz"
    listing.save(path, root, ["train"])
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    assert listing.load(path, root / "train") is None
    assert len(ImageFolder(root, "train", 10, path)) == 60


def test_the_job_of_imagenet_makes_it_before_the_manifest(root, tmp_path, monkeypatch):
    monkeypatch.setitem(layout.EXPECTED, "imagenet", {"train": 10, "val": 10})
    job = {"dataset": "imagenet", "root": str(root), "num_classes": 10, "make": None}
    out = tmp_path / "out"
    data.run(typed(job), out)
    assert same(listing.load(out / listing.NAME, root / "train"), listing.walk(root / "train"))
    assert (out / "manifest.json").exists()
    monkeypatch.setattr(listing, "save", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        data.run(typed(job), tmp_path / "again")
    assert not (tmp_path / "again" / "manifest.json").exists()


def test_a_jobs_task_finds_it_by_the_manifest_and_a_state_does_not_mind(root, tmp_path, pretrain_job):
    """Where the listing lies is no part of what a run is."""
    made = typed({"dataset": "imagenet", "root": str(root)}).plain()
    (tmp_path / "manifest.json").write_text(json.dumps({"job": made}))
    task = Task("pretrain", typed(pretrain_job), {"data": tmp_path / "manifest.json"}, tmp_path / "out")
    task.start()
    assert task.job.data.listing == str(tmp_path / listing.NAME)
    assert len(ImageFolder.of(task.job, "train")) == 60  # there is none: the folder is listed
    sizes = {"dataset_size": 60, "batch_size": 4, "steps_per_epoch": 15, "total_steps": 15}
    assert describe_run(task.job.plain(), **sizes) == describe_run(typed(pretrain_job).plain(), **sizes)
