"""COCO's metric over several ranks gives the digits of mmdet's over one."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as rle

from mto.openmmlab.libraries import load_mmdet, quiet

SIDE, CLASSES = 64, (7, 2, 5)  # ids, as the file has them: a label is a place in their order


@pytest.fixture(scope="module", autouse=True)
def mmdet():
    load_mmdet()


def blob(random: np.random.Generator) -> tuple[list[float], np.ndarray]:
    """A box (left, top, right, bottom) and its mask without a corner."""
    left, top = random.integers(0, SIDE // 2, 2)
    width, height = random.integers(4, SIDE // 2, 2)
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[top : top + height, left : left + width] = True
    mask[top : top + height // 3, left : left + width // 3] = False
    return [float(left), float(top), float(left + width), float(top + height)], mask


def encoded(mask: np.ndarray) -> dict[str, Any]:
    code = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": code["size"], "counts": code["counts"].decode()}


@pytest.fixture(scope="module")
def annotations(tmp_path_factory) -> Path:
    """Eleven images: one without objects, some with crowds; the ids of the images are not in order."""
    random = np.random.default_rng(0)
    images = [{"id": int(n), "width": SIDE, "height": SIDE, "file_name": f"{n}.jpg"} for n in random.permutation(11)]
    objects: list[dict[str, Any]] = []
    for image in images:
        for _ in range(0 if image["id"] == 3 else random.integers(1, 6)):
            (left, top, right, bottom), mask = blob(random)
            objects.append(
                {
                    "id": len(objects) + 1,
                    "image_id": image["id"],
                    "category_id": int(random.choice(CLASSES)),
                    "bbox": [left, top, right - left, bottom - top],
                    "area": int(mask.sum()),
                    "iscrowd": int(random.random() < 0.1),
                    "segmentation": encoded(mask),
                }
            )
    content = {"images": images, "annotations": objects}
    content["categories"] = [{"id": n, "name": f"class {n}"} for n in CLASSES]
    path = tmp_path_factory.mktemp("coco") / "instances.json"
    path.write_text(json.dumps(content))
    return path


def results(annotations: Path, detected: set[int]) -> list[tuple[dict, dict]]:
    """What the metric keeps of each image: detections near the objects, with scores that are often equal."""
    random = np.random.default_rng(1)
    content = json.loads(annotations.read_text())
    found = []
    for image in content["images"]:
        boxes, masks, labels = [], [], []
        for thing in content["annotations"]:
            if thing["image_id"] == image["id"] and image["id"] in detected:
                for shift in random.integers(-3, 4, size=random.integers(1, 4)):
                    left, top, width, height = thing["bbox"]
                    boxes.append([left + shift, top, left + shift + width, top + height])
                    masks.append(encoded(np.roll(rle.decode(thing["segmentation"]), shift, axis=1)))
                    labels.append(sorted(CLASSES).index(thing["category_id"]) if random.random() < 0.8 else 0)
        found.append(
            (
                {"width": SIDE, "height": SIDE, "img_id": image["id"]},
                {
                    "img_id": image["id"],
                    "bboxes": np.array(boxes, dtype=np.float32).reshape(-1, 4),
                    "scores": random.choice([0.2, 0.5, 0.9], len(boxes)).astype(np.float32),
                    "labels": np.array(labels, dtype=np.int64),
                    "masks": masks,
                },
            )
        )
    return found


def metric(annotations: Path, share: list[tuple[dict, dict]]):
    from mto.openmmlab.coco_metric import SharedCocoMetric

    made = SharedCocoMetric(annotations)
    made.dataset_meta = {"classes": tuple(f"class {n}" for n in sorted(CLASSES))}
    made.results = share
    return made


def mmdets(annotations: Path, everything: list[tuple[dict, dict]]) -> dict[str, float]:
    from mmdet.evaluation import CocoMetric

    content = json.loads(annotations.read_text())
    content["categories"].sort(key=lambda category: category["id"])  # mmdet's labels are places in the file's own order
    in_order = annotations.with_name("in_order.json")
    in_order.write_text(json.dumps(content))
    with quiet():
        reference = CocoMetric(ann_file=str(in_order), metric=["bbox", "segm"])
        reference.dataset_meta = {"classes": tuple(f"class {n}" for n in sorted(CLASSES))}
        return {f"coco/{name}": value for name, value in reference.compute_metrics(everything).items()}


@pytest.mark.parametrize("ranks", [1, 2, 3, 13])
@pytest.mark.parametrize("detected", [set(range(11)), {0, 5, 6}], ids=["everywhere", "in three images"])
def test_shares_of_the_images_give_mmdets_numbers(annotations, ranks, detected):
    """Of 13 ranks two see no image; of three images with detections most ranks have none."""
    everything = results(annotations, detected)
    want = mmdets(annotations, everything)
    parts = [metric(annotations, everything[rank::ranks]) for rank in range(ranks)]
    with quiet():
        got = parts[0].join([part.share() for part in parts])
    assert got == want
    assert len(got) == 12
    assert 0 < got["coco/bbox_mAP"] < 1
    assert 0 < got["coco/segm_mAP"] < 1


def test_no_detection_at_all_is_no_number(annotations):
    everything = results(annotations, set())
    assert mmdets(annotations, everything) == {}
    assert metric(annotations, everything).evaluate(11) == {}


@pytest.mark.parametrize("second", [slice(6, 11), slice(4, 11)], ids=["one is left out", "one is seen twice"])
def test_each_image_is_seen_once(annotations, second):
    everything = results(annotations, set(range(11)))
    parts = [metric(annotations, everything[share]) for share in (slice(5), second)]
    with quiet(), pytest.raises(RuntimeError, match="each once"):
        parts[0].join([part.share() for part in parts])


def _rank(rank: int, annotations: Path, rendezvous: Path) -> None:
    load_mmdet()
    torch.distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    part = metric(annotations, results(annotations, set(range(11)))[rank::2])
    (rendezvous.parent / str(rank)).write_text(json.dumps(part.evaluate(11)))
    torch.distributed.destroy_process_group()


def test_two_processes(annotations, tmp_path):
    torch.multiprocessing.spawn(_rank, (annotations, tmp_path / "rendezvous"), nprocs=2)
    got = [json.loads((tmp_path / str(rank)).read_text()) for rank in range(2)]
    assert got == [mmdets(annotations, results(annotations, set(range(11)))), {}]
