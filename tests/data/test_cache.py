"""A cache of training images: small ones to the last bit, large ones shrunk, and never another dataset's."""

import os
import shutil
import time

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate

from mto.config.parts import Cache as CacheSettings
from mto.data import cache, listing
from mto.data.bad_files import VARIABLE
from mto.data.cache import Cache, build
from mto.data.imagenet import ImageFolder, PretrainDataset
from mto.errors import UserError
from mto.tasks import data
from mto.tasks.task import Task
from mto.training.hardware import Hardware
from mto.training.resume import describe_run
from typed_jobs import typed

SIZES = [(40, 30), (30, 40), (20, 90), (16, 16), (15, 60), (17, 33), (64, 64)]  # width, height


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch):
    monkeypatch.setattr(cache, "SHARD", 3)


@pytest.fixture
def root(tmp_path):
    """Seven photographs in two classes, of which some are no larger than 16 pixels at their shorter side."""
    random = np.random.default_rng(0)
    for index, (width, height) in enumerate(SIZES):
        folder = tmp_path / "images" / "train" / f"class{index % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(random.integers(0, 255, (5, 5, 3), dtype=np.uint8))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(folder / f"{index}.png")
    return tmp_path / "images"


def made(root, folder, workers=1, side=16):
    build(folder, side, root / "train", listing.walk(root / "train"), workers)
    return Cache(folder, root / "train", listing.walk(root / "train"))


def test_images_that_are_small_enough_keep_every_bit(root, tmp_path):
    found, files = made(root, tmp_path / "cache", side=90), ImageFolder(root, "train", 2)
    assert all(np.array_equal(found[i], files.image(i)) for i in range(len(SIZES)))


@pytest.mark.parametrize("workers", [1, 2])
def test_larger_images_are_shrunk_to_the_shorter_side(root, tmp_path, workers):
    found, files = made(root, tmp_path / "cache", workers), ImageFolder(root, "train", 2)
    for index in range(len(SIZES)):
        whole = files.image(index)
        height, width = whole.shape[:2]
        shape = found[index].shape
        assert min(shape[:2]) == min(16, height, width)
        assert shape[0] * width == pytest.approx(shape[1] * height, rel=0.04)  # the same aspect, to a pixel
        planes = torch.from_numpy(whole).permute(2, 0, 1)[None]
        expected = interpolate(planes, shape[:2], mode="bicubic", antialias=True) if height > 16 < width else planes
        assert (torch.from_numpy(found[index]).permute(2, 0, 1).int() - expected[0].int()).abs().max() <= 1


def test_a_folder_of_images_reads_it_with_the_same_labels(root, tmp_path):
    found = made(root, tmp_path / "cache")
    cached, files = ImageFolder(root, "train", 2, cache=tmp_path / "cache"), ImageFolder(root, "train", 2)
    for index in range(len(SIZES)):
        image, label = cached.sample(index)
        assert np.array_equal(image, found[index])
        assert label == files.sample(index)[1]


def test_a_killed_job_keeps_its_shards(root, tmp_path, monkeypatch):
    write, done = cache._write, []

    def killed(part, **options):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(part[0])
        write(part, **options)

    # In this process: a killed worker would end the test.
    monkeypatch.setattr(cache, "over_processes", lambda title, work, parts, *_: map(work, parts))
    monkeypatch.setattr(cache, "_write", killed)
    with pytest.raises(KeyboardInterrupt):
        made(root, tmp_path / "cache")
    with pytest.raises(UserError, match="no whole cache"):
        Cache(tmp_path / "cache", root / "train", listing.walk(root / "train"))
    first = {path: path.stat().st_mtime_ns for path in done}
    done.clear()
    found = made(root, tmp_path / "cache")
    assert len(done) == 1
    assert all(path.stat().st_mtime_ns == time for path, time in first.items())
    monkeypatch.setattr(cache, "_write", write)
    whole = made(root, tmp_path / "other")
    assert all(np.array_equal(found[i], whole[i]) for i in range(len(SIZES)))


def test_another_side_or_other_images_start_afresh(root, tmp_path):
    made(root, tmp_path / "cache")
    assert min(made(root, tmp_path / "cache", side=20)[3].shape[:2]) == 20
    time.sleep(0.01)
    (root / "train/class0/0.png").unlink()
    with pytest.raises(UserError, match=r"made of 7 images, but there are 6 now; remove this cache"):
        Cache(tmp_path / "cache", root / "train", listing.walk(root / "train"))
    found, files = made(root, tmp_path / "cache", side=90), ImageFolder(root, "train", 2)
    assert all(np.array_equal(found[i], files.image(i)) for i in range(len(files)))


def test_a_copy_of_the_images_is_the_same(root, tmp_path):
    """A move to another disk changes every time of change. Other content is told, and how."""
    made(root, tmp_path / "cache")
    copy = tmp_path / "copy"
    shutil.copytree(root, copy, copy_function=shutil.copyfile)
    for path in (copy, *copy.rglob("*")):
        os.utime(path, (1, 1))
    found = Cache(tmp_path / "cache", copy / "train", listing.walk(copy / "train"))
    assert np.array_equal(found[2], Cache(tmp_path / "cache", root / "train", listing.walk(root / "train"))[2])
    record = (tmp_path / "cache" / "cache.json").stat().st_mtime_ns
    made(copy, tmp_path / "cache")
    assert (tmp_path / "cache" / "cache.json").stat().st_mtime_ns == record  # it was not made anew
    (copy / "train/class0/0.png").write_bytes(b"another image of the same name")
    with pytest.raises(UserError, match="made of images of the same names, but of other sizes"):
        Cache(tmp_path / "cache", copy / "train", listing.walk(copy / "train"))
    (copy / "train/class0/0.png").rename(copy / "train/class0/a.png")
    with pytest.raises(UserError, match="made of images of other names"):
        Cache(tmp_path / "cache", copy / "train", listing.walk(copy / "train"))


@pytest.mark.parametrize("harm", ["cut", "gone"])
def test_damage_is_one_line(root, tmp_path, harm):
    found = made(root, tmp_path / "cache")
    shard = tmp_path / "cache" / "00000000.bin"
    if harm == "cut":
        shard.write_bytes(shard.read_bytes()[:-1])
    else:
        shard.unlink()
    with pytest.raises(UserError, match=r"00000000\.bin: .*; remove this cache"):
        [found[i] for i in range(3)]


def test_an_unreadable_image_stops_the_job_or_is_passed_over(root, tmp_path, monkeypatch):
    (root / "train/class0/2.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"2\.png"):
        made(root, tmp_path / "cache")
    monkeypatch.setenv(VARIABLE, '{"imagenet": 1}')
    made(root, tmp_path / "cache")
    images = ImageFolder(root, "train", 2, cache=tmp_path / "cache")
    at = next(i for i in range(len(SIZES)) if images.path(i).endswith("2.png"))
    images.policy.record = tmp_path / "record"
    try:
        assert np.array_equal(images.image(at), images.image(at + 1))
        assert images.policy.passed() == [images.path(at)]
    finally:
        images.policy.record = None


def test_a_disk_that_is_too_small_is_told_before_anything_is_decoded(root, tmp_path, monkeypatch):
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 100}))
    with pytest.raises(UserError, match=r"7 images takes some .*imagenet\.cache\.folder"):
        made(root, tmp_path / "cache")


def test_scales_that_name_one_folder_keep_apart(tmp_path):
    """Their images differ, and a cache of other images is replaced."""
    asked = CacheSettings(side=24, folder=str(tmp_path))
    small, paper = (cache.folder_of(scale, asked, tmp_path / "beside") for scale in ("small", "paper"))
    assert small != paper


def test_jobs_find_it_by_the_dataset_s_manifest(digits, tmp_path, pretrain_job):
    """Where it lies is no part of a run: it may be moved between two segments."""
    job = {"task": "data", "dataset": "imagenet", "root": str(digits), "num_classes": 10, "make": None, "scale": "x"}
    pretrain_job["data"]["classes"] = job["classes"] = [f"digit{n}" for n in range(10)]
    job["cache"] = {"side": 24, "folder": str(tmp_path / "elsewhere")}
    out = tmp_path / "data"
    data.check(typed(job), out)
    pretrain_job["data"].pop("root")
    pretrain_job = {"task": "pretrain", "run": "mae-vitb", "epoch": 1, "scale": "x"} | pretrain_job
    pretrain_job["data"]["cache"] = 24
    task = Task(
        "pretrain", typed(pretrain_job), {"data": out / "manifest.json"}, tmp_path / "run", Hardware(), time.time()
    )
    task.start()
    train, val = PretrainDataset(task.job), PretrainDataset(task.job, "val")
    assert train.images.cache.folder == tmp_path / "elsewhere" / "x" / "cache-24"
    assert val.images.cache is None
    plain = PretrainDataset(
        typed(pretrain_job | {"data": {**pretrain_job["data"], "root": str(digits), "cache": None}})
    )
    assert all(torch.equal(train[1, i]["image"], plain[1, i]["image"]) for i in range(60))
    with pytest.raises(UserError, match="its dataset has no cache"):
        PretrainDataset(typed(pretrain_job | {"data": {**pretrain_job["data"], "root": str(digits)}}))
    sizes = {"dataset_size": 60, "batch_size": 4, "steps_per_epoch": 15, "total_steps": 15}
    assert describe_run(task.job.plain(), **sizes) == describe_run(typed(pretrain_job).plain(), **sizes)
