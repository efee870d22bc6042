"""The dense tasks' backbones against the official ones: the four feature maps, in float32 and float64.

Each case of `official/backbone.json` holds what the official backbone gave on CPU (torch 2.15) at the commit it names,
in eval mode, in float64, on two formula images, rounded to 8 digits: of each map the shape, mean, standard deviation
and 12 entries. `arguments` are our job's. The backbone was built as its configuration does, but small, and its own code
(with SciPy 1.13, the last that has `interp2d`) loaded a file with `formula.weight` of each entry of our encoder, whose
positions and relative tables it had to move to other grids. What is new (the pyramid, and LayerScale and tables where
pre-training brings none) took `formula.weight` of its name here. Stand-ins supplied what it imports of mmcv, mmseg and
detectron2.

SimMIM has no case: official maps of its encoder are ConMIM's to the last bit.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import formula
from mto.config import load
from mto.methods.encoder import build_encoder
from mto.names import Step
from mto.openmmlab.backbone import PlainViT
from mto.openmmlab.libraries import load_mmdet, load_mmseg, quiet
from mto.study.study import Study
from typed_jobs import typed

CONFIG = Path(__file__).parents[2] / "config.yaml"
OFFICIAL = json.loads((Path(__file__).parent / "official" / "backbone.json").read_text())


def task_backbone(task: str, baseline: str, arguments: dict[str, Any]) -> PlainViT:
    """The backbone of the model that a task builds: it depends on `arguments` alone, the heads on config.yaml."""
    if task == "ade20k":
        load_mmseg()
        from mto.openmmlab.upernet import build_model
    else:
        load_mmdet()
        from mto.openmmlab.maskrcnn import build_model
    job = Study(load(CONFIG, scale="paper")).job(Step(task, f"{baseline}-vitb", 0, 800)).plain()
    encoder = build_encoder(**arguments["encoder"]).state_dict()
    weights = {key: formula.weight(key, value) for key, value in encoder.items()}
    with quiet():
        return build_model(typed(job | arguments), weights).backbone


@pytest.mark.parametrize(("task", "baseline"), [(task, name) for task in OFFICIAL for name in OFFICIAL[task]])
def test_features_of_the_official_backbones(task: str, baseline: str) -> None:
    want = OFFICIAL[task][baseline]
    model = task_backbone(task, baseline, want["arguments"]).eval()
    # ConMIM's LayerScale and tables are pre-trained: the backbone must have loaded them itself.
    new = ("pyramid",) if baseline == "conmim" else ("pyramid", "gamma", "table")
    for key, value in model.state_dict().items():
        if any(word in key for word in new):
            value.copy_(formula.weight(key, value))
    images = formula.images("images", 2, model.grid[0] * model.patch_size)
    # Between their own float32 and float64 the official maps, of values up to 15, move by up to 6.5e-6. In float64 they
    # equal ours to 14 digits, save where MIMDet makes positions anew: its sines are float32, which moves maps by 8e-7.
    # Only float64 is fine enough to tell the epsilon of a single norm.
    exact = 1e-6 if task == "coco" and baseline != "conmim" else 1e-7
    for dtype, rtol, atol in ((torch.float32, 1e-5, 1e-5), (torch.float64, 1e-7, exact)):
        with torch.no_grad():
            maps = model.to(dtype)(images.to(dtype))
        for level, (got, official) in enumerate(zip(maps, want["maps"], strict=True)):
            assert list(got.shape) == official["shape"]
            got = got.double()
            places = ((formula.uniform(f"map {level}", 12).double() + 1) / 2 * got.numel()).long()
            for name, values in (("entries", got.flatten()[places]), ("mean", got.mean()), ("std", got.std())):
                expected = torch.tensor(official[name], dtype=torch.float64)
                torch.testing.assert_close(values, expected, rtol=rtol, atol=atol)
