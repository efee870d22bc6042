"""Curves by choice: one curve a run, over attempts and segments, each point once; and nothing of it in a job."""

import importlib
import importlib.util
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
from toy import Observer, fit

from mto.config.reading import load
from mto.errors import UserError
from mto.names import Step
from mto.study.study import Study
from mto.training import trackers
from mto.training.log import read_history

JOB = {"task": "pretrain", "scale": "test", "run": "mae-vitb-mto", "seed": 3, "epoch": 2}
STEPS = [2, 3, 4, 6, 8, 9, 10, 12]  # of `toy.fit`'s rows


class Killed(Observer):
    """Dies after a row that no state has yet."""

    def after_watch(self, loop):
        if loop.step == 8:
            raise SystemExit(137)


class Store:
    """A module in the place of trackio: what was begun, and the points of each name."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, str, str]] = []
        self.points: dict[str, list[tuple[int, dict]]] = {}
        self.finished = 0

    def init(self, project, name, resume, config, **_):
        assert config["run"] == name.split("-seed")[0].split("-", 1)[1]
        self.begun.append((project, name, resume))
        points = self.points.setdefault(name, [])
        return types.SimpleNamespace(
            log=lambda scalars, step: points.append((step, scalars)), finish=lambda: setattr(self, "finished", 1)
        )


@pytest.fixture
def store(monkeypatch):
    made = Store()
    module = types.ModuleType("trackio")
    module.init = made.init
    module.__spec__ = importlib.util.spec_from_loader("trackio", None)
    monkeypatch.setitem(sys.modules, "trackio", module)
    monkeypatch.setenv(trackers.VARIABLE, "trackio")
    return made


def test_attempts_and_segments_are_one_curve_with_each_point_once(tmp_path, store):
    with pytest.raises(SystemExit):
        fit(tmp_path / "first", job=JOB, hooks=[Killed()], stop_at=3)
    fit(tmp_path / "first", job=JOB, stop_at=3)
    fit(tmp_path / "second", job=JOB, resume_from=tmp_path / "first/last.pth")
    assert store.begun == [("mto-test", "pretrain-mae-vitb-mto-seed3", "allow")] * 3
    assert store.finished
    (points,) = store.points.values()
    assert [step for step, _ in points] == STEPS
    rows = [row for part in ("first", "second") for row in read_history(tmp_path / part / "history.jsonl")]
    assert [scalars["loss"] for _, scalars in points] == [row["loss"] for row in rows]
    assert not (tmp_path / "first/tensorboard").exists()


def test_a_tracker_that_fails_ends_no_training(tmp_path, store, capsys):
    def init(**_):
        raise OSError("no space left\nand more")

    sys.modules["trackio"].init = lambda *_, **__: init()
    fit(tmp_path, job=JOB)
    assert [row["step"] for row in read_history(tmp_path / "history.jsonl")] == STEPS
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("mto:")]
    assert said == ["mto: log: trackio: no space left; its curves end here, and history.jsonl goes on"]


def test_a_tracker_has_what_a_small_job_starts_without(tmp_path, store, monkeypatch):
    """trackio imports the hub's client, in whose place `lean` puts nothing."""
    from mto.training.startup import ABSENT

    monkeypatch.setitem(sys.modules, ABSENT[0], None)
    init = store.init

    def importing(*arguments, **named):
        importlib.import_module(ABSENT[0])
        return init(*arguments, **named)

    sys.modules["trackio"].init = importing
    fit(tmp_path, job=JOB)
    assert [step for step, _ in store.points["pretrain-mae-vitb-mto-seed3"]] == STEPS


def test_what_is_not_installed_is_told_before_the_first_step(tmp_path, monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None if name == "wandb" else object())
    monkeypatch.setenv(trackers.VARIABLE, "tensorboard,wandb")
    with pytest.raises(UserError, match=r"log: wandb is not installed: pip install '\.\[wandb\]'"):
        fit(tmp_path, job=JOB)
    assert not (tmp_path / "history.jsonl").exists()
    monkeypatch.setenv(trackers.VARIABLE, "tensorbord")
    with pytest.raises(UserError, match="no such tracker: tensorbord"):
        fit(tmp_path, job=JOB)


def test_no_tracker_at_all(tmp_path, monkeypatch):
    monkeypatch.setenv(trackers.VARIABLE, "")
    fit(tmp_path, job=JOB)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["history.jsonl", "last.pth", "previous.pth"]


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("results/demo/pretrain/mae-vitb/seed3/epoch0002/progress", "pretrain-mae-vitb-seed3"),
        ("results/demo/pilot/mae-vitb/seed3/epoch0002/progress", "pilot-mae-vitb-seed3-epoch0002"),
        ("elsewhere/progress", "pretrain-mae-vitb-seed3"),
    ],
)
def test_a_pilot_is_a_curve_of_its_own(folder, name):
    assert trackers.identity(JOB | {"run": "mae-vitb"}, Path(folder)) == name


def test_a_tracker_is_in_no_job():
    step = Step("pretrain", "mae-vitb-mto", 0, 8)
    jobs = [Study(load({"log": names}, scale="demo")).job(step) for names in (["tensorboard"], ["trackio", "wandb"])]
    assert jobs[0] == jobs[1]


def test_the_jobs_environment(monkeypatch):
    for name in ("TRACKIO_DIR", "WANDB_DIR", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    assert trackers.settings(["tensorboard"], Path("/r")) == {"MTO_LOG": "tensorboard"}
    monkeypatch.setenv("WANDB_MODE", "online")
    assert trackers.settings(["trackio", "wandb"], Path("/r")) == {
        "MTO_LOG": "trackio,wandb",
        "TRACKIO_DIR": "/r/trackio",
        "WANDB_DIR": "/r",
        "WANDB_MODE": "online",
    }


READ = """
import json, sys
from trackio.sqlite_storage import SQLiteStorage
records = SQLiteStorage.get_run_records("mto-test")
rows = SQLiteStorage.get_logs("mto-test", records[0]["name"], run_id=records[0]["id"])
print(json.dumps({"runs": [record["name"] for record in records], "steps": [row["step"] for row in rows],
                  "losses": [row["loss"] for row in rows]}))
"""
TRAIN = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from toy import fit
from test_trackers import JOB, Killed
folder, attempt = Path(sys.argv[1]), sys.argv[2]
if attempt == "killed":
    fit(folder / "first", job=JOB, hooks=[Killed()], stop_at=3)
elif attempt == "again":
    fit(folder / "first", job=JOB, stop_at=3)
else:
    fit(folder / "second", job=JOB, resume_from=folder / "first/last.pth")
"""


@pytest.mark.skipif(importlib.util.find_spec("trackio") is None, reason="trackio is not installed")
def test_trackio_s_own_store_has_one_curve(tmp_path):
    """Processes as a cluster has them: one that is killed, its second attempt, the next segment."""
    store = {"TRACKIO_DIR": str(tmp_path / "store"), trackers.VARIABLE: "trackio", "HF_HUB_OFFLINE": "1"}
    environment = {**os.environ, **store}
    here = str(Path(__file__).parent)

    def python(code, *arguments):
        command = [sys.executable, "-c", code, *map(str, arguments)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    for attempt in ("killed", "again", "next"):
        ran = python(TRAIN, tmp_path, attempt, here)
        assert ran.returncode == (137 if attempt == "killed" else 0), ran.stderr
    found = json.loads(python(READ).stdout.splitlines()[-1])
    rows = [row for part in ("first", "second") for row in read_history(tmp_path / part / "history.jsonl")]
    assert found["runs"] == ["pretrain-mae-vitb-mto-seed3"]
    assert found["steps"] == STEPS
    assert found["losses"] == [row["loss"] for row in rows]
