"""Damaged datasets: each row is found before anything trains, with the file's name; what is met later is one line.

A row's number is that of the list of bad inputs that people were found to give.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mto.__main__ import main
from mto.data import bad_files, images, layout, verify
from mto.data.demo import make_ade20k, make_coco, make_imagenet
from mto.data.imagenet import ImageFolder
from mto.errors import UserError
from mto.tasks import data
from mto.tasks.dense import percentages
from tasks.dense_jobs import ade20k_job, coco_job, save_encoder
from tasks.tiny import linear_job, make_images, pretrain_job, run
from typed_jobs import typed

CLASSES = {"imagenet": 10, "ade20k": 11, "coco": 10}


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three datasets in small, ImageNet's as JPEG."""
    root = tmp_path_factory.mktemp("sound")
    make_imagenet(root / "imagenet", size=24, train=20, val=10)
    for file in sorted((root / "imagenet").rglob("*.png")):
        Image.open(file).save(file.with_suffix(".JPEG"))
        file.unlink()
    make_ade20k(root / "ade20k", size=48, train=4, val=2)
    make_coco(root / "coco", size=48, train=4, val=2)
    return root


@pytest.fixture
def copied(sound: Path, tmp_path: Path) -> Path:
    shutil.copytree(sound, tmp_path / "data")
    return tmp_path / "data"


def first(root: Path, pattern: str) -> Path:
    return min(root.glob(pattern))


def cut(pattern: str, keep: float) -> Callable[[Path], Path]:
    def damage(root: Path) -> Path:
        file = first(root, pattern)
        content = file.read_bytes()
        file.write_bytes(content[: int(len(content) * keep)])
        return file

    return damage


def saved(pattern: str, make: Callable[[Image.Image], Image.Image]) -> Callable[[Path], Path]:
    def damage(root: Path) -> Path:
        file = first(root, pattern)
        with Image.open(file) as image:
            image.load()
        make(image).save(file)
        return file

    return damage


def every(pattern: str, make: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], Path]:
    def damage(root: Path) -> Path:
        for file in root.glob(pattern):
            Image.fromarray(make(np.asarray(Image.open(file)))).save(file)
        return first(root, pattern).parent

    return damage


def edited(split: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Path]:
    def damage(root: Path) -> Path:
        file = root / "annotations" / f"instances_{split}.json"
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))
        return file

    return damage


def written(pattern: str, content: bytes) -> Callable[[Path], Path]:
    def damage(root: Path) -> Path:
        file = first(root, pattern)
        file.write_bytes(content)
        return file

    return damage


def large(root: Path) -> Path:
    """A file whose head promises more pixels than Pillow unfolds: 20,000 x 20,000 of one grey."""
    file = first(root, "val/*/*.JPEG")
    Image.new("1", (20000, 20000)).save(file, "PNG")
    return file


T, V = "training", "validation"
DATA: list[tuple[str, str, Callable[[Path], Path], str]] = [
    ("5", "coco", edited("val2017", lambda c: c["annotations"].clear()), "no annotation: nothing could be"),
    ("6", "ade20k", every(f"annotations/{V}/*.png", np.zeros_like), "no annotation has a class"),
    ("6", "ade20k", every(f"annotations/{V}/*.png", lambda x: x + 100), "value 1"),
    ("7", "ade20k", saved(f"annotations/{V}/*.png", lambda i: i.resize((32, 48))), "is 32×48 pixels, not 48×48"),
    ("10", "imagenet", cut("train/*/*.JPEG", 0.9), "truncated"),
    ("10", "imagenet", cut("train/*/*.JPEG", 0.0), "no image format"),
    ("10", "imagenet", written("val/*/*.JPEG", b"<html>404</html>"), "no image format"),
    ("11", "imagenet", large, "exceeds limit"),
    ("16", "coco", written("annotations/instances_train2017.json", b'{"images": [{'), "not COCO's instances as JSON"),
    ("16", "coco", edited("train2017", lambda c: c.pop("images")), "not COCO's instances as JSON (KeyError: 'images')"),
    ("16", "coco", edited("val2017", lambda c: c["categories"].pop()), "9 categories, but datasets.coco"),
    ("16", "coco", edited("val2017", lambda c: c["categories"][0].update(name="one")), "have different categories"),
    ("16", "coco", edited("train2017", lambda c: c["images"][0].update(file_name="x.jpg")), "no file x.jpg"),
    ("16", "coco", edited("train2017", lambda c: c["images"][0].update(width=50)), "48×48 pixels, not 50×48"),
    ("16", "coco", edited("train2017", lambda c: c["annotations"][0].update(image_id=99)), "no image 99"),
    ("16", "coco", edited("train2017", lambda c: c["annotations"][0].update(category_id=99)), "no category 99"),
    ("16", "coco", edited("train2017", lambda c: c["annotations"][0].update(segmentation=[])), "no segmentation"),
    ("16", "coco", edited("train2017", lambda c: c["annotations"][0].update(bbox=[0, 0, -1, 5])), "is no x, y, width"),
    ("16", "coco", written("train2017/*.jpg", b""), "no image format"),
    ("17", "coco", cut("val2017/*.jpg", 0.7), "truncated"),
    ("18", "ade20k", cut(f"images/{T}/*.jpg", 0.7), "truncated"),
    ("18", "ade20k", cut(f"annotations/{T}/*.png", 0.7), "not readable as an image"),
    ("18", "ade20k", saved(f"annotations/{T}/*.png", lambda i: i.convert("RGB")), "this has mode RGB"),
    ("18", "ade20k", saved(f"annotations/{T}/*.png", lambda i: i.point(lambda v: 200)), "value 200 is above"),
]


@pytest.mark.parametrize(("row", "name", "damage", "expected"), DATA, ids=[f"{r[0]}-{r[1]}-{r[3][:25]}" for r in DATA])
@pytest.mark.parametrize("level", ["fast", "full"])
def test_damage_is_found_and_named(copied, row, name, damage, expected, level) -> None:
    root = copied / name
    assert verify.verify(name, root, CLASSES[name], level) == []
    file = damage(root)
    faults = verify.verify(name, root, CLASSES[name], level)
    with pytest.raises(UserError) as caught:
        verify.report(name, root, faults, spared=0)
    *lines, last = str(caught.value).splitlines()
    (line,) = [line for line in lines if expected in line][:1]
    assert line.startswith(f"{root}/")
    assert line.startswith(f"{file}") or "/annotations" in f"{file}"  # an image's size is told of the image
    assert last.startswith(f"datasets.{name}: {len(faults)} fault")


def test_only_a_full_look_reads_the_middle_of_an_image(copied: Path) -> None:
    file = first(copied / "imagenet", "train/*/*.JPEG")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype="uint8")).save(file, "PNG")
    content = bytearray(file.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 40] = bytes(40)
    file.write_bytes(content)
    found = {level: verify.verify("imagenet", copied / "imagenet", 10, level) for level in ("fast", "full")}
    assert found["fast"] == []
    assert [(fault.file, fault.spare) for fault in found["full"]] == [(str(file), True)]


def test_processes_find_the_same_in_the_same_order(copied: Path) -> None:
    for pattern in ("train/digit3/*.JPEG", "train/digit0/*.JPEG", "val/digit9/*.JPEG"):
        cut(pattern, 0.5)(copied / "imagenet")
    one, two = (verify.verify("imagenet", copied / "imagenet", 10, "fast", workers) for workers in (1, 2))
    assert one == two
    assert [Path(fault.file).parent.name for fault in one] == ["digit0", "digit3", "digit9"]


def test_the_classes_that_were_not_chosen_may_be_damaged(copied: Path) -> None:
    """A study of some classes neither reads the others nor stops at them."""
    root = copied / "imagenet"
    for pattern in ("train/digit3/*.JPEG", "train/digit0/*.JPEG"):
        cut(pattern, 0.5)(root)
    faults = verify.verify("imagenet", root, 2, classes=["digit9", "digit3"])
    assert [Path(fault.file).parent.name for fault in faults] == ["digit3"]
    job = {"task": "data", "dataset": "imagenet", "root": str(root), "num_classes": 2, "make": None}
    data.run(typed(job | {"classes": ["digit5", "digit9"]}), copied / "out")
    manifest = json.loads((copied / "out/manifest.json").read_text())
    assert manifest["counts"] == {"train": 2, "val": 2}
    with pytest.raises(UserError, match=r"digit3/.*not readable"):
        data.run(typed(job | {"classes": ["digit3", "digit9"]}), copied / "out")


def test_the_number_of_faults_does_not_fill_the_screen(copied: Path) -> None:
    for file in (copied / "imagenet").rglob("*.JPEG"):
        file.write_bytes(b"")
    faults = verify.verify("imagenet", copied / "imagenet", 10)
    with pytest.raises(UserError) as caught:
        verify.report("imagenet", copied, faults, spared=0)
    assert len(str(caught.value).splitlines()) == 12
    assert "20 more" in str(caught.value)


def test_capitals_are_no_suffix_of_ade20ks(copied: Path) -> None:
    """Row 15: mmsegmentation passes over them in silence."""
    file = first(copied / "ade20k", f"images/{T}/*.jpg")
    file.rename(file.with_suffix(".JPG"))
    with pytest.raises(UserError, match=rf"1 end in capitals, e\.g\. {file.stem}\.JPG: rename them to \.jpg"):
        layout.check("ade20k", copied / "ade20k", expected={T: 4, V: 2})


def test_hidden_files_are_none_of_the_datasets(copied: Path) -> None:
    """Row 39: macOS leaves `._x.png` beside `x.png`."""
    root = copied / "imagenet"
    before = len(ImageFolder(root, "train", 10))
    (root / "train/digit0/._x.JPEG").write_bytes(b"Mac OS X")
    assert len(ImageFolder(root, "train", 10)) == before
    assert verify.verify("imagenet", root, 10) == []


def test_sixteen_bits_keep_their_greys(tmp_path: Path) -> None:
    """Row 40: Pillow would clip all above 255 to white."""
    Image.fromarray(np.arange(65536, dtype="uint16").reshape(256, 256)).save(tmp_path / "x.png")
    grey = np.asarray(images.read(tmp_path / "x.png"))
    assert (grey == np.arange(256, dtype="uint8")[:, None, None]).all()


def test_the_job_of_a_dataset_stops_on_damage(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(layout.EXPECTED, "imagenet", {"train": 10, "val": 10})
    job = {"dataset": "imagenet", "root": str(copied / "imagenet"), "num_classes": 10, "make": None}
    out = copied / "out"
    data.run(typed(job), out, level="full", workers=2)
    assert json.loads((out / "manifest.json").read_text())["counts"] == {"train": 10, "val": 10}
    (out / "manifest.json").unlink()
    file = cut("train/*/*.JPEG", 0.5)(copied / "imagenet")
    with pytest.raises(UserError, match=f"^{file}: "):
        data.run(typed(job), out)
    assert not (out / "manifest.json").exists()
    monkeypatch.setenv(bad_files.VARIABLE, '{"imagenet":1}')  # what the Snakefile says for `bad_files: skip`
    data.run(typed(job), out)
    assert (out / "manifest.json").exists()
    cut("val/*/*.JPEG", 0.5)(copied / "imagenet")  # an image that accuracy is measured on is never passed over
    with pytest.raises(UserError, match="2 faults"):
        data.run(typed(job), out)


# ------------------------------------------------------------------------------------------ met later, while training
def broken_job(tmp_path: Path, split: str = "train") -> tuple[str, Path, Path]:
    """A linear probe whose dataset has one image that is none; the image, and the encoder."""
    root = make_images(tmp_path / "images")
    encoder = run(pretrain_job(root, "mae"), tmp_path / "pretrained") / "encoder.safetensors"
    file = root / split / "class1" / "2.png"
    file.write_bytes(file.read_bytes()[:60])
    return json.dumps(linear_job(root, "mae")), file, encoder


def probe(job: str, encoder: Path, out: Path, workers: int) -> int:
    arguments = ["linear", "--job", job, "--inputs", f"encoder={encoder}", "--out", str(out), "--workers", str(workers)]
    return main(arguments)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_file_is_one_line_with_any_number_of_workers(tmp_path, capfd, workers) -> None:
    """Row 10."""
    job, file, encoder = broken_job(tmp_path)
    capfd.readouterr()
    assert probe(job, encoder, tmp_path / "out", workers) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"mto: error: {file}: not readable as an image (")


def test_a_bad_file_is_one_line_with_any_number_of_ranks(tmp_path) -> None:
    """The other rank's lost connection is not told."""
    job, file, encoder = broken_job(tmp_path)
    command = [sys.executable, "-m", "mto", "linear", "--job", job, "--inputs", f"encoder={encoder}"]
    command += ["--out", str(tmp_path / "out"), "--processes", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if "Gloo" not in line]
    assert [line for line in lines if "Traceback" in line] == []
    assert lines[-1].startswith(f"mto: error: {file}: not readable as an image (")


def test_a_neighbour_stands_in_and_is_counted(tmp_path, monkeypatch, capfd) -> None:
    """The same with workers and without; an evaluation stops all the same; beyond the limit the job does."""
    job, file, encoder = broken_job(tmp_path)
    monkeypatch.setenv(bad_files.VARIABLE, '{"imagenet":1}')
    metrics = []
    for workers in (0, 2):
        out = tmp_path / f"out{workers}"
        assert probe(job, encoder, out, workers) == 0
        metrics.append(json.loads((out / "metrics.json").read_text())["metrics"])
    assert metrics[0] == metrics[1]
    assert metrics[0]["bad_files"] == 1
    capfd.readouterr()
    file.with_name("3.png").write_bytes(b"")
    assert probe(job, encoder, tmp_path / "more", 0) == 2
    assert "1 files were passed over already (datasets.imagenet.bad_files_limit)" in capfd.readouterr().err


def test_an_evaluation_passes_over_nothing(tmp_path, monkeypatch, capfd) -> None:
    job, file, encoder = broken_job(tmp_path, "val")
    monkeypatch.setenv(bad_files.VARIABLE, '{"imagenet":9}')
    assert probe(job, encoder, tmp_path / "out", 0) == 2
    assert f"{file}: not readable" in capfd.readouterr().err


@pytest.mark.parametrize(("name", "make"), [("ade20k", ade20k_job), ("coco", coco_job)])
def test_the_dense_tasks_name_the_file_too(copied, tmp_path, name, make, capfd, monkeypatch) -> None:
    """Rows 16 to 18: found by the libraries deep inside their pipelines."""
    root = copied / name
    job = make(root)
    encoder = save_encoder(tmp_path / "encoder.safetensors", job)
    split = {"ade20k": "images/training", "coco": "train2017"}[name]
    files = sorted((root / split).glob("*.jpg"))
    files[1].write_bytes(b"no image")
    arguments = [name, "--job", json.dumps(job), "--inputs", f"encoder={encoder}", "--out", str(tmp_path / "out")]
    assert main([*arguments, "--workers", "1"]) == 2
    assert f"mto: error: {files[1]}: not readable as an image" in capfd.readouterr().err.splitlines()[-1]
    monkeypatch.setenv(bad_files.VARIABLE, json.dumps({name: 1}))
    monkeypatch.setattr("mto.tasks.dense.percentages", lambda task, metrics: metrics)
    assert main(arguments) == 0
    assert json.loads((tmp_path / "out/metrics.json").read_text())["metrics"]["bad_files"] == 1


def test_an_evaluation_of_nothing_is_no_number(copied, tmp_path, capfd) -> None:
    """Row 5: COCO's metric would say -1 of an image set without annotations, after all training: it is told before."""
    edited("val2017", lambda content: content["annotations"].clear())(copied / "coco")
    job = coco_job(copied / "coco")
    encoder = save_encoder(tmp_path / "encoder.safetensors", job)
    code = main(["coco", "--job", json.dumps(job), "--inputs", f"encoder={encoder}", "--out", str(tmp_path / "out")])
    assert code == 2
    assert not (tmp_path / "out" / "metrics.json").exists()
    assert "no annotation: nothing could be trained or measured" in capfd.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("value", [float("nan"), -100.0, 101.0])
def test_a_percentage_is_one(value: float) -> None:
    assert percentages("coco", {"box_ap": 0.0, "mask_ap": 100.0}) == {"box_ap": 0.0, "mask_ap": 100.0}
    with pytest.raises(UserError, match=r"coco: mask_ap is .*nothing was measured"):
        percentages("coco", {"box_ap": 3.0, "mask_ap": value})
