"""A step that failed is kept with what it takes to take it again, and taking it again gives the same numbers."""

import math

import pytest
import torch
from toy import Observer, ToyModel, fit

from mto.data.rng import seed_of
from mto.data.sampler import EpochSampler
from mto.errors import UserError
from mto.files import read_json, write_json
from mto.training.failure import Trace, read
from mto.training.hardware import Hardware
from mto.training.watch import NotFinite

JOB = {"run": "mae-vitb", "baseline": "mae", "task": "pretrain", "seed": 0, "log_interval": 5}


class Spoiled(ToyModel):
    """Its loss is a sum of two terms, one of which is lost where a batch holds a certain value of the noisy data."""

    def __init__(self, value: float = math.nan, factor: float = math.nan) -> None:
        super().__init__()
        self.value, self.factor = value, factor

    def forward(self, x, y, mode="tensor"):
        first = super().forward(x, y)["loss"]
        second = self.net(x).abs().mean()
        second = second * torch.where((x == self.value).any(), self.factor, 1.0)
        return {"loss": first + second, "loss_first": first, "loss_second": second}


class Watched(Observer):
    """The batches and the terms of a healthy training."""

    def __init__(self) -> None:
        self.batches = []

    def before_pass(self, loop, batch):
        self.batches.append((loop.step, batch))


@pytest.fixture
def value(tmp_path):
    """A number that the data have in the eighth step alone, whose row comes two steps later."""
    watched = Watched()
    fit(tmp_path / "healthy", model=Spoiled(), job=JOB, hooks=[watched])
    batches = [batch for step, batch in watched.batches if step == 7]
    return float(batches[0]["x"][2, 3])


def failing(folder, value, **changes):
    with pytest.raises(NotFinite) as stopped:
        fit(folder, model=Spoiled(value), job=JOB, **changes)
    return str(stopped.value), folder / "failed/failure.json"


def replayed(folder, file, model, **changes):
    """Runs the loop as `python -m mto replay` has a task run it; returns the exit code."""
    with pytest.raises(SystemExit) as left:
        fit(folder, model=model, job=JOB, replay=file, **changes)
    return left.value.code


def test_a_lost_loss_is_met_again_with_the_same_terms(tmp_path, value, capsys):
    said, file = failing(tmp_path / "run", value)
    assert said.endswith(f". python -m mto replay {file} takes that step again")
    record = read(file)
    assert (record["step"], record["first"]["pass"]) == (7, 1)
    assert record["first"]["terms"]["loss"] == record["first"]["terms"]["loss_second"] == "nan"
    assert math.isfinite(float(record["first"]["terms"]["loss_first"]))
    sampler = EpochSampler(24, seed=0, shuffle=True, drop_last_to=8)
    sampler.set_epoch(2)
    assert [(i["epoch"], i["index"]) for i in record["images"]] == list(sampler)[8:16]
    assert record["noise_seeds"] == [seed_of(0, "noise", 7, 0)]
    capsys.readouterr()
    assert replayed(tmp_path / "again", file, Spoiled(value)) == 0
    first = capsys.readouterr().out
    assert "training from step 6 to step 7" in first
    assert first.rstrip().endswith("; as recorded")
    assert replayed(tmp_path / "third", file, Spoiled(value)) == 0  # this one is one step long
    second = capsys.readouterr().out
    assert "training from step 7 to step 7" in second
    assert second.splitlines()[-1] == first.splitlines()[-1]
    assert replayed(tmp_path / "mended", file, Spoiled()) == 1
    assert "are finite numbers here" in capsys.readouterr().out


def test_micro_batches_and_the_start_of_a_run(tmp_path, value, capsys):
    hardware = Hardware(micro_batch=2)
    _, file = failing(tmp_path / "run", value, hardware=hardware, epochs=None, iters=12, save_interval=1000)
    record = read(file)
    assert (record["step"], record["first"]["pass"]) == (7, 2)
    assert not file.with_name("before.pth").exists()
    changes = {"hardware": hardware, "epochs": None, "iters": 12, "save_interval": 1000}
    capsys.readouterr()
    assert replayed(tmp_path / "again", file, Spoiled(value), **changes) == 0
    said = capsys.readouterr().out
    assert "training from step 0 to step 7" in said
    assert said.rstrip().endswith("; as recorded")


def test_a_run_that_goes_on_keeps_the_record(tmp_path, value):
    _, file = failing(tmp_path / "run", value)
    before = file.with_name("before.pth").read_bytes()
    fit(tmp_path / "run", model=Spoiled(), job=JOB)
    assert file.with_name("before.pth").read_bytes() == before


def test_the_gradient_alone():
    trace = Trace()
    trace.note(0, 1, {"loss": torch.tensor(1.0)})
    trace.note_norm(0, torch.tensor(math.inf))
    trace.note(1, 1, {"loss": torch.tensor(math.nan)})
    assert trace.read() == {"step": 0, "pass": 0, "terms": {"grad_norm": "inf"}}


def test_what_is_no_record_is_one_line(tmp_path):
    for content in (None, {"task": "pretrain"}, []):
        if content is not None:
            write_json(tmp_path / "x.json", content)
        with pytest.raises(UserError, match=r"x\.json: no record of a failed step"):
            read(tmp_path / "x.json")
    assert read_json(tmp_path / "x.json") == []


def test_a_global_batch_by_its_number():
    sampler = EpochSampler(11, seed=1, shuffle=True, drop_last_to=4, infinite=True)
    stream = iter(sampler)
    for number in range(5):
        assert sampler.batch(number, 4) == [next(stream) for _ in range(4)]
