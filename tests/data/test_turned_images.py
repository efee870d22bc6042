"""EXIF's orientation: the loaders read what the check measures, and where nobody can tell the check says so."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from mto.data import images, verify
from mto.data.demo import make_ade20k, make_coco
from mto.errors import UserError
from typed_jobs import typed


def tagged(path: Path, orientation: int, pixels: np.ndarray) -> Path:
    exif = Image.Exif()
    exif[images.ORIENTATION] = orientation
    Image.fromarray(pixels).save(path, exif=exif, quality=95)
    return path


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_an_image_is_read_as_its_annotations_see_it(tmp_path, pixels, orientation, suffix):
    """Stored where that fits, and else as Pillow shows it."""
    path = tagged(tmp_path / f"x.{suffix}", orientation, pixels)
    stored = np.asarray(Image.open(path).convert("RGB"))
    shown = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    assert np.array_equal(images.read_for(path, (64, 48)), stored)
    if orientation >= 5:
        assert np.array_equal(images.read_for(path, (48, 64)), shown)
    else:
        with pytest.raises(UserError, match=r"is 64×48 pixels, not 48×64"):
            images.read_for(path, (48, 64))
    assert images.may_be_turned(path, (64, 48)) is (1 < orientation < 5)
    assert not images.may_be_turned(path, (48, 64))


def test_a_square_fits_both_ways(tmp_path, pixels):
    path = tagged(tmp_path / "x.jpg", 6, pixels[:, :48])
    assert images.may_be_turned(path, (48, 48))
    assert np.array_equal(images.read_for(path, (48, 48)), images.read(path))


@pytest.fixture(params=["ade20k", "coco"])
def dataset(request, tmp_path) -> tuple[str, Path, Path]:
    """A dataset's name, its root, and the first training image, which is to be 64 × 48, as its annotations are."""
    name, root = request.param, tmp_path / request.param
    if name == "ade20k":
        make_ade20k(root, size=64, train=2, val=1)
        file = min((root / "images/training").glob("*.jpg"))
        annotation = root / "annotations/training" / f"{file.stem}.png"
        Image.open(annotation).crop((0, 0, 64, 48)).save(annotation)
    else:
        make_coco(root, size=48, train=2, val=1)
        file = min((root / "train2017").glob("*.jpg"))
        path = root / "annotations/instances_train2017.json"
        content = json.loads(path.read_text())
        content["images"][0]["width"] = 64
        path.write_text(json.dumps(content))
    return name, root, file


def loaded(name: str, root: Path) -> np.ndarray:
    """The first training image as the task's own pipeline loads it, in RGB."""
    from mto.openmmlab.libraries import load_mmdet, load_mmseg
    from tasks.dense_jobs import ade20k_job, coco_job

    if name == "ade20k":
        load_mmseg()
        from mto.openmmlab.upernet import build_dataset

        found = build_dataset(typed(ade20k_job(root)), "training")
    else:
        load_mmdet()
        from mto.openmmlab.maskrcnn import build_dataset

        found = build_dataset(typed(coco_job(root)), "train2017")
    return found.pipeline.transforms[0](found.get_data_info(0))["img"][..., ::-1]


@pytest.mark.parametrize(("orientation", "stored_turned"), [(1, False), (3, False), (6, False), (6, True)])
def test_the_loader_reads_what_the_check_measures(dataset, pixels, orientation, stored_turned):
    name, root, file = dataset
    tagged(file, orientation, np.rot90(pixels).copy() if stored_turned else pixels)
    faults = verify.verify(name, root, {"ade20k": 11, "coco": 10}[name])
    assert [fault.note for fault in faults] == ([True] if orientation == 3 else [])
    assert all("1 images have an EXIF orientation" in fault.what and fault.file == str(file) for fault in faults)
    image = Image.open(file)
    expected = np.asarray((ImageOps.exif_transpose(image) if stored_turned else image).convert("RGB"))
    assert np.array_equal(loaded(name, root), expected)


def test_another_size_is_refused_by_both(dataset, pixels):
    name, root, file = dataset
    tagged(file, 3, np.rot90(pixels).copy())
    (fault,) = verify.verify(name, root, {"ade20k": 11, "coco": 10}[name])
    assert "pixels, not" in fault.what
    with pytest.raises(UserError, match="pixels, not"):
        loaded(name, root)
