"""The guard on the demo's own jobs: it stops the preset that destroys SimMIM, and no run that learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny import run

from mto.config import load
from mto.losses.collapsed import collapsed
from mto.names import Step
from mto.study.study import Study
from mto.tasks import data
from mto.tasks.pretrain import build_guard
from mto.tasks.task import Task
from mto.training.log import read_history
from mto.training.watch import Collapsed, Guard
from typed_jobs import typed

STUDY = Study(load(Path(__file__).parents[2] / "config.yaml", scale="demo"))
LAST = STUDY.config.study.measured_epochs[-1]


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    """The demo's digits."""
    root = tmp_path_factory.mktemp("digits")
    data.run(typed(STUDY.data_job("imagenet").plain() | {"root": str(root)}), root)
    return root


def job(run: str, digits: Path) -> dict[str, Any]:
    """The demo's pre-training of a run."""
    job = STUDY.job(Step("pretrain", run, 0, LAST)).plain()
    return job | {"data": job["data"] | {"root": str(digits), "cache": None}}


@pytest.mark.parametrize("name", ["simmim-vitb-mto@text"])
def test_a_collapse_stops_the_run_at_the_first_chance(digits, tmp_path, name):
    """10 rows, after a warm-up of 25 steps: of 200 steps, 110 are made. A row comes every 10 steps and every epoch."""
    given = job(name, digits)
    with pytest.raises(
        Collapsed, match=rf"^{name} has collapsed and was stopped at step 110 .*mto.guard: null"
    ) as stop:
        run(given, tmp_path)
    assert "\n" not in str(stop.value)
    rows = read_history(tmp_path / "progress" / "history.jsonl")
    assert [row["step"] for row in rows] == [10, 20, 25, 30, 40, 50, 60, 70, 75, 80, 90, 100, 110]
    assert not (tmp_path / "metrics.json").exists()
    with pytest.raises(Collapsed, match="stopped at step 110"):  # the scheduler's retries cost nothing
        run(given, tmp_path)
    assert read_history(tmp_path / "progress" / "history.jsonl") == rows


@pytest.mark.parametrize("name", ["simmim-vitb", "mae-vitb", "bootmae-vitb", "conmim-vitb"])
@pytest.mark.parametrize("mto", ["", "-mto"])
def test_a_run_that_learns_is_left_alone(digits, tmp_path, name, mto):
    """Half of the demo's schedule, without MTO and with the default preset; 5 intervals of collapse are never seen."""
    given = job(name + mto, digits)
    out = run(given | {"epoch": LAST // 2}, tmp_path)
    guard = Guard(name, 5, given["schedule"]["warmup_epochs"], tmp_path)
    rows = read_history(out / "history.jsonl")
    assert sum(row["epoch"] > guard.warmup_epochs for row in rows) >= 9
    for row in rows:
        guard.look(row)
    assert rows[-1]["constant_ratio"] < 0.98


@pytest.mark.parametrize(("terms", "watched"), [("", True), ("_r", False), ("_spa_e", False)])
def test_only_all_of_mto_is_watched(tmp_path, terms, watched):
    """Of L_r alone the paper foresees a collapse, and its Table 3 has the accuracy."""
    given = STUDY.job(Step("pretrain", f"simmim-vitb-mto{terms}", 0, LAST // 2)).plain()
    assert bool(build_guard(Task("pretrain", typed(given), {}, tmp_path))) == watched


def test_switched_off_it_says_and_stops_nothing(digits, tmp_path):
    given = job("simmim-vitb-mto@text", digits) | {"epoch": 2, "log_interval": 5}
    with pytest.raises(Collapsed):
        run(given, tmp_path, guard=3)
    out = run(given, tmp_path, guard=0)  # it goes on from the last state, whatever was said of it
    assert (out / "metrics.json").exists()
    assert [row["step"] for row in read_history(out / "history.jsonl")] == list(range(5, 51, 5))


ROW = {"step": 50, "epoch": 1.5, "constant_ratio": 1.0, "masked_cosine": 1.0, "modal_share": 1.0}


@pytest.mark.parametrize(
    ("changes", "signs"),
    [
        ({}, "mean cosine 1.00, 100% of them"),
        ({"modal_share": 0.5}, "mean cosine 1.00"),  # one alone is enough ...
        ({"masked_cosine": 0.85}, "mean cosine 0.85, 100% of them"),
        ({"masked_cosine": 0.85, "modal_share": 0.85}, None),  # ... and none is not
        ({"constant_ratio": 0.9}, None),  # masked tokens may be close where the method tells places apart
        ({"constant_ratio": float("nan")}, None),
    ],
)
def test_what_counts_as_a_collapse(changes, signs):
    found = collapsed(ROW | changes)
    assert found is None if signs is None else signs in found
    streams = {"pixel/masked_cosine": 0.1, "pixel/modal_share": 0.1}
    row = {f"feature/{k}" if "mo" in k or "cosine" in k else k: v for k, v in (ROW | changes).items()} | streams
    assert collapsed(row) == found  # of two streams, one is enough


def test_a_row_without_measures_shows_nothing():
    assert collapsed({"step": 50, "epoch": 1.5, "top1": 90.0}) is None


def test_only_intervals_in_a_row_past_the_warm_up_count(tmp_path):
    guard = Guard("mae-vitb-mto@mine", 3, 1.0, tmp_path)
    well = ROW | {"constant_ratio": 0.7}
    for row in [ROW | {"epoch": 1.0}] * 5 + [ROW, ROW, well, ROW, ROW]:
        guard.look(row)
    with pytest.raises(Collapsed, match=r"another preset of MTO than mine in config\.yaml"):
        guard.look(ROW)
    fewer = Guard("mae-vitb-mto", 2, 1.0, tmp_path)
    fewer.seen = 3  # of an attempt that was to wait for more
    with pytest.raises(Collapsed):
        fewer.look(ROW)
