"""`python -m mto plan` and `preflight`: what is printed and written, and mistakes in one line."""

import csv
import json
from pathlib import Path

import pytest
from round_numbers import count

from mto.cost import cli, preflight
from mto.errors import UserError


@pytest.fixture(autouse=True)
def _round_numbers(monkeypatch):
    monkeypatch.setattr("mto.bench.counting.count", count)


def test_the_plan_is_printed_and_written(study, capsys):
    plan = study(plan={"gpus": 16})
    Path(plan.results).mkdir(parents=True)
    cli.main(["--config", json.dumps({"scale": "paper", "plan": {"gpus": 16}})])
    printed = capsys.readouterr().out
    assert printed.strip() == Path(plan.results, "plan.md").read_text().strip()
    assert printed.startswith("# The plan of scale paper, on 16 x a100")
    for card in ("rtx3090", "a100", "h100"):  # the whole, on each; a core is no such card
        assert f"\n| {card} | " in printed
    assert "\n| cpu |" not in printed
    with Path(plan.results, "plan.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert all(value for row in rows for value in row.values())
    named = {(row["kind"], row["part"]) for row in rows}
    assert {("stage", "coco"), ("method", "conmim"), ("backbone", "vitl"), ("table", "table1_rauc")} <= named
    whole = rows[-1]
    assert float(whole["cost"]) == pytest.approx(1.79 * float(whole["gpu_hours"]), rel=1e-4)
    assert whole["basis"] == "counted"


def test_a_study_from_scratch_too_has_a_plan(study):
    rows = {row["part"]: row for row in cli.plan(study("mini")).rows}
    assert "coco" not in rows  # whose table this scale does not make
    found = cli.plan(study("mini")).costs
    scratch = [cost for step, cost in found.items() if step.epoch == 0]
    assert scratch
    later = {(step.task, step.run): cost.gpu_hours for step, cost in found.items() if step.epoch}
    assert all(cost.gpu_hours == later[cost.step.task, cost.step.run] for cost in scratch)


def test_overrides_show_their_effect(study):
    def hours(**keys):
        rows = cli.plan(study(**keys)).rows
        return {row["part"]: row["gpu_hours"] for row in rows}

    base = hours()
    twice = hours(seeds=[0, 1])
    assert all(twice[part] == pytest.approx(2 * value) for part, value in base.items())
    short = hours(study={"tableS2_coco": {"baselines": ["mae-vitb"]}})
    assert short["coco"] == pytest.approx(base["coco"] / 3)
    assert short["pretrain"] == base["pretrain"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("{", "--config: not JSON"),
        ("[1]", "--config: must be a JSON object"),
        (
            '{"scale": "paper", "plan": {"card": "v100"}}',
            r"plan: card: no such card: 'v100' \(plan.cards has: rtx3090, a100, h100, cpu\)",
        ),
        (
            '{"plan": {"cards": {"a100": {"utilisation": 30}}}}',
            r"plan.cards.a100.utilisation: .* less than or equal to 1",
        ),
    ],
)
def test_mistakes_are_one_line(study, given, message):
    study()
    with pytest.raises(UserError, match=message) as caught:
        cli.main(["--config", given])
    assert "\n" not in str(caught.value)


# ----------------------------------------------------------------------------------------------------------- preflight
def test_a_stage_is_measured_by_its_methods_and_backbones(study):
    plan = study()
    runs = [job["run"] for job in preflight.job(plan, "pretrain").plain()["jobs"]]
    plain = ("simmim-vitb", "mae-vitb", "mae-vitl", "bootmae-vitb", "conmim-vitb")
    assert sorted(runs) == sorted(f"{run}{mto}" for run in plain for mto in ("", "-mto"))
    assert len(preflight.job(plan, "finetune").plain()["jobs"]) == 5
    assert len(preflight.job(plan, "coco").plain()["jobs"]) == 3
    assert preflight.job(plan, "linear").plain()["images"] == {
        "root": "data/imagenet",
        "num_classes": 1000,
        "side": [500, 375],
    }


def test_the_datasets_that_the_study_reads_are_looked_at(study, tmp_path):
    for place in ("train/a", "train/b", "train/other", "val/a", "val/b", "val/other"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "0.png").touch()
    keys = {"root": str(tmp_path), "num_classes": 2, "classes": ["a", "b"]}
    some = study(study={"tableS1_ade20k": None, "tableS2_coco": None}, datasets={"imagenet": keys})
    assert preflight._datasets(some) == [f"imagenet: complete at {tmp_path}"]
    assert preflight.job(some, "linear").plain()["images"] == {**keys, "side": [500, 375]}


def measured(plan, device, rows):
    """Leave what a preflight of pre-training leaves."""
    machine = {"device": device, "gpus": 8, "visible_gpus": 8, "peak_tflops": 250.0}
    folder = Path(plan.results, "preflight")
    folder.mkdir(parents=True)
    found = {"stage": "pretrain", "machine": machine, "images": "data/imagenet", "rows": rows}
    (folder / "pretrain.json").write_text(json.dumps(found))


ROW = {"run": "mae-vitb", "task": "pretrain", "micro_batch": 64, "images_per_second": 900.0, "fits": 512}
ROW |= {"baseline": "mae", "backbone": "vitb", "mto": {"terms": []}, "key": "{}", "train_flops": 60e9}
ROW |= {"step_images_per_second": 950.0, "both_images_per_second": 900.0, "workers": 11, "compiled": "no: fell back"}


def test_what_was_measured_is_shown_with_datasets_and_disk(study, capsys):
    plan = study()
    lost = {"run": "mae-vitl", "task": "pretrain", "error": "out of memory at micro-batch 64"}
    smaller = lost | {"run": "mae-vitl-mto", "fits": 16, "fits_images_per_second": 412.3}
    measured(plan, "NVIDIA A100-SXM4-80GB", [ROW, lost, smaller])
    preflight.main(["--show", "--config", '{"scale": "paper"}'])
    printed = capsys.readouterr().out
    assert "pretrain: NVIDIA A100-SXM4-80GB (8 visible, 8 a job), 250 TFLOP/s" in printed
    assert "| mae-vitb | pretrain | 64 | 900 | no: fell back | 512 |" in printed
    assert "- mae-vitl, pretrain: out of memory at micro-batch 64\n" in printed
    assert "- mae-vitl-mto, pretrain: out of memory at micro-batch 64; 16 fits, 412 images/s\n" in printed
    assert "measured again with `--forcerun preflight_stage`" in printed
    assert "imagenet: datasets.imagenet.root: no complete ImageNet-1K at data/imagenet" in printed
    assert "GB wanted for what is left" in printed
    assert "preflight, scaled" in printed  # the plan below it takes what was measured
    assert "plan.card" not in printed.partition("# The plan")[0]
    assert Path(plan.results, "preflight.md").read_text() in printed


@pytest.mark.parametrize(
    ("device", "card"), [("NVIDIA H100 80GB HBM3", "h100"), ("NVIDIA L40S", "a100"), ("NVIDIA A100-PCIE-40GB", "a100")]
)
def test_the_plan_below_is_that_of_the_card_that_was_measured_where_it_is_known(study, capsys, device, card):
    measured(study(), device, [ROW])
    preflight.main(["--show", "--config", '{"scale": "paper"}'])
    above, _, below = capsys.readouterr().out.partition("# The plan")
    assert below.startswith(f" of scale paper, on 8 x {card}")
    assert ("preflight" in below.partition("\n\n")[2].partition("\n\n")[0]) == (card in device.lower())
    assert ("that of h100, which was measured; `plan.card` in config.yaml is a100" in above) == (card == "h100")
