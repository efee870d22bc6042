"""A copy of parquet as tar shards: the same dataset, made once, in pieces that outlive a killed job."""

import json
import shutil

import numpy as np
import pytest

from image_forms import pictures, write
from mto.data import listing
from mto.data.forms import convert as module
from mto.data.forms.convert import convert
from mto.data.forms.recognise import place_of, recognise
from mto.data.imagenet import ImageFolder
from mto.errors import UserError
from mto.tasks import data
from mto.tasks.task import Task
from typed_jobs import typed


@pytest.fixture
def root(tmp_path):
    return write("parquet", pictures(), tmp_path / "parquet")


def test_it_is_the_same_dataset(root, tmp_path):
    convert(root, tmp_path / "copy", workers=2)
    assert recognise(tmp_path / "copy") == "webdataset"
    for split in ("train", "val"):
        expected, found = ImageFolder(root, split, 5), ImageFolder(tmp_path / "copy", split, 5)
        assert found.images.listing.content == expected.images.listing.content
        assert np.array_equal(found.labels, expected.labels)
        assert all(found.images[i].read() == expected.images[i].read() for i in range(len(expected)))


def test_a_killed_job_keeps_its_tars(root, tmp_path, monkeypatch):
    write_one, done = module._write, []

    def killed(part):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(part[1])
        write_one(part)

    monkeypatch.setattr(module, "over_processes", lambda title, work, parts, *_: map(work, parts))
    monkeypatch.setattr(module, "_write", killed)
    with pytest.raises(KeyboardInterrupt):
        convert(root, tmp_path / "copy", 1)
    assert place_of(root, tmp_path / "copy") == root  # it is not whole
    times = {path: path.stat().st_mtime_ns for path in done}
    done.clear()
    convert(root, tmp_path / "copy", 1)
    assert len(done) == 3
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    assert place_of(root, tmp_path / "copy") == tmp_path / "copy"
    convert(root, tmp_path / "copy", 1)
    assert len(done) == 3


def test_a_folder_of_something_else_is_left_alone(root, tmp_path):
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "thesis.tex").touch()
    with pytest.raises(UserError, match=r"copy: not empty.*datasets\.imagenet\.convert"):
        convert(root, tmp_path / "copy", 1)
    assert (tmp_path / "copy" / "thesis.tex").exists()


def test_a_disk_that_is_too_small_is_told_first(root, tmp_path, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 100}))
    with pytest.raises(UserError, match=r"takes some .* GB more.*datasets\.imagenet\.convert"):
        convert(root, tmp_path / "copy", 1)


def test_jobs_read_the_copy_and_the_original_may_go(root, tmp_path, capsys):
    job = {"task": "data", "dataset": "imagenet", "root": str(root), "num_classes": 5, "make": None}
    job["convert"] = str(tmp_path / "copy")
    data.run(typed(job), tmp_path / "out", workers=2)
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["root"] == job["convert"]
    assert manifest["form"] == "webdataset"
    assert f"parquet shards, as Hugging Face has them, at {root}: copied to" in capsys.readouterr().out
    expected = listing.walk(root / "train").content
    shutil.rmtree(root)
    data.run(typed(job), tmp_path / "again")
    assert json.loads((tmp_path / "again/manifest.json").read_text()) == manifest
    task = Task(
        "pretrain", typed({"data": {"num_classes": 5}}), {"data": tmp_path / "out/manifest.json"}, tmp_path / "run"
    )
    task.start()
    folder = ImageFolder.of(task.job, "train")
    assert folder.images.listing.content == expected == manifest["content"]["train"]
    assert folder.path(0).startswith(job["convert"])


def test_what_is_read_in_place_is_not_copied(tmp_path, capsys):
    root = write("webdataset", pictures(), tmp_path / "root")
    job = {"task": "data", "dataset": "imagenet", "root": str(root), "num_classes": 5, "make": None}
    data.run(typed(job | {"convert": str(tmp_path / "copy")}), tmp_path / "out")
    assert "are read where they lie: nothing is converted" in capsys.readouterr().out
    assert not (tmp_path / "copy").exists()
    assert "root" not in json.loads((tmp_path / "out/manifest.json").read_text())
