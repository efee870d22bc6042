"""Damaged files of earlier jobs, and arguments that mean nothing: one line each, which names the file.

A row's number is that of the list of bad inputs that people were found to give.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mto.__main__ import main
from mto.config import load
from mto.errors import UserError
from mto.names import Step
from mto.report import metrics, profiles
from mto.report.figures import fig2_affinity
from mto.study.study import Study
from mto.tasks.build import build_method
from mto.tasks.released import import_checkpoint
from tasks.tiny import heterogeneity_job, make_images, pretrain_job, run
from typed_jobs import typed


# ------------------------------------------------------------------------------------------------ files of other jobs
@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a heterogeneity job."""
    folder = tmp_path_factory.mktemp("analysis")
    images = make_images(folder / "images")
    pretrained = run(pretrain_job(images, "bootmae", epoch=1), folder / "pretrained")
    return run(heterogeneity_job(images, "bootmae"), folder / "out", method=pretrained / "state.pth")


@pytest.mark.parametrize("seed", range(20))
def test_a_cut_table_is_refused(analysis: Path, tmp_path: Path, seed: int) -> None:
    """Row 23: at any byte, even where what is left are whole images."""
    content = (analysis / "heterogeneity.csv").read_bytes()
    assert b"\r" not in content
    (tmp_path / "metrics.json").write_bytes((analysis / "metrics.json").read_bytes())
    (tmp_path / "heterogeneity.csv").write_bytes(content)
    whole = profiles.read(tmp_path)
    image = content.index(next(line for line in content.splitlines() if line.split(b",")[3] == b"3"))
    cuts = [image, len(content) - 1, *np.random.default_rng(seed).integers(len(content), size=5)]
    for cut in cuts:
        (tmp_path / "heterogeneity.csv").write_bytes(content[:cut])
        with pytest.raises(UserError, match=rf"^{tmp_path}/heterogeneity.csv: .*delete it and run"):
            profiles.read(tmp_path)
    assert whole["image"].nunique() == 5


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9, 0.999])
def test_cut_maps_are_refused(analysis: Path, tmp_path: Path, keep: float) -> None:
    """Row 23."""
    content = (analysis / "affinity.npz").read_bytes()
    assert fig2_affinity.read(analysis)
    (tmp_path / "affinity.npz").write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(UserError, match=r"affinity.npz: not an npz file .*delete it"):
        fig2_affinity.read(tmp_path)


RECORD = {"scale": "demo", "task": "finetune", "run": "mae-vitb", "seed": 0, "epoch": 8, "metrics": {"top1": 50.0}}
METRICS = [
    ("33", {"metrics": {"top1": 500}}, "metrics.top1 is in percent, and not 500"),
    ("33", {"metrics": {"top1": -100.0}}, "metrics.top1 is in percent, and not -100"),
    ("33", {"metrics": {"top1": float("nan")}}, "not JSON (NaN is no number)"),
    ("33", {"metrics": {"top1": float("inf")}}, "not JSON (Infinity is no number)"),
    ("34", {"scale": "paper"}, "scale is 'paper', but its folder says 'demo'"),
    ("34", {"seed": 1}, "seed is 1, but its folder says 0"),
]


@pytest.mark.parametrize(("row", "change", "expected"), METRICS, ids=[f"{r[0]}-{r[1]}" for r in METRICS])
def test_impossible_values_and_other_studies(tmp_path: Path, row: str, change: dict[str, Any], expected: str) -> None:
    cell = metrics.Cell("finetune", "mae-vitb", 8, "top1")
    report = metrics.Report({"name": "x", "scale": "demo", "cells": []}, tmp_path)
    file = report.folder(cell, 0) / "metrics.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(RECORD | change))
    with pytest.raises(UserError) as caught:
        report.value(cell, 0)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{file}: ")
    assert expected in line


def test_results_of_several_commits_are_noted(tmp_path: Path) -> None:
    """Row 34."""
    report = metrics.Report({"name": "x", "scale": "demo", "cells": []}, tmp_path)
    for epoch, commit in ((4, "a" * 40), (8, "a" * 40), (12, "b" * 40)):
        cell = metrics.Cell("finetune", "mae-vitb", epoch, "top1")
        file = report.folder(cell, 0) / "metrics.json"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(RECORD | {"epoch": epoch, "provenance": {"commit": commit}}))
        assert report.value(cell, 0) == 50.0
        notes = report.commit_notes
    assert notes == ["measured by 2 commits of the code: 2 at aaaaaaaaaaaa, 1 at bbbbbbbbbbbb; results.csv says which."]


# ---------------------------------------------------------------------------------------------------------- arguments
def step(task: str) -> dict[str, Any]:
    return Study(load("config.yaml", scale="demo")).job(Step(task, "mae-vitb", 0, 8)).plain()


ARGUMENTS = [
    ("33", ["pretrain", "--job", "{}", "--out", "OUT"], "--job: lacks scale, recipe, run, baseline"),
    ("33", ["data", "--job", "{}", "--out", "OUT"], "--job: lacks scale, dataset, root, num_classes, make"),
    ("33", ["pretrain", "--job", "[]", "--out", "OUT"], "--job: must be a JSON object"),
    ("33", ["released", "OUT/x.safetensors", "--run", "mae-vitb", "--scale", "demo"], "not a safetensors file"),
    ("33", ["released", "OUT/none.safetensors", "--run", "mae-vitb", "--scale", "demo"], "no such file"),
    ("34", ["report", "table", "--job", "{}", "--results", "OUT", "--out", "OUT"], "no such table: None"),
    ("-", ["verify", "imagnet"], "no such dataset: imagnet (allowed: imagenet, ade20k, coco)"),
]


@pytest.mark.parametrize(("row", "arguments", "expected"), ARGUMENTS, ids=[a[1][0] + a[2][:12] for a in ARGUMENTS])
def test_arguments_that_mean_nothing(
    tmp_path: Path, capfd, monkeypatch, row: str, arguments: list[str], expected: str
) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"\x10\x00\x00")
    shutil.copy("config.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)  # this checkout may have results
    assert main([a.replace("OUT", str(tmp_path)) for a in arguments]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("mto: error: ")
    assert expected in line


def test_a_checkpoint_may_be_safetensors(tmp_path: Path) -> None:
    job = step("pretrain")
    weights = build_method(typed(job).method, 7).encoder.state_dict()
    save_file({name: value.contiguous() for name, value in weights.items()}, tmp_path / "mae.safetensors")
    import_checkpoint(tmp_path / "mae.safetensors", typed(job), tmp_path / "run")
    from safetensors.torch import load_file

    taken = load_file(tmp_path / "run/encoder.safetensors")
    assert all(torch.equal(taken[name], value) for name, value in weights.items())


# ------------------------------------------------------------------------------------------------------- a plain client
def test_a_config_file_of_mmdetections_can_name_the_weights(tmp_path: Path) -> None:
    from mto.methods.encoder import build_encoder
    from mto.openmmlab.backbone import PlainViT

    encoder = {"baseline": "mae", "img_size": 24, "patch_size": 4, "embed_dim": 16, "depth": 4, "num_heads": 2}
    shape: dict[str, Any] = {"encoder": encoder, "image_size": 24, "out_indices": [0, 1, 2, 3], "norm": "group"}
    weights = build_encoder(**encoder).state_dict()
    path = tmp_path / "encoder.safetensors"
    save_file({name: value.contiguous() for name, value in weights.items()}, path)
    given = PlainViT(**shape, weights=weights).blocks.state_dict()
    others = [PlainViT(**shape, weights=str(path))]
    others.append(PlainViT(**shape, init_cfg={"type": "Pretrained", "checkpoint": str(path)}))
    for other in others:
        assert all(torch.equal(other.blocks.state_dict()[name], value) for name, value in given.items())
    with pytest.raises(ValueError, match="only without weights"):
        PlainViT(**shape, weights=weights, init_cfg={"type": "Pretrained", "checkpoint": str(path)})


def test_mmdetections_own_tools_run_over_the_bridge(tmp_path: Path, monkeypatch, capfd) -> None:
    """In a process of its own, as its tools import mmcv's operators before they read a config."""
    import subprocess

    script = tmp_path / "train.py"
    script.write_text("import sys\nimport mmcv.ops\nfrom mmengine.registry import MODELS\n"
                      "print(mmcv.ops.nms.__name__, MODELS.get('PlainViT').__name__, sys.argv[1:])\n")  # fmt: skip
    command = [sys.executable, "-m", "mto.openmmlab", str(script), "config.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "nms PlainViT ['config.py']"
