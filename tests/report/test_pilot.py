"""The pilot's verdicts, and its table from made-up runs."""

from __future__ import annotations

import csv
import json

import pytest
from made_up_results import CONFIG

from mto.config import load
from mto.errors import UserError
from mto.names import Step
from mto.report.cli import main
from mto.study.study import Study

STUDY = Study(load(CONFIG, scale="demo"))
RUNS = ("simmim-vitb", "simmim-vitb-mto", "simmim-vitb-mto@text", "bootmae-vitb", "bootmae-vitb-mto")
WELL = {"constant_ratio": 0.7, "masked_cosine": 0.5, "modal_share": 0.5}
COLLAPSED = {"constant_ratio": 1.02, "masked_cosine": 1.0, "modal_share": 1.0}


def write(results, run, loss, signs, epochs=4.0):
    """A run of four epochs, in 4 rows an epoch; before the last epoch its loss is twice as high."""
    stream = "pixel/" if run.startswith("bootmae") else ""
    name = "loss_pixel" if stream else "loss_reconstruction"
    signs = {key if key == "constant_ratio" else f"{stream}{key}": value for key, value in signs.items()}
    out = results / Step("pilot", run, 0, 4).folder
    out.mkdir(parents=True, exist_ok=True)
    rows = [
        {"step": i, "epoch": i / 4, name: loss * (1 if i > 12 else 2), **signs} for i in range(1, int(epochs * 4) + 1)
    ]
    (out / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    record = {"scale": "demo", "task": "pretrain", "run": run, "seed": 0, "epoch": 4, "metrics": {"loss": loss}}
    made = {"gpu_hours": 3.0, "wall_seconds": 7200.0}
    (out / "metrics.json").write_text(json.dumps({**record, "provenance": made}))


def table(results, **warmups):
    """The rows of pilot.csv, by run."""
    runs = {run: warmups.get(run.split("-")[0], 1) for run in RUNS}
    job = STUDY.pilot_report_job() | {"runs": runs}
    main(["pilot", "--job", json.dumps(job), "--results", str(results)])
    with (results / "pilot" / "pilot.csv").open() as file:
        return {row["run"]: row for row in csv.DictReader(file)}


@pytest.fixture
def results(tmp_path):
    for run in RUNS:
        write(tmp_path, run, 0.5, WELL)
    return tmp_path


def verdicts(rows):
    return {run: row["verdict"] for run, row in rows.items() if row["verdict"]}


def test_a_run_like_the_one_without_mto_is_benign(results):
    write(results, "simmim-vitb-mto", 0.5 * 1.019, WELL)
    rows = table(results)
    assert verdicts(rows) == dict.fromkeys(("simmim-vitb-mto", "simmim-vitb-mto@text", "bootmae-vitb-mto"), "benign")
    row = rows["simmim-vitb-mto"]
    assert (float(row["loss"]), float(row["loss_without_mto"])) == pytest.approx((0.5095, 0.5))
    assert (float(row["gpu_hours"]), float(row["whole_gpu_hours"])) == (3.0, 6.0)  # 4 of the demo's 8 epochs
    assert (float(row["wall_hours"]), float(row["whole_wall_hours"])) == (2.0, 4.0)


def test_a_higher_loss_or_a_collapse_is_harm(results, capsys):
    write(results, "simmim-vitb-mto", 0.5 * 1.021, WELL)
    write(results, "simmim-vitb-mto@text", 0.5, COLLAPSED)
    write(results, "bootmae-vitb-mto", 0.5, COLLAPSED)
    assert set(verdicts(table(results)).values()) == {"harmful"}
    printed = capsys.readouterr().out
    assert "| SimMIM ViT-B | text | harmful | 0.500 | +0.0 % | 1.02 | 1.00 | 1.00 | 3.00 | 6.0 |" in printed
    assert (results / "pilot" / "pilot.md").read_text() in printed


def test_before_the_baseline_has_learnt_nothing_is_said(results):
    write(results, "simmim-vitb", 0.5, COLLAPSED)
    write(results, "simmim-vitb-mto", 5.0, COLLAPSED)
    assert verdicts(table(results))["simmim-vitb-mto"] == "too early to say"
    assert verdicts(table(results, bootmae=4))["bootmae-vitb-mto"] == "too early to say"  # the rate rose to the end


@pytest.mark.parametrize("content", ['{"step": 1, "epo', ""])
def test_a_damaged_history_is_one_line(results, content):
    path = results / Step("pilot", "simmim-vitb-mto", 0, 4).folder / "history.jsonl"
    path.write_text(content)
    with pytest.raises(UserError, match=r"history\.jsonl: (damaged|empty).* remove .* and run again"):
        table(results)
