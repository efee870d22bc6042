"""The progress line, history.jsonl and the TensorBoard curves."""

import re

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toy import Observer, ToyModel, fit

from mto.training.compiled import Compiled
from mto.training.hardware import Hardware
from mto.training.log import Averages, _clock, read_history


def test_rows_line_and_curves(tmp_path, capsys):
    fit(tmp_path)
    rows = read_history(tmp_path / "history.jsonl")
    # Every second step and each epoch's end (3 steps an epoch).
    assert [row["step"] for row in rows] == [2, 3, 4, 6, 8, 9, 10, 12]
    assert rows[3]["epoch"] == 2.0
    assert all({"loss", "lr", "grad_norm", "images_per_second"} <= row.keys() for row in rows)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(rows)
    assert re.fullmatch(r"epoch 4.00/4  step 12/12  loss \d+\.\d{4}  lr \S+  \d+\.\d img/s  ETA 0:00:00", lines[-1]), (
        lines[-1]
    )
    assert all(line.isprintable() for line in lines)
    curves = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert {"loss", "lr", "grad_norm"} <= set(curves.Tags()["scalars"])
    assert [event.step for event in curves.Scalars("loss")] == [row["step"] for row in rows]


def test_a_resumed_run_has_each_step_once_in_its_curves(tmp_path):
    fit(tmp_path, stop_at=2)
    fit(tmp_path)
    curves = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in curves.Scalars("loss")] == [2, 3, 4, 6, 8, 9, 10, 12]


@pytest.mark.parametrize("works", [True, False])
def test_images_of_a_step_whose_compiler_failed_are_counted(tmp_path, works, monkeypatch):
    """Over all attempts of the segment: here the second attempt's alone, or none."""

    class Compiling(ToyModel):
        def compile_step(self, memory):
            self.step = Compiled(super().forward, backend="eager" if works else broken)

        def forward(self, x, y, mode="tensor"):
            return self.step(x, y)

    def broken(graph, inputs):
        raise RuntimeError("no compiler here")

    class Killed(Observer):
        def before_pass(self, loop, batch):
            if loop.step == 7:
                raise SystemExit(1)

    with pytest.raises(SystemExit):
        fit(tmp_path, hooks=[Killed()])
    monkeypatch.setattr(Hardware, "compiles", True)
    usage = fit(tmp_path, model=Compiling()).log.usage
    assert (usage["images"], usage["eager_images"]) == (96, 0 if works else 48)


def test_averages_count_each_name_by_itself():
    averages = Averages()
    averages.add({"loss": torch.tensor(1.0), "h": torch.tensor(5.0)})
    averages.add({"loss": torch.tensor(3.0)})
    assert averages.read() == {"loss": 2.0, "h": 5.0}
    assert averages.read() == {}


def test_history_survives_a_line_cut_short(tmp_path):
    path = tmp_path / "history.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert [row["step"] for row in read_history(path)] == [1, 2]
    assert read_history(tmp_path / "absent") == []


@pytest.mark.parametrize(("seconds", "shown"), [(0, "0:00:00"), (3661, "1:01:01"), (90061, "1d 1:01:01")])
def test_clock(seconds, shown):
    assert _clock(seconds) == shown
