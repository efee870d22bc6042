import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from mto.data import demo, layout
from mto.errors import UserError
from mto.tasks import data
from typed_jobs import typed

PARAMS = {
    "imagenet": {"size": 24, "train": 100, "val": 30},
    "ade20k": {"size": 48, "train": 12, "val": 6},
    "coco": {"size": 48, "train": 12, "val": 6},
}


def job(dataset: str, **params) -> dict:
    return {
        "task": "data",
        "scale": "demo",
        "dataset": dataset,
        "root": "unused",
        "make": {"of": "digits"} | PARAMS[dataset] | params,
    }


def digest(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("demo")
    for dataset in PARAMS:
        data.run(typed(job(dataset)), root / dataset)
    return root


@pytest.mark.parametrize("dataset", PARAMS)
def test_the_files_are_the_same_bytes_on_a_rerun_over_what_a_killed_one_left(dataset, made, tmp_path):
    out = tmp_path / dataset
    (out / ".making" / "half").mkdir(parents=True)
    part = next(path.name for path in (made / dataset).iterdir() if path.is_dir())
    (out / part).mkdir()
    (out / part / "old").touch()
    data.run(typed(job(dataset)), out)
    assert digest(out) == digest(made / dataset)
    data.run(typed(job(dataset, seed=1)), out)
    assert digest(out) != digest(made / dataset)


def test_the_manifest_comes_last(monkeypatch, tmp_path):
    out = tmp_path / "imagenet"
    data.run(typed(job("imagenet")), out)

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "make_imagenet", killed)
    with pytest.raises(KeyboardInterrupt):
        data.run(typed(job("imagenet")), out)
    assert not (out / "manifest.json").exists()


def test_the_manifest_tells_counts_classes_and_job(made):
    manifest = json.loads((made / "ade20k" / "manifest.json").read_text())
    assert manifest == {
        "job": typed(job("ade20k")).plain(),
        "counts": {"training": 12, "validation": 6},
        "classes": demo.ADE20K_CLASSES,
    }


@pytest.mark.parametrize("dataset", PARAMS)
def test_the_layout_is_the_real_datasets(dataset, made):
    counts = json.loads((made / dataset / "manifest.json").read_text())["counts"]
    expected = {"train": 10, "val": 10} if dataset == "imagenet" else counts
    assert layout.check(dataset, made / dataset, expected=expected) == expected


def test_every_digit_is_in_one_split_and_every_class_as_often(tmp_path):
    assert demo.make_imagenet(tmp_path, size=16) == {"train": 1440, "val": 357}
    names = {split: {path.name for path in (tmp_path / split).rglob("*.png")} for split in ("train", "val")}
    assert not names["train"] & names["val"]
    assert len(names["train"] | names["val"]) == 1797
    counts = [len(list(folder.iterdir())) for folder in sorted((tmp_path / "val").iterdir())]
    assert set(counts) <= {35, 36}


def test_an_image_is_its_digit(made):
    """Shrunk back to 8 x 8, every file is closest to the digit that its name numbers."""
    from sklearn.datasets import load_digits

    source = load_digits()
    for path in (made / "imagenet" / "val").rglob("*.png"):
        image = Image.open(path)
        assert (image.mode, image.size) == ("RGB", (24, 24))
        small = np.asarray(image.convert("L").resize((8, 8), Image.Resampling.BOX), dtype="float64").ravel() / 255 * 16
        place = int(path.stem)
        assert path.parent.name == f"digit{source.target[place]}"
        assert np.square(source.data - small).sum(1).argmin() == place


def test_scenes_in_ade20ks_files(made):
    root = made / "ade20k"
    seen = set()
    for split, number in (("training", 12), ("validation", 6)):
        for path in sorted((root / "images" / split).iterdir()):
            image, labels = Image.open(path), Image.open(root / "annotations" / split / f"{path.stem}.png")
            assert (image.mode, image.size, labels.mode, labels.size) == ("RGB", (48, 48), "L", (48, 48))
            values = np.asarray(labels)
            ground = (values == 11).mean()
            assert 0.4 < ground < 0.99
            brightness = np.asarray(image, dtype=float).max(2)
            assert brightness[(values > 0) & (values < 11)].mean() > brightness[values == 11].mean() + 60
            seen |= set(np.unique(values).tolist())
        assert len(list((root / "images" / split).iterdir())) == number
    assert seen <= set(range(12))
    assert {0, 11} < seen
    assert len(seen) > 8


def test_pycocotools_reads_the_instances(made, capsys):
    root = made / "coco"
    for split, number in (("train2017", 12), ("val2017", 6)):
        coco = COCO(root / "annotations" / f"instances_{split}.json")
        assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == demo.COCO_CLASSES
        assert coco.getCatIds() == list(range(1, 11))
        assert len(coco.imgs) == number
        for info in coco.imgs.values():
            assert Image.open(root / split / info["file_name"]).size == (info["width"], info["height"]) == (48, 48)
            annotations = coco.imgToAnns[info["id"]]
            masks = [coco.annToMask(annotation) for annotation in annotations]
            assert np.max(np.sum(masks, axis=0)) == 1  # what is covered belongs to what covers it
            for annotation, mask in zip(annotations, masks, strict=True):
                assert annotation["area"] == mask.sum() > 8
                assert annotation["iscrowd"] == 0
                points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in annotation["segmentation"]])
                x, y, w, h = annotation["bbox"]
                assert [x, y, x + w, y + h] == [*points.min(0), *points.max(0)]
                rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
                drawn = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
                assert [x, y, x + w, y + h] == pytest.approx(drawn, abs=1)
        assert len(set(coco.anns)) == sum(map(len, coco.imgToAnns.values()))


def test_polygons_outline_whole_pixels():
    mask = np.zeros((9, 12), bool)
    mask[2:6, 3:9] = True
    mask[3:5, 5:7] = False  # a hole, which a polygon cannot have
    mask[0, 11] = True  # a part of its own, at the border
    polygons = demo._polygons(mask)
    assert sorted((*p.min(0), *p.max(0)) for p in polygons) == [(3, 2, 9, 6), (11, 0, 12, 1)]


def test_a_size_the_maker_does_not_take_names_the_key(tmp_path):
    with pytest.raises(UserError, match=r"config\.yaml: datasets\.imagenet\.make .*together at most 1797"):
        data.run(typed(job("imagenet", train=5000)), tmp_path)
    with pytest.raises(UserError, match=r"unknown: make\.sizes"):
        data.run(typed(job("coco", sizes=3)), tmp_path)


def test_without_a_maker_the_job_checks_the_root(made, tmp_path):
    missing = {"task": "data", "scale": "paper", "dataset": "coco", "root": str(tmp_path / "none"), "make": None}
    with pytest.raises(UserError, match=r"datasets\.coco\.root: .*no such folder"):
        data.run(typed(missing), tmp_path / "out")
    assert not (tmp_path / "out").exists()
