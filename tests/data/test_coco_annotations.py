"""COCO's annotations as people have them: each reader gets the same of them, and what none could use is told before."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools import mask as rle

from mto.data import coco, verify
from mto.data.demo import make_coco
from mto.errors import UserError
from typed_jobs import typed

Change = Callable[[dict[str, Any]], Any]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("coco")
    make_coco(root, size=48, train=4, val=3)
    return root


def content(root: Path, split: str = "train2017") -> dict[str, Any]:
    return json.loads((root / f"annotations/instances_{split}.json").read_text())


def changed(root: Path, tmp_path: Path, change: Change, split: str = "train2017") -> Path:
    """A copy of a dataset with a change in one file."""
    (tmp_path / "annotations").mkdir()
    for name in ("train2017", "val2017"):
        (tmp_path / name).symlink_to(root / name)
        found = content(root, name)
        if name == split:
            change(found)
        (tmp_path / f"annotations/instances_{name}.json").write_text(json.dumps(found))
    return tmp_path


def in_run_lengths(found: dict[str, Any], every: int = 1) -> None:
    for annotation in found["annotations"][::every]:
        code = rle.merge(rle.frPyObjects(annotation["segmentation"], 48, 48))
        annotation["segmentation"] = {"size": code["size"], "counts": code["counts"].decode()}


def without(key: str) -> Change:
    return lambda found: [annotation.pop(key) for annotation in found["annotations"]]


def test_cocos_own_files_stay_as_they_are(root: Path) -> None:
    for split in ("train2017", "val2017"):
        found = content(root, split)
        assert coco.complete(copy.deepcopy(found)) == found
        assert list(coco.problems(found)) == list(coco.undrawable(found)) == []


def mask_of(found: dict[str, Any]) -> list[list[float]]:
    mask = found["annotations"][0]["segmentation"]
    assert len(mask) == 1
    return mask


SAME: dict[str, Change] = {
    "categories in another order": lambda found: found["categories"].reverse(),
    "no iscrowd": without("iscrowd"),
    "one object without iscrowd": lambda found: found["annotations"][3].pop("iscrowd"),
    "ids repeat": lambda found: [a.update(id=1 + n % 2) for n, a in enumerate(found["annotations"])],
    "an id is 0": lambda found: [a.update(id=n) for n, a in enumerate(found["annotations"])],
    "a flat polygon": lambda found: found["annotations"][0].update(
        segmentation=found["annotations"][0]["segmentation"][0]
    ),
    "a short polygon beside another": lambda found: found["annotations"][0]["segmentation"].insert(0, [3, 3, 9, 9]),
}


@pytest.mark.parametrize("split", ["train2017", "val2017"])
@pytest.mark.parametrize("kind", SAME)
def test_what_has_one_meaning_is_the_same_file(root: Path, tmp_path: Path, kind: str, split: str) -> None:
    expected = coco.read(root / f"annotations/instances_{split}.json")
    other = changed(root, tmp_path, SAME[kind], split)
    assert verify.verify("coco", other, 10) == []
    found = coco.read(other / f"annotations/instances_{split}.json")
    for each in (expected, found):
        for number, annotation in enumerate(each["annotations"]):
            annotation["id"] = number
    assert found == expected


def test_an_area_is_the_masks(root: Path, tmp_path: Path) -> None:
    other = changed(root, tmp_path, without("area"))
    assert verify.verify("coco", other, 10) == []
    for annotation in coco.read(other / "annotations/instances_train2017.json")["annotations"]:
        drawn = rle.decode(rle.merge(rle.frPyObjects(annotation["segmentation"], 48, 48)))
        assert annotation["area"] == drawn.sum() > 0


REFUSED: dict[str, tuple[Change, str, str]] = {
    "a short polygon": (
        lambda found: found["annotations"][0].update(segmentation=[[3, 3, 9, 9]]),
        "val2017",
        "a polygon has less than 3 points",
    ),
    "half a point": (
        lambda found: found["annotations"][0].update(segmentation=[[3, 3, 9, 9, 4, 4, 5]]),
        "val2017",
        "a polygon has less than 3 points, or half a point",
    ),
    "run lengths of another size": (
        lambda found: found["annotations"][0].update(segmentation={"size": [8, 8], "counts": [64]}),
        "train2017",
        "run lengths for [8, 8]",
    ),
    "text for coordinates": (
        lambda found: found["annotations"][0].update(segmentation=[["a"] * 6]),
        "train2017",
        "not COCO's instances as JSON",
    ),
    "no number": (
        lambda found: found["annotations"][0].update(segmentation=[[float("nan")] * 6]),
        "train2017",
        "coordinates that are no numbers",
    ),
    "a mask that is none": (lambda found: found["annotations"][0].update(segmentation=7), "val2017", "segmentation"),
    "iscrowd is a word": (lambda found: found["annotations"][0].update(iscrowd="no"), "train2017", "iscrowd is no"),
    "no id": (lambda found: found["annotations"][0].pop("id"), "val2017", "KeyError: 'id'"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_would_fail_later_is_told_before(root: Path, tmp_path: Path, kind: str) -> None:
    change, split, expected = REFUSED[kind]
    faults = verify.verify("coco", changed(root, tmp_path, change, split), 10)
    assert [fault for fault in faults if not fault.note and expected in fault.what]


def test_a_training_object_that_cannot_be_drawn_is_counted_and_no_fault(root: Path, tmp_path: Path) -> None:
    other = changed(root, tmp_path, lambda found: found["annotations"][0].update(segmentation=[[3, 3, 9, 9]]))
    (fault,) = verify.verify("coco", other, 10)
    assert fault.note
    assert "1 of " in fault.what
    assert verify.report("coco", other, [fault], spared=0) == f"note: {fault.file}: {fault.what}"


def test_the_reader_refuses_what_verify_does(root: Path, tmp_path: Path) -> None:
    """A job may be started by hand, without a look at its dataset."""
    other = changed(root, tmp_path, lambda found: found["annotations"][0].update(category_id=99))
    with pytest.raises(UserError, match=r"instances_train2017\.json: annotation \d+: no category 99$"):
        coco.read(other / "annotations/instances_train2017.json")


BITS = st.integers(0, 1)


@settings(max_examples=150, deadline=None)
@given(
    arrays.arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 1)),
    st.booleans(),
)
def test_run_lengths_become_polygons_of_the_very_mask(mask: np.ndarray, plain: bool) -> None:
    code = rle.encode(np.asfortranarray(mask))
    given_ = {"size": list(mask.shape), "counts": code["counts"].decode()}
    if plain:
        flat, counts, value = mask.ravel(order="F"), [], 0
        while len(flat):
            run = int(np.argmin(flat == value)) if (flat != value).any() else len(flat)
            counts.append(run)
            flat, value = flat[run:], 1 - value
        given_["counts"] = counts
    found = coco.polygons(given_)
    assert bool(found) == bool(mask.any())
    drawn = rle.decode(rle.merge(rle.frPyObjects(found, *mask.shape))) if found else np.zeros_like(mask)
    assert np.array_equal(drawn, mask)


def test_training_keeps_the_objects_of_run_lengths(root: Path, tmp_path: Path) -> None:
    """Each of them, with the mask and the box that its polygons have, to a pixel."""
    from mto.openmmlab.libraries import load_mmdet
    from tasks.dense_jobs import coco_job

    load_mmdet()
    from mto.openmmlab.maskrcnn import build_dataset

    other = changed(root, tmp_path, in_run_lengths)
    assert verify.verify("coco", other, 10) == []
    one, two = (build_dataset(typed(coco_job(folder)), "train2017") for folder in (root, other))
    for transforms in (one.pipeline.transforms, two.pipeline.transforms):
        del transforms[2:-1]  # nothing is drawn at random
    for index in range(len(one)):
        a, b = (dataset[index]["data_samples"] for dataset in (one, two))
        assert len(a.gt_instances) == len(b.gt_instances) > 0
        assert not len(b.ignored_instances)
        assert np.array_equal(a.gt_instances.masks.to_ndarray(), b.gt_instances.masks.to_ndarray())
        assert np.array_equal(a.gt_instances.labels, b.gt_instances.labels)


def test_a_label_is_a_place_in_the_order_of_ids(root: Path, tmp_path: Path) -> None:
    """In training and validation, whichever file has the categories in another order."""
    from mto.openmmlab.libraries import load_mmdet
    from tasks.dense_jobs import coco_job

    load_mmdet()
    from mto.openmmlab.coco_metric import SharedCocoMetric
    from mto.openmmlab.maskrcnn import build_dataset

    for turned in ("train2017", "val2017"):
        folder = tmp_path / turned
        folder.mkdir()
        other = changed(root, folder, SAME["categories in another order"], turned)
        for split in ("train2017", "val2017"):
            one, two = (build_dataset(typed(coco_job(place)), split) for place in (root, other))
            assert one.metainfo["classes"] == two.metainfo["classes"]
            labels = [
                [i["bbox_label"] for n in range(len(d)) for i in d.get_data_info(n)["instances"]] for d in (one, two)
            ]
            assert labels[0] == labels[1]
            metric = SharedCocoMetric(other / f"annotations/instances_{split}.json")
            assert metric._coco_api.get_cat_ids(cat_names=two.metainfo["classes"]) == two.cat_ids == one.cat_ids


def labels(dataset: Any) -> list[int]:
    return [each["bbox_label"] for n in range(len(dataset)) for each in dataset.get_data_info(n)["instances"]]


def test_other_classes_in_training_are_refused(root: Path, tmp_path: Path) -> None:
    from mto.openmmlab.libraries import load_mmdet
    from tasks.dense_jobs import coco_job

    load_mmdet()
    from mto.openmmlab.maskrcnn import build_dataset

    other = changed(root, tmp_path, lambda found: found["categories"][3].update(name="x"))
    with pytest.raises(UserError, match="have different categories"):
        build_dataset(typed(coco_job(other)), "train2017")
