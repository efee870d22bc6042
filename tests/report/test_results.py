"""metrics.json files: read with checks, and gathered into results.csv."""

import json
from pathlib import Path

import pandas as pd
import pytest

from mto.config.reading import load
from mto.errors import UserError
from mto.report import metrics
from mto.report.cli import main
from mto.report.labels import run_name
from mto.study import report_jobs as jobs
from mto.study.study import Study

ROOT = Path(__file__).parents[2]
GOOD = {
    **{"task": "finetune", "scale": "demo", "run": "mae-vitb-mto-depth2", "seed": 1, "epoch": 8},
    "metrics": {"top1": 91.5, "top5": None},
    "provenance": {"commit": "abc", "device": "cpu", "wall_seconds": 3.5, "gpu_hours": 0.0, "images_per_second": 7.0},
}


def write(path, record):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))
    return path


def test_results_csv_is_tidy_and_independent_of_order(tmp_path):
    other = {**GOOD, "task": "pretrain", "run": "simmim-vitb", "metrics": {"loss": 0.5}}
    paths = [write(tmp_path / name, record) for name, record in (("a.json", GOOD), ("b.json", other))]
    main(["results", "--out", str(tmp_path / "one.csv"), *map(str, paths)])
    main(["results", "--out", str(tmp_path / "two.csv"), *map(str, reversed(paths))])
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()
    table = pd.read_csv(tmp_path / "one.csv")
    assert tuple(table.columns) == metrics.COLUMNS
    table = table.set_index("metric")
    assert table.loc["top1", ["value", "mto", "terms", "decoder_depth", "seed"]].tolist() == [
        91.5,
        True,
        "spa+e+r",
        2,
        1,
    ]
    assert pd.isna(table.loc["top5", "value"])
    assert table.loc["loss", ["baseline", "backbone", "mto", "commit"]].tolist() == ["simmim", "vitb", False, "abc"]


def test_results_from_a_folder_and_from_a_list_file(tmp_path):
    path = write(tmp_path / "demo/finetune/mae-vitb-mto-depth2/seed1/epoch0008/metrics.json", GOOD)
    write(tmp_path / "demo/pilot/mae-vitb-mto-depth2/seed1/epoch0008/metrics.json", GOOD)  # none of the study's
    (tmp_path / "list").write_text(f"{path}\n")
    main(["results", "--out", str(tmp_path / "one.csv"), "--from-dir", str(tmp_path / "demo")])
    main(["results", "--out", str(tmp_path / "two.csv"), f"@{tmp_path / 'list'}"])
    assert (tmp_path / "one.csv").read_text() == (tmp_path / "two.csv").read_text()
    assert len(pd.read_csv(tmp_path / "one.csv")) == 2


def test_results_of_the_steps_that_a_job_names(tmp_path):
    step = "finetune/mae-vitb-mto-depth2"
    for seed in (0, 1, 2):
        write(tmp_path / f"demo/{step}/seed{seed}/epoch0008/metrics.json", {**GOOD, "seed": seed})
    job = {"mto": "mine", "seeds": [0, 2], "steps": [["finetune", "mae-vitb-mto-depth2", 8]]}
    main(["results", "--out", str(tmp_path / "x.csv"), "--from-dir", str(tmp_path / "demo"), "--job", json.dumps(job)])
    table = pd.read_csv(tmp_path / "x.csv")
    assert set(table.seed) == {0, 2}
    assert set(table.preset) == {"mine"}


def test_a_job_of_results_is_short_and_names_every_step():
    study = Study(load(ROOT / "config.yaml", scale="paper"))
    job = jobs.results_job(study)
    named = {(task, run, seed, epoch) for task, run, epoch in job["steps"] for seed in job["seeds"]}
    assert named == {tuple(step) for step in study.segments() + study.steps()}
    many = Study(study.config.model_copy(update={"seeds": list(range(100))}))
    assert len(json.dumps(jobs.results_job(many))) < 30_000


def test_results_of_nothing_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"no metrics\.json given or found"):
        main(["results", "--out", str(tmp_path / "x.csv"), "--from-dir", str(tmp_path)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "lacks scale, task, run, seed, epoch, metrics"),
        (json.dumps({**GOOD, "metrics": {"top1": "high"}}), r"metrics\.top1 must be a number, not 'high'"),
        (json.dumps({**GOOD, "metrics": {"top1": True}}), r"metrics\.top1 must be a number"),
    ],
)
def test_a_bad_file_is_named(tmp_path, text, message):
    path = tmp_path / "metrics.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        metrics.read(path)
    assert str(error.value).startswith(str(path))


JOB = {
    **{"name": "x", "scale": "demo", "recipe": "paper", "seeds": [1], "pretrain_epochs": 8, "plan": {}},
    "cells": [{"task": "finetune", "run": "mae-vitb-mto-depth2", "epoch": 8, "metric": "top1"}],
}


def test_a_cell_reads_its_own_file(tmp_path):
    report = metrics.Report(JOB, tmp_path)
    path = report.folder(report.cells[0], 1) / "metrics.json"
    assert report.values(report.cells[0]) == []  # not there yet: left out, and remembered
    assert list(report.missing) == ["finetune/mae-vitb-mto-depth2/seed1/epoch0008"]
    report = metrics.Report(JOB, tmp_path)
    write(path, GOOD)
    assert report.values(report.cells[0]) == [91.5]
    assert report.curve("mae-vitb-mto-depth2", 1) == {8: 91.5}
    with pytest.raises(UserError, match=r"no metric 'top2' \(it has: top1, top5\)"):
        report.value(report.cells[0]._replace(metric="top2"), 1)


def test_another_step_s_file_is_refused(tmp_path):
    report = metrics.Report(JOB, tmp_path)
    write(report.folder(report.cells[0], 1) / "metrics.json", {**GOOD, "epoch": 4})
    with pytest.raises(UserError, match="epoch is 4, but its folder says 8"):
        report.values(report.cells[0])


@pytest.mark.parametrize(("epochs", "epoch", "paper"), [(8, 4, 400), (8, 1, 100), (800, 300, 300), (3, 1, 267)])
def test_paper_epoch(tmp_path, epochs, epoch, paper):
    assert metrics.Report({**JOB, "pretrain_epochs": epochs}, tmp_path).paper_epoch(epoch) == paper


def test_the_folder_is_the_plan_s(demo):
    study, results = demo
    step = study.steps()[0]
    assert (results / step.folder).as_posix().endswith(study.folder(step))


@pytest.mark.parametrize(
    ("run", "name"),
    [
        ("mae-vitb", "MAE ViT-B"),
        ("mae-vitb-mto-depth2", "MAE ViT-B + MTO"),
        ("mae-vitl-mto@text", "MAE ViT-L + MTO@text"),
        ("simmim-vitb-mto_spa_e@as_printed", "SimMIM ViT-B + MTO@as_printed (spa, e)"),
    ],
)
def test_how_a_run_is_called(run, name):
    assert run_name(run) == name


@pytest.mark.parametrize(
    ("run", "unknown", "known"),
    [("mae-vitb-mto@text", "text", "text"), ("mae-vitb-mto", None, "cosine"), ("mae-vitb", None, None)],
)
def test_a_preset_is_a_column_of_its_own(run, unknown, known):
    """That of a run whose name says none is the default, where a job tells it."""
    assert {row["preset"] for row in metrics.rows(GOOD | {"run": run})} == {unknown}
    assert {row["preset"] for row in metrics.rows(GOOD | {"run": run}, "cosine")} == {known}
