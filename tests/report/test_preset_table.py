"""The table of presets: each value in its place, and nothing where nobody asks."""

from __future__ import annotations

import csv
import json

import pytest
from made_up_results import CONFIG

from mto.config import load
from mto.config.study_plan import Presets
from mto.errors import UserError
from mto.names import BASELINES, Run, Step
from mto.report.cli import main
from mto.report.metrics import Report
from mto.report.preset_table import table_presets
from mto.study.study import PRESETS, Study

VALUES = {
    "finetune": 90.0,
    "linear": 80.0,
    "loss": 0.5,
    "constant_ratio": 0.7,
    "masked_cosine": 0.6,
    "modal_share": 0.4,
}


@pytest.fixture
def asked(tmp_path):
    """A study of two seeds that asks for two baselines and two presets, and its results: of a run and seed, a shift."""
    config = load(CONFIG, scale="demo")
    plan = Presets.model_validate(
        {"baselines": ["mae-vitb", "bootmae-vitb"], "presets": ["cosine", "text"], "epochs": [8]}
    )
    config = config.model_copy(
        update={
            "seeds": [0, 1],
            "study": config.study.model_copy(update={"table_presets": plan, "from_scratch": False}),
        }
    )
    study = Study(config)
    runs = list(dict.fromkeys(cell.run for cell in study.cells(PRESETS)))
    for number, run in enumerate(runs):
        parsed = Run.parse(run)
        stream = "pixel/" if parsed.baseline == "bootmae" else ""
        names = {"loss": BASELINES[parsed.baseline].loss} | {
            n: f"{stream}{n}" for n in ("masked_cosine", "modal_share")
        }
        for seed in (0, 1):
            shifted = {name: value + number / 100 + seed / 50 for name, value in VALUES.items()}
            made = {names.get(n, n): v for n, v in shifted.items() if n not in ("finetune", "linear")}
            for task in ("finetune", "linear", "pretrain"):
                identity = {"scale": "demo", "task": task, "run": run, "seed": seed, "epoch": 8}
                out = tmp_path / Step(task, run, seed, 8).folder
                out.mkdir(parents=True)
                metrics = made if task == "pretrain" else {"top1": shifted[task]}
                (out / "metrics.json").write_text(json.dumps({**identity, "metrics": metrics}))
    return study, tmp_path


def test_every_value_stands_in_its_row(asked):
    study, results = asked
    job = study.report_job(PRESETS)
    main(["table", "--job", json.dumps(job), "--results", str(results)])
    with (results / "tables" / "table_presets.csv").open() as file:
        records = list(csv.DictReader(file))
    runs = list(dict.fromkeys(record["run"] for record in records))
    assert runs == [f"{b}-vitb{mto}" for b in ("mae", "bootmae") for mto in ("", "-mto", "-mto@text")]
    for record in records:
        name = record["metric"].split("/")[0 if "top1" in record["metric"] else -1]
        value = VALUES["loss" if name.startswith("loss_") else name] + runs.index(record["run"]) / 100 + 0.01
        assert float(record["mean"]) == pytest.approx(value)
        assert record["seeds"] == "2"
    assert len(records) == 6 * 6
    rows = table_presets(Report(job, results)).rows
    assert [row[1] for row in rows] == ["without", "cosine", "text"] * 2
    assert rows[2][3:7] == ["90.03 ± 0.01", "80.03 ± 0.01", "0.530 ± 0.014", "0.730 ± 0.014"]


def test_what_is_missing_is_said(asked):
    study, results = asked
    (results / Step("pretrain", "mae-vitb-mto@text", 1, 8).folder / "metrics.json").unlink()
    sheet = table_presets(Report(study.report_job(PRESETS), results))
    assert sheet.rows[2][-1] == "1"
    assert any("mae-vitb-mto@text" in note for note in sheet.notes)


def test_nobody_asks_by_default():
    study = Study(load(CONFIG, scale="demo"))
    assert PRESETS not in study.tables
    with pytest.raises(UserError, match=r"study\.table_presets is null at scale demo"):
        study.report_job(PRESETS)
