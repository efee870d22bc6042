"""Fashion-MNIST (Zalando, MIT licence) as the folder of an image classification: 28 x 28 grey pixels, ten classes.

The images come through torchvision's own dataset class, from a folder that holds the four files, or downloaded by it.
"""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from mto.errors import UserError

CLASSES = ["t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle-boot"]
FILES = [f"{split}-{kind}-ubyte" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]


def make_imagenet(
    out: Path, *, size: int, train: int, val: int, seed: int = 0, files: str | None = None
) -> dict[str, int]:
    """Writes ``{train,val}/<class>/<number>.png``, every class as often as any other; returns each split's count.

    Args:
        size: side in pixels; other than 28, the images are resized (bicubic).
        train, val: images, drawn from the 60,000 and the 10,000.
        files: the folder of the four files, compressed or not; None: torchvision downloads them.

    Raises:
        UserError: a file is missing or damaged, or more images are asked for than there are.
    """
    raw = out / "FashionMNIST" / "raw"  # where torchvision looks
    raw.mkdir(parents=True)
    if files is not None:
        for name in FILES:
            _copy(Path(files), name, raw / name)
    counts = {}
    for split, number in (("train", train), ("val", val)):
        images, labels = _load(out, split == "train", download=files is None)
        for label, name in enumerate(CLASSES):
            folder = out / split / name
            folder.mkdir(parents=True)
            for place in _chosen(labels, label, number, split, seed):
                image = Image.fromarray(images[place])
                image = image if size == image.width else image.resize((size, size), Image.Resampling.BICUBIC)
                image.convert("RGB").save(folder / f"{place:05d}.png")
        counts[split] = number
    shutil.rmtree(raw.parent)
    return counts


def _copy(files: Path, name: str, to: Path) -> None:
    """Copies one of the four files, unpacked where it is compressed."""
    try:
        if (files / name).exists():
            shutil.copyfile(files / name, to)
            return
        with gzip.open(files / f"{name}.gz") as packed, to.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked)
    except FileNotFoundError:
        raise UserError(
            f"{files}: no {name}.gz; Fashion-MNIST's four files are in Debian's package dataset-fashion-mnist; or set "
            "make.files of the dataset in config.yaml to null, and torchvision downloads them"
        ) from None
    except (OSError, EOFError) as error:
        raise UserError(f"{files}/{name}.gz: damaged ({error}); fetch it again") from None


def _load(root: Path, train: bool, *, download: bool) -> tuple[np.ndarray, np.ndarray]:
    """Returns a split's (n, 28, 28) uint8 images and (n,) labels."""
    from torchvision.datasets import FashionMNIST

    try:
        data = FashionMNIST(str(root), train=train, download=download)
    except (RuntimeError, ValueError, AssertionError, OSError) as error:
        raise UserError(f"Fashion-MNIST cannot be read: {' '.join(str(error).split())}") from None
    return data.data.numpy(), data.targets.numpy()


def _chosen(labels: np.ndarray, label: int, number: int, split: str, seed: int) -> np.ndarray:
    """Draws a tenth of `number` places of that label (the first classes have what does not divide by ten), in order."""
    each = number // len(CLASSES) + (label < number % len(CLASSES))
    places = np.flatnonzero(labels == label)
    if not 1 <= each <= len(places):
        raise ValueError(f"{split} {number}: from {len(CLASSES)} to {len(places) * len(CLASSES)} images")
    return np.sort(np.random.default_rng([seed, label]).permutation(places)[:each])
