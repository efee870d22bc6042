"""The paper's claims by a study's own runs: each verdict follows from the seeds, and names the steps behind it."""

from __future__ import annotations

import json

import pytest
from test_page import BASE, answered

from mto.names import Step
from mto.report.page import measured
from mto.report.page.findings import Findings


def claims_of(tmp_path, cells, values, seeds=(0, 1)):
    """The claims of a study with these cells (name to [task, run, epoch]) and values (task, run, epoch to metrics)."""
    for (task, run, epoch), metrics in values.items():
        for seed in seeds:
            out = tmp_path / Step(task, run, seed, epoch).folder
            out.mkdir(parents=True)
            here = {name: value[seed] if isinstance(value, tuple) else value for name, value in metrics.items()}
            identity = {"scale": "demo", "task": task, "run": run, "seed": seed, "epoch": epoch}
            (out / "metrics.json").write_text(json.dumps({**identity, "metrics": here}))
    job = {"seeds": list(seeds), "pretrain_epochs": 8, "cells": cells}
    return {claim.claim: claim for claim in measured.claims(Findings(job, tmp_path))}


@pytest.mark.parametrize(
    ("with_mto", "verdict"), [((65.0, 64.0), "yes"), ((65.0, 61.0), "mixed"), ((63.0, 63.0), "no"), (None, "open")]
)
def test_a_probe_is_better_in_every_seed_or_in_some(tmp_path, with_mto, verdict):
    cells = {"table2_linear": [["linear", run, epoch] for run in ("mae-vitb", "mae-vitb-mto") for epoch in (4, 8)]}
    values = {("linear", "mae-vitb", 8): {"top1": (63.0, 63.0)}}
    if with_mto:
        values["linear", "mae-vitb-mto", 8] = {"top1": with_mto}
    found = claims_of(tmp_path, cells, values)
    claim = found["MAE ViT-B: linear probing after 8 epochs is better with MTO"]
    assert claim.verdict == verdict
    assert dict(claim.steps)["MAE ViT-B, epoch 8"] == "linear/mae-vitb/epoch0008"
    assert dict(claim.steps)["MAE ViT-B + MTO, epoch 8"] == "linear/mae-vitb-mto/epoch0008"
    assert found["MAE ViT-B: linear probing after 4 epochs with MTO highly surpasses its baseline"].verdict == "open"
    if verdict == "yes":
        assert claim.measured == "64.50 ± 0.71 against 63.00 ± 0.00: +1.50"


def test_half_the_epochs_match_where_they_are_equal_and_improve_only_where_higher(tmp_path):
    cells = {
        "tableS1_ade20k": [["ade20k", "mae-vitb", 8], ["ade20k", "mae-vitb-mto", 4], ["ade20k", "mae-vitb-mto", 8]]
    }
    values = {("ade20k", run, epoch): {"mIoU": 40.0} for _, run, epoch in cells["tableS1_ade20k"]}
    found = claims_of(tmp_path, cells, values)
    assert found["MAE ViT-B on ADE20K, mIoU: 4 epochs with MTO match 8 without"].verdict == "yes"
    assert found["MAE ViT-B on ADE20K, mIoU: MTO improves the converged performance"].verdict == "no"


def test_heterogeneity_has_to_fall_at_every_layer(tmp_path):
    cells = {"fig1_heterogeneity": [["heterogeneity", run, 8] for run in ("mae-vitb", "simmim-vitb")]}
    falling = {f"heterogeneity_{layer}": 2.0 - 0.1 * layer for layer in range(11)}  # ten is after nine
    values = {
        ("heterogeneity", "mae-vitb", 8): {**falling, "images": 8},
        ("heterogeneity", "simmim-vitb", 8): {**falling, "heterogeneity_10": 1.95},
    }
    kinds = {name.split(":")[0]: claim for name, claim in claims_of(tmp_path, cells, values).items()}
    assert kinds["MAE ViT-B"].verdict == "yes"
    assert kinds["SimMIM ViT-B"].verdict == "no"
    assert kinds["SimMIM ViT-B"].measured.startswith("2.00 to 1.95, lower in 9 of 10 steps")


def test_objectives_and_depths(tmp_path):
    subsets = {"_spa": 80.0, "_e": 81.0, "_spa_e": 80.5, "": 82.0}
    cells = {
        "table3_objectives": [["finetune", f"simmim-vitb-mto{name}", 4] for name in subsets],
        "figS2_decoder_depth": [["finetune", f"mae-vitb-mto-depth{depth}", 4] for depth in (1, 2, 8)],
    }
    values = {("finetune", f"simmim-vitb-mto{name}", 4): {"top1": value} for name, value in subsets.items()}
    values |= {("finetune", f"mae-vitb-mto-depth{depth}", 4): {"top1": 70.0 + depth % 5} for depth in (1, 2, 8)}
    found = claims_of(tmp_path, cells, values)
    assert found["All three objectives together are best"].verdict == "yes"
    contributes = found["Each objective contributes notably"]
    assert (contributes.verdict, contributes.measured) == ("mixed", "adding a term is better in 4 of 6 pairs of rows")
    pinnacle = next(claim for name, claim in found.items() if name.startswith("Fine-tuning"))
    assert (pinnacle.verdict, pinnacle.measured) == ("yes", "1: 71.00 ± 0.00; 2: 72.00 ± 0.00; 8: 73.00 ± 0.00")
    assert not any(name.startswith("Linear probing has") for name in found)  # no depth of 12 is planned


def test_epochs_and_rauc_follow_the_page_s_own_verdict(tmp_path):
    better = {1: 50.0, 2: 65.0, 4: 75.0, 8: 85.0}
    _, found = answered(tmp_path / "a", {("mae-vitb", 0): BASE, ("mae-vitb-mto", 0): better})
    found.job["cells"]["table1_rauc"] = found.job["cells"]["fig4_epochs"]
    told = {claim.claim: claim for claim in measured.claims(found)}
    saved = told["MAE ViT-B needs fewer epochs with MTO (the paper: 50 %)"]
    assert (saved.verdict, saved.measured) == ("yes", "25.0 % in one seed")
    assert saved.steps == (("fine-tuning of MAE ViT-B", "finetune/mae-vitb"),)
    ratio = told["MTO raises RAUC over the epochs that stand for the paper's 200 to 400"]
    assert (ratio.verdict, ratio.measured) == ("yes", "MAE ViT-B +100 % (paper: +29 %)")  # (5 + 15) / (0 + 10)
    _, lost = answered(tmp_path / "b", {("mae-vitb", 0): {**BASE, 0: 90.0}, ("mae-vitb-mto", 0): better})
    lost.job["cells"]["table1_rauc"] = lost.job["cells"]["fig4_epochs"]
    told = {claim.claim: claim.verdict for claim in measured.claims(lost)}
    assert told["MAE ViT-B needs fewer epochs with MTO (the paper: 50 %)"] == "void"
    assert told["MTO raises RAUC over the epochs that stand for the paper's 200 to 400"] == "open"
    assert told["MTO saves pre-training epochs for every baseline (the paper: approximately 50 %)"] == "open"
