"""Fashion-MNIST as a folder of images, from files made here in its format."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mto.data.fashion_mnist import CLASSES
from mto.errors import UserError
from mto.tasks import data
from typed_jobs import typed

TRAIN, VAL = 60, 40  # in the files
IMAGES = np.random.default_rng(0).integers(0, 256, (TRAIN + VAL, 28, 28), dtype=np.uint8)
LABELS = np.arange(TRAIN + VAL, dtype=np.uint8) % 10


def write_idx(path: Path, values: np.ndarray) -> None:
    """LeCun's format: two zeros, the type (8: unsigned bytes), the dimensions, and the values."""
    head = bytes([0, 0, 8, values.ndim]) + b"".join(n.to_bytes(4, "big") for n in values.shape)
    with gzip.open(f"{path}.gz", "wb") as file:
        file.write(head + values.tobytes())


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    for name, part in (("train", slice(TRAIN)), ("t10k", slice(TRAIN, None))):
        write_idx(folder / f"{name}-images-idx3-ubyte", IMAGES[part])
        write_idx(folder / f"{name}-labels-idx1-ubyte", LABELS[part])
    return folder


def job(files: Path, **arguments) -> dict:
    make = {"of": "fashion_mnist", "files": str(files), "size": 28, "train": 23, "val": 10, "seed": 0} | arguments
    return {"task": "data", "scale": "mini", "dataset": "imagenet", "root": "unused", "make": make}


def test_every_image_is_one_of_its_class_and_no_class_is_favoured(files, tmp_path):
    out = tmp_path / "out"
    data.run(typed(job(files)), out)
    for split, number, offset in (("train", 23, 0), ("val", 10, TRAIN)):
        counts = []
        for label, name in enumerate(CLASSES):
            found = sorted((out / split / name).iterdir())
            counts.append(len(found))
            for path in found:
                place = offset + int(path.stem)
                assert LABELS[place] == label
                pixels = np.asarray(Image.open(path))
                assert pixels.shape == (28, 28, 3)
                assert (pixels == IMAGES[place][..., None]).all()
        assert sum(counts) == number
        assert max(counts) - min(counts) <= 1
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "train", "val"]


def test_another_seed_takes_other_images_and_the_same_one_the_same(files, tmp_path):
    def chosen(name: str, seed: int) -> set[str]:
        data.run(typed(job(files, seed=seed)), tmp_path / name)
        return {str(path.relative_to(tmp_path / name)) for path in (tmp_path / name).rglob("*.png")}

    first = chosen("a", 0)
    assert chosen("b", 0) == first
    assert chosen("c", 1) != first


def test_images_are_resized_where_asked(files, tmp_path):
    data.run(typed(job(files, size=14)), tmp_path / "out")
    assert Image.open(next((tmp_path / "out" / "val").rglob("*.png"))).size == (14, 14)


def test_a_mistake_is_one_line_that_says_where(files, tmp_path):
    with pytest.raises(UserError, match=r"no train-images-idx3-ubyte\.gz.*dataset-fashion-mnist.*null"):
        data.run(typed(job(tmp_path / "nowhere")), tmp_path / "out")
    with pytest.raises(UserError, match=r"datasets\.imagenet\.make .*from 10 to 60 images"):
        data.run(typed(job(files, train=61)), tmp_path / "out")
    with pytest.raises(UserError, match=r"datasets\.coco\.make\.of: fashion_mnist"):
        data.run(typed(job(files) | {"dataset": "coco"}), tmp_path / "out")
    damaged = files / "t10k-labels-idx1-ubyte.gz"
    damaged.write_bytes(damaged.read_bytes()[:20])
    with pytest.raises(UserError, match=r"t10k-labels-idx1-ubyte\.gz: damaged"):
        data.run(typed(job(files)), tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()
