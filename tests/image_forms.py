"""One small set of images, written in every form in which people have ImageNet: `write(form, images, root)`."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

#: Sorted, and not in the order of the development kit's numbers.
CLASSES = ["n01440764", "n01443537", "n02105855", "n03016953", "n04209133"]
KIT = {"n03016953": 1, "n01443537": 2, "n04209133": 3, "n01440764": 4, "n02105855": 5}


class Picture(NamedTuple):
    """An image: its split and class, its name in class folders, its file's bytes."""

    split: str
    of: str
    name: str
    data: bytes


def pictures(train: int = 6, val: int = 3, side: int = 24) -> list[Picture]:
    """Returns images of each class; one to train on is a PNG inside .JPEG, one is CMYK, one grey."""
    random = np.random.default_rng(0)
    found = []
    numbers = iter(random.permutation(len(CLASSES) * val) + 1)
    for label, of in enumerate(CLASSES):
        for index in range(train):
            odd = {(2, 0): "png", (3, 1): "cmyk", (1, 2): "grey"}.get((label, index), "")
            data = _picture(random, side, label, odd)
            found.append(Picture("train", of, f"{of}_{10 ** (index % 4) + index}.JPEG", data))
        for _ in range(val):
            name = f"ILSVRC2012_val_{next(numbers):08d}.JPEG"
            found.append(Picture("val", of, name, _picture(random, side, label)))
    return found


def _picture(random: np.random.Generator, side: int, label: int, odd: str = "") -> bytes:
    coarse = random.integers(0, 120, (4, 4, 3), dtype=np.uint8)
    coarse[..., label % 3] += np.uint8(100)
    size = (side + int(random.integers(0, 12)), side + int(random.integers(0, 12)))
    image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    image = {"cmyk": lambda: image.convert("CMYK"), "grey": lambda: image.convert("L")}.get(odd, lambda: image)()
    file = io.BytesIO()
    image.save(file, "PNG" if odd == "png" else "JPEG", **({} if odd == "png" else {"quality": 95}))
    return file.getvalue()


def write(form: str, images: list[Picture], root: Path, **options: int) -> Path:
    """Writes the images in a form, and returns ``root``."""
    root.mkdir(parents=True, exist_ok=True)
    WRITERS[form](images, root, **options)
    return root


def _folders(images: list[Picture], root: Path) -> None:
    for image in images:
        path = root / image.split / image.of / image.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image.data)


def _kaggle(images: list[Picture], root: Path) -> None:
    lines = ["ImageId,PredictionString"]
    for image in images:
        folder = root / "ILSVRC/Data/CLS-LOC" / image.split
        path = folder / image.of / image.name if image.split == "train" else folder / image.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image.data)
        if image.split == "val":
            lines.append(f"{Path(image.name).stem},{image.of} 1 2 3 4 {image.of} 5 6 7 8 ")
    (root / "LOC_val_solution.csv").write_text("\n".join(lines) + "\n")
    (root / "LOC_synset_mapping.txt").write_text("".join(f"{of} a thing, thing\n" for of in CLASSES))


def _parquet(images: list[Picture], root: Path, shards: int = 3, row_group: int = 4) -> None:
    """As `datasets` writes ILSVRC/imagenet-1k: shuffled, snappy, small row groups, a test split without labels."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    image_type = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    features = {
        "image": {"_type": "Image"},
        "label": {"names": [f"thing {n}" for n in range(5)], "_type": "ClassLabel"},
    }
    schema = pa.schema({"image": image_type, "label": pa.int64()}, {"huggingface": json.dumps({"features": features})})
    splits = {"train": [i for i in images if i.split == "train"], "validation": [i for i in images if i.split == "val"]}
    splits["test"] = splits["validation"][:2]
    (root / "data").mkdir(exist_ok=True)
    for split, chosen in splits.items():
        count = 1 if split == "test" else shards
        for number, part in enumerate(_shuffled(chosen, count)):
            stems = [Path(image.name).stem for image in part]
            paths = [f"{stem}_{image.of}.JPEG" for stem, image in zip(stems, part, strict=True)]
            labels = [CLASSES.index(image.of) for image in part]
            if split == "test":
                paths, labels = [f"ILSVRC2012_test_{n:08d}.JPEG" for n in range(len(part))], [-1] * len(part)
            rows = [{"bytes": image.data, "path": path} for image, path in zip(part, paths, strict=True)]
            table = pa.table([pa.array(rows, image_type), pa.array(labels, pa.int64())], schema)
            pq.write_table(table, root / f"data/{split}-{number:05d}-of-{count:05d}.parquet", row_group_size=row_group)


def _shuffled(images: list[Picture], shards: int) -> list[list[Picture]]:
    order = np.random.default_rng(7).permutation(len(images))
    return [[images[place] for place in order[number::shards]] for number in range(shards)]


def _archives(images: list[Picture], root: Path) -> None:
    import scipy.io

    with tarfile.open(root / "ILSVRC2012_img_train.tar", "w") as outer:
        for of in sorted(KIT, key=lambda name: KIT[name]):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as archive:
                for image in images:
                    if image.split == "train" and image.of == of:
                        _add(archive, image.name, image.data)
            _add(outer, f"{of}.tar", inner.getvalue())
    val = [image for image in images if image.split == "val"]
    with tarfile.open(root / "ILSVRC2012_img_val.tar", "w") as archive:
        for image in val:
            _add(archive, image.name, image.data)
    truth = "".join(f"{KIT[image.of]}\n" for image in sorted(val, key=lambda image: image.name))
    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "O")]
    rows = [(number, of, "thing", "a thing", 0) for of, number in KIT.items()]
    meta = io.BytesIO()
    scipy.io.savemat(meta, {"synsets": np.array([*rows, (1001, "n00001740", "entity", "all", 3)], dtype=kinds)})
    with tarfile.open(root / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as archive:
        _add(archive, "ILSVRC2012_devkit_t12/data/meta.mat", meta.getvalue())
        _add(archive, "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt", truth.encode())


def _webdataset(images: list[Picture], root: Path) -> None:
    """As timm/imagenet-1k-wds: training keys begin with the WordNet id, those of validation have none."""
    for split, name, digits in (("train", "train", 4), ("val", "validation", 2)):
        for number, part in enumerate(_shuffled([image for image in images if image.split == split], 3)):
            with tarfile.open(root / f"imagenet1k-{name}-{number:0{digits}d}.tar", "w") as archive:
                for key, of, data in _samples(part):
                    _add(archive, f"{key}.{of}", data)


def _samples(images: list[Picture]) -> Iterator[tuple[str, str, bytes]]:
    for image in images:
        key, label = Path(image.name).stem, CLASSES.index(image.of)
        filename = f"{image.of}/{image.name}" if image.split == "train" else image.name
        yield key, "cls", str(label).encode()
        yield key, "jpg", image.data
        yield key, "json", json.dumps({"filename": filename, "label": label, "width": 1, "height": 1}).encode()


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    archive.addfile(entry, io.BytesIO(data))


WRITERS: dict[str, Callable[..., None]] = {
    "folders": _folders,
    "kaggle": _kaggle,
    "parquet": _parquet,
    "archives": _archives,
    "webdataset": _webdataset,
}
