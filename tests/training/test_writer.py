"""States that a thread writes: training goes on meanwhile, nothing is lost, and no failure passes unseen."""

import signal
import threading
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn
from toy import Observer, ToyModel, fit

from mto.errors import UserError
from mto.training import writer as module
from mto.training.checkpoint import fingerprint, load_state, save_state
from mto.training.signals import Interrupted
from mto.training.writer import Writer, on_host


# -------------------------------------------------------------------------------------------------------- the writer
def test_a_write_does_not_hold_up_who_started_it_and_the_next_one_waits():
    done, gate = [], threading.Event()

    def write(name: str) -> None:
        gate.wait(10)
        done.append((name, threading.current_thread() is threading.main_thread()))

    with Writer() as writer:
        writer.start(write, "first")
        writer.check()
        assert done == []
        gate.set()
        writer.start(write, "second")
        assert done[0] == ("first", False)
    assert done == [("first", False), ("second", False)]


def fail() -> None:
    raise UserError("the disk is full")


@pytest.mark.parametrize("ask", [Writer.wait, lambda writer: writer.start(print), lambda writer: writer.__exit__(None)])
def test_a_failure_is_raised_once(ask):
    writer = Writer()
    writer.start(fail)
    with pytest.raises(UserError, match="disk is full"):
        ask(writer)
    writer.wait()


def test_a_failure_is_raised_by_the_check_after_it():
    with Writer() as writer:
        writer.start(fail)
        while not writer._running.done():
            pass
        with pytest.raises(UserError, match="disk is full"):
            writer.check()


def test_an_error_of_the_block_waits_for_the_write_and_is_not_hidden():
    done = []

    def block() -> None:
        with Writer() as writer:
            writer.start(lambda: (threading.Event().wait(0.2), done.append(1), fail()))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        block()
    assert done == [1]


def test_a_copy_on_the_host_is_apart_and_alike():
    model, weight = nn.BatchNorm1d(3), torch.ones(2, requires_grad=True)
    state = {"model": model.state_dict(), "list": [weight, (1, "a", None)], "same": weight}
    copied = on_host(state)
    with torch.no_grad():
        weight.fill_(5)
        model.weight.fill_(5)
    state["list"].append(3)
    assert isinstance(copied["model"], OrderedDict)
    assert copied["model"]._metadata == state["model"]._metadata
    assert (copied["model"]["weight"] == 1).all()
    assert copied["list"][1:] == [(1, "a", None)]
    assert (copied["list"][0] == 1).all()
    assert not copied["list"][0].requires_grad


# ----------------------------------------------------------------------------------------------------- in training
class Slow:
    """`save_state`, held up until the run has made a step more, or for good."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.went_on = threading.Event()

    def __call__(self, path: Path, content: dict, record: dict) -> None:
        if record["step"] < 12:
            assert self.went_on.wait(10)
            self.went_on.clear()
        self.seen.append(record["step"])
        save_state(path, content, record)


class Watch(Observer):
    """Counts the steps, and lets a held-up write go after the one that follows it."""

    def __init__(self, slow: Slow) -> None:
        self.slow, self.overlapped = slow, 0

    def after_step(self, loop) -> None:
        if loop.step > 3 and loop.step % 3 == 1:
            self.overlapped += 1
            self.slow.went_on.set()


def test_training_goes_on_while_a_state_is_written(tmp_path, monkeypatch):
    """And what is written is the state at its own step, though parameters have moved since."""
    fit(tmp_path / "unhindered")
    slow = Slow()
    watch = Watch(slow)
    monkeypatch.setattr(module, "save_state", slow)
    fit(tmp_path / "slow", hooks=[watch])
    assert slow.seen == [3, 6, 9, 12]
    assert watch.overlapped == 3
    for name in ("last.pth", "previous.pth"):
        a, b = (load_state(tmp_path / folder / name) for folder in ("unhindered", "slow"))
        assert a["meta"] == b["meta"]
        assert fingerprint(a["state_dict"]) == fingerprint(b["state_dict"])
        for one, other in zip(a["optimizer"]["state"].values(), b["optimizer"]["state"].values(), strict=True):
            assert all(torch.equal(one[key], other[key]) for key in one)


def full_at(step: int):
    """`save_state` on a disk that is full for the state of that step."""

    def save(path: Path, content: dict, record: dict) -> None:
        if record["step"] == step:
            raise UserError(f"{path}: the disk is full")
        save_state(path, content, record)

    return save


def test_a_failed_write_ends_the_run_and_leaves_the_state_before_it(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "save_state", full_at(6))
    with pytest.raises(UserError, match="the disk is full"):
        fit(tmp_path)
    assert load_state(tmp_path / "last.pth")["meta"]["step"] == 3
    monkeypatch.setattr(module, "save_state", save_state)
    fit(tmp_path)
    assert load_state(tmp_path / "last.pth")["meta"]["step"] == 12


def test_the_last_write_is_awaited(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "save_state", full_at(12))
    with pytest.raises(UserError, match="the disk is full"):
        fit(tmp_path)


class Asked(Observer):
    """Sends the run a signal in a step after a state was begun, and nothing lets that state go on before."""

    def __init__(self, gate: threading.Event) -> None:
        self.gate = gate

    def after_step(self, loop) -> None:
        if loop.step == 5:
            signal.raise_signal(signal.SIGTERM)
            threading.Timer(0.3, self.gate.set).start()


def test_a_signal_waits_for_the_states_being_written(tmp_path, monkeypatch, capsys):
    gate, seen = threading.Event(), []

    def held_up(path: Path, content: dict, record: dict) -> None:
        assert gate.wait(10)
        save_state(path, content, record)
        seen.append(record["step"])

    monkeypatch.setattr(module, "save_state", held_up)
    with pytest.raises(Interrupted) as left:
        fit(tmp_path, hooks=[Asked(gate)])
    assert left.value.code == 128 + signal.SIGTERM
    assert seen == [3, 5]
    assert load_state(tmp_path / "last.pth")["meta"]["step"] == 5
    assert "SIGTERM: stopped and saved at step 5" in capsys.readouterr().out


def test_a_run_that_fails_leaves_no_write_behind(tmp_path, monkeypatch):
    """The folder's lock goes to whoever comes next as soon as the run is over."""
    finished = []

    def held_up(path: Path, content: dict, record: dict) -> None:
        threading.Event().wait(0.3)
        save_state(path, content, record)
        finished.append(record["step"])

    class Fails(Observer):
        def after_step(self, loop) -> None:
            if loop.step == 4:
                raise MemoryError

    monkeypatch.setattr(module, "save_state", held_up)
    with pytest.raises(MemoryError):
        fit(tmp_path, model=ToyModel(), hooks=[Fails()])
    assert finished == [3]
