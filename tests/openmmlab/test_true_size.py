"""ViT-B at the paper's size: one training step and one evaluation of each dense task, at most 24 GB on a CPU.

Run with ``pytest -m slow -s tests/openmmlab/test_true_size.py``, alone on the machine; one test at a time for its peak.
"""

import json
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from PIL import Image

from mto.config import load
from mto.names import Step
from mto.openmmlab.libraries import load_mmdet, load_mmseg
from mto.study.study import Study
from typed_jobs import typed

pytestmark = pytest.mark.slow
CONFIG = Path(__file__).parents[2] / "config.yaml"


def paper_job(task: str, run: str, root: Path) -> dict[str, Any]:
    job = Study(load(CONFIG, scale="paper")).job(Step(task, run, 0, 800)).plain()
    job["data"]["root"] = str(root)
    return job


def train_and_test(name: str, model: torch.nn.Module, batch_size: int, train_set: Any, val_set: Any) -> Any:
    """One step of a batch, then one image; returns the prediction and says what it cost."""
    started = time.perf_counter()
    batch = model.data_preprocessor(pseudo_collate([train_set[0] for _ in range(batch_size)]), training=True)
    loss, _ = model.train().parse_losses(model(**batch, mode="loss"))
    loss.backward()
    torch.optim.AdamW(model.parameters(), lr=1e-4).step()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    trained = time.perf_counter()
    with torch.no_grad():
        prediction = model.eval().val_step(pseudo_collate([val_set[0]]))[0]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    tested = time.perf_counter() - trained
    print(
        f"\n{name}: {millions:.1f} M parameters, step {trained - started:.0f} s, image {tested:.0f} s, "
        f"peak {peak:.1f} GB"
    )
    assert peak < 24
    return prediction


def noise(path: Path, height: int, width: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((width, height)).save(path)
    return path


def test_upernet_at_512(tmp_path):
    load_mmseg()
    from mto.openmmlab.upernet import build_dataset, build_model

    for split in ("training", "validation"):
        noise(tmp_path / "images" / split / "a.jpg", 512, 683)
        labels = np.random.default_rng(1).integers(0, 151, (32, 43), dtype=np.uint8).repeat(16, 0).repeat(16, 1)
        (tmp_path / "annotations" / split).mkdir(parents=True)
        Image.fromarray(labels[:, :683]).save(tmp_path / "annotations" / split / "a.png")
    job = paper_job("ade20k", "mae-vitb", tmp_path)
    data = (build_dataset(typed(job), split) for split in ("training", "validation"))
    # Two, as on each of the recipe's eight GPUs: UPerNet's 1 x 1 pooling has no batch statistics of one image.
    sample = train_and_test("UPerNet, ViT-B, 512, batch 2", build_model(typed(job), None), 2, *data)
    assert sample.pred_sem_seg.shape == (512, 683)
    assert sample.pred_sem_seg.data.max() < 150


def test_mask_rcnn_at_1024(tmp_path):
    load_mmdet()
    from mto.openmmlab.maskrcnn import build_dataset, build_model

    boxes = [[20, 30, 200, 150], [300, 100, 120, 300], [50, 250, 60, 80]]
    annotations = [
        {"id": k + 1, "image_id": 1, "category_id": k + 1, "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0}
        | {"segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]]}
        for k, (x, y, w, h) in enumerate(boxes)
    ]
    (tmp_path / "annotations").mkdir()
    for split in ("train2017", "val2017"):
        noise(tmp_path / split / "1.jpg", 480, 640)
        content = {
            "images": [{"id": 1, "file_name": "1.jpg", "height": 480, "width": 640}],
            "annotations": annotations,
            "categories": [{"id": k + 1, "name": f"class {k}"} for k in range(80)],
        }
        (tmp_path / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    job = paper_job("coco", "conmim-vitb", tmp_path)
    data = (build_dataset(typed(job), split) for split in ("train2017", "val2017"))
    sample = train_and_test("Mask R-CNN, ViT-B, 1024, batch 1", build_model(typed(job), None), 1, *data)
    assert sample.pred_instances.masks.shape[1:] == (480, 640)
