"""ADE20K as parquet is written as its own files once; what has other labels, or no masks, is refused by name."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mto.data import demo, layout
from mto.data.forms.recognise import form_of
from mto.errors import UserError
from mto.tasks import data
from typed_jobs import typed

IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    root = tmp_path_factory.mktemp("ade20k")
    demo.make_ade20k(root, size=32, train=7, val=3)
    return root


def content(path, named):
    return {"bytes": path.read_bytes(), "path": path.name if named else None}


def as_parquet(files, root, names=True, folder="scene_parsing"):
    """As the converted branch of zhoubolei/scene_parse_150: in two shards, in another order."""
    for split, short in (("training", "train"), ("validation", "validation")):
        stems = sorted(path.stem for path in (files / "images" / split).iterdir())
        if names:
            stems.reverse()
        (root / folder / short).mkdir(parents=True)
        half = len(stems) // 2
        for number, part in enumerate((stems[:half], stems[half:])):
            columns = [
                pa.array([content(files / kind / split / f"{stem}{suffix}", names) for stem in part], IMAGE)
                for kind, suffix in (("images", ".jpg"), ("annotations", ".png"))
            ]
            table = pa.table([*columns, pa.array([0] * len(part))], ["image", "annotation", "scene_category"])
            pq.write_table(table, root / folder / short / f"{number:04d}.parquet", row_group_size=2)
    return root


@pytest.mark.parametrize("names", [True, False])
def test_parquet_becomes_the_very_files(files, tmp_path, monkeypatch, names, capsys):
    monkeypatch.setitem(layout.EXPECTED, "ade20k", {"training": 7, "validation": 3})
    root = as_parquet(files, tmp_path / "parquet", names)
    assert form_of("ade20k", root) == "parquet shards, as Hugging Face has them"
    job = {"task": "data", "dataset": "ade20k", "root": str(root), "num_classes": 11, "make": None}
    out = tmp_path / "out"
    data.run(typed(job), out, level="full")
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["root"] == str(out)
    assert manifest["counts"] == {"training": 7, "validation": 3}
    assert f"ade20k: parquet shards, as Hugging Face has them, at {root}" in capsys.readouterr().out
    for kind in ("images", "annotations"):
        for split in ("training", "validation"):
            found, expected = (sorted((place / kind / split).iterdir()) for place in (out, files))
            assert [path.read_bytes() for path in found] == [path.read_bytes() for path in expected]
            assert [path.name for path in found] == [path.name for path in expected]


def test_the_number_of_images_is_asked_of_the_files(files, tmp_path):
    root = as_parquet(files, tmp_path / "parquet")
    job = {"task": "data", "dataset": "ade20k", "root": str(root), "num_classes": 11, "make": None}
    with pytest.raises(UserError, match="training holds 7 pairs instead of 20210"):
        data.run(typed(job), tmp_path / "out")


def test_other_labels_are_refused_by_name(files, tmp_path):
    root = as_parquet(files, tmp_path / "parquet", folder="data")
    for path in root.rglob("*.parquet"):
        table = pq.read_table(path).rename_columns(["image", "segmentations", "objects"])
        pq.write_table(table, path)
    job = {"task": "data", "dataset": "ade20k", "root": str(root), "num_classes": 150, "make": None}
    with pytest.raises(UserError, match=r"image, objects, segmentations: not the 150 classes .* the full ADE20K"):
        data.run(typed(job), tmp_path / "out")


@pytest.mark.parametrize("folder", ["images/ADE/training/urban/street", "images/training/s/street"])
def test_the_full_release_is_refused_by_name(tmp_path, folder):
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / "ADE_train_00000001.jpg").touch()
    (tmp_path / folder / "ADE_train_00000001_seg.png").touch()
    with pytest.raises(UserError, match=r"full ADE20K, whose labels .* ADEChallengeData2016\.zip has them"):
        layout.check("ade20k", tmp_path)


def test_coco_as_parquet_is_refused_by_name(tmp_path):
    (tmp_path / "data").mkdir()
    for split in ("train", "val"):
        (tmp_path / f"data/{split}-00000-of-00001.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"COCO lies there as parquet, which has boxes and no masks.*cocodataset\.org"):
        layout.check("coco", tmp_path)
