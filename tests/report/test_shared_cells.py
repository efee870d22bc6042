"""`mto.starts_at`: reports of runs with MTO whose first epochs are the run's without it."""

from __future__ import annotations

import json

import pytest
import yaml
from made_up_results import CONFIG, record

from mto.config import load
from mto.names import Step
from mto.report.metrics import Report
from mto.study.study import Study


@pytest.fixture(scope="module")
def warm() -> Study:
    return Study(load(yaml.safe_load(CONFIG.read_text()) | {"mto": {"starts_at": 100}}, scale="paper"))


def pretrain(run: str, epoch: int) -> Step:
    return Step("pretrain", run, 0, epoch)


def test_a_report_reads_the_shared_files(warm: Study, tmp_path) -> None:
    """And says the run by its own name."""
    job = warm.report_job("fig4_epochs")
    assert job["starts_at"]["mae-vitb-mto"] == 100
    assert "starts_at" not in Study(load(CONFIG, scale="paper")).report_job("fig4_epochs")
    report = Report(job, tmp_path)
    cells = {(cell.run, cell.epoch): cell for cell in report.cells}
    early, late = cells["mae-vitb-mto", 100], cells["mae-vitb-mto", 200]
    assert report.folder(early, 0) == tmp_path / "finetune/mae-vitb/seed0/epoch0100"
    assert report.folder(late, 0) == tmp_path / "finetune/mae-vitb-mto/seed0/epoch0200"
    for step in warm.steps("fig4_epochs") + warm.segments():
        (folder := tmp_path / step.folder).mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps(record(warm, *step)))
    assert report.values(early) == report.values(cells["mae-vitb", 100])
    assert report.curve("mae-vitb-mto", 0).keys() == {100, 200, 300, 400, 800}
    assert not report.missing


def test_the_cost_of_a_column_counts_what_it_shares(warm: Study, tmp_path) -> None:
    report = Report(warm.report_job("fig4_epochs"), tmp_path)
    steps = [Step("finetune", "mae-vitb-mto", 0, 200), pretrain("mae-vitb-mto", 200), pretrain("mae-vitb", 100)]
    for hours, step in zip((1.0, 10.0, 100.0), steps, strict=True):
        (folder := tmp_path / step.folder).mkdir(parents=True)
        said = record(warm, *step) | {"provenance": {"gpu_hours": hours}}
        (folder / "metrics.json").write_text(json.dumps(said))
    cells = [cell for cell in report.cells if (cell.run, cell.epoch) == ("mae-vitb-mto", 200)]
    assert report.gpu_hours(cells) == 111.0
