"""Other hardware, between segments or in the middle of one, changes no rate, no epoch and no order of samples."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from toy import Observer, ToyModel, fit

from mto.training.checkpoint import load_state
from mto.training.hardware import Hardware
from mto.training.log import read_history

LENGTHS = {"epochs": {"epochs": 4}, "steps": {"epochs": None, "iters": 12, "save_interval": 3}}
HARDWARE = {
    "smaller passes": {"micro_batch": 2},
    "one image a pass": {"micro_batch": 1},
    "two workers": {"workers": 2},
    "both": {"micro_batch": 4, "workers": 1},
}


class Wide(ToyModel):
    """Of several buckets of gradients, with noise."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = [nn.Linear(6, 600), nn.GELU(), nn.Dropout(dropout), nn.Linear(600, 600), nn.GELU(), nn.Linear(600, 1)]
        self.net = nn.Sequential(*layers)


class Record(Observer):
    """(step, epoch, rate, samples) of each step, over its passes."""

    def __init__(self) -> None:
        self.steps: list[list] = []

    def before_pass(self, loop, batch) -> None:
        if not self.steps or self.steps[-1][0] != loop.step:
            self.steps.append([loop.step, loop.epoch, loop.optimizer.optimizer.param_groups[0]["lr"], []])
        self.steps[-1][3] += batch["y"].flatten().tolist()


class StopAfter(Observer):
    """Ask to stop after some steps, as a scheduler does; the state is then in the middle of a round."""

    def __init__(self, step: int) -> None:
        self.step = step

    def after_step(self, loop) -> None:
        if loop.step == self.step:
            os.kill(os.getpid(), 10)  # SIGUSR1
            torch.zeros(1)  # the handler runs between two instructions


def run(folder: Path, hardware: Hardware, length: str, *hooks: Observer, model=None, **kwargs) -> list[list]:
    record, model = Record(), model or ToyModel(dropout=0.0)
    fit(folder, model=model, hardware=hardware, hooks=[record, *hooks], **LENGTHS[length], **kwargs)
    return record.steps


def close(a: Path, b: Path) -> None:
    """The same run, up to the order in which passes are summed."""
    one, two = load_state(a / "last.pth"), load_state(b / "last.pth")
    assert one["meta"] == two["meta"] | {"fingerprint": one["meta"]["fingerprint"]}
    assert (one["meta"]["step"], one["meta"]["samples"]) == (12, 96)
    for name, value in one["state_dict"].items():
        torch.testing.assert_close(two["state_dict"][name], value, rtol=1e-4, atol=1e-5)
    rows = [
        [{k: v for k, v in row.items() if k in ("step", "epoch", "lr")} for row in read_history(x / "history.jsonl")]
        for x in (a, b)
    ]
    assert rows[0][-len(rows[1]) :] == rows[1]


@pytest.mark.parametrize("change", HARDWARE)
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("back", [False, True])
def test_in_the_middle_of_a_segment(tmp_path, change, length, back):
    """5 of 12 steps on one machine: within the second epoch (round) of 3 steps, and between two rows of the history."""
    first, second = (Hardware(**HARDWARE[change]), Hardware())[:: -1 if back else 1]
    whole = run(tmp_path / "whole", Hardware(), length)
    assert [step[:2] for step in whole] == [[n, n // 3 if length == "epochs" else 0] for n in range(12)]
    record = Record()
    with pytest.raises(SystemExit) as stop:
        fit(
            tmp_path / "run",
            model=ToyModel(dropout=0.0),
            hardware=first,
            hooks=[record, StopAfter(5)],
            **LENGTHS[length],
        )
    assert stop.value.code == 138
    assert load_state(tmp_path / "run" / "last.pth")["meta"]["step"] == 5
    assert record.steps + run(tmp_path / "run", second, length) == whole
    close(tmp_path / "whole", tmp_path / "run")


@pytest.mark.parametrize("change", HARDWARE)
def test_between_segments(tmp_path, change):
    whole = run(tmp_path / "whole", Hardware(), "epochs")
    first = run(tmp_path / "first", Hardware(), "epochs", stop_at=2)
    other = Hardware(**HARDWARE[change])
    second = run(tmp_path / "second", other, "epochs", resume_from=tmp_path / "first" / "last.pth")
    assert first + second == whole
    close(tmp_path / "whole", tmp_path / "second")


@pytest.mark.parametrize("length", LENGTHS)
def test_the_same_hardware_in_the_middle_of_a_round_is_bit_for_bit(tmp_path, length):
    """With dropout, batch norm and momentum, stopped at every step; the history too."""
    fit(tmp_path / "whole", **LENGTHS[length])
    whole = load_state(tmp_path / "whole" / "last.pth")
    for step in range(1, 12):
        with pytest.raises(SystemExit):
            fit(tmp_path / "run", hooks=[StopAfter(step)], **LENGTHS[length])
        assert load_state(tmp_path / "run" / "last.pth")["meta"]["step"] == step
    fit(tmp_path / "run", **LENGTHS[length])
    broken = load_state(tmp_path / "run" / "last.pth")
    assert broken["meta"] == whole["meta"]  # with the fingerprint of every tensor
    for index, moments in whole["optimizer"]["state"].items():
        assert all(torch.equal(value, broken["optimizer"]["state"][index][name]) for name, value in moments.items())
    rows = [
        [row | {"images_per_second": None} for row in read_history(tmp_path / name / "history.jsonl")]
        for name in ("whole", "run")
    ]
    assert rows[0] == rows[1]


PROCESSES = """
import json, os, sys
from pathlib import Path
import torch
from torch import multiprocessing
from mto.runtime.ranks import LAUNCHER
from toy import fit
from test_hardware_changes import LENGTHS, Record, StopAfter, Wide
from mto.training.hardware import Hardware

def work(rank, size, port, folder, plan):
    os.environ |= {LAUNCHER: "this test", "RANK": str(rank), "WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": port}
    hardware = Hardware(processes=size)
    hardware.setup()
    for name, length, stop, dropout in plan:
        record = Record()
        hooks = [record, *([StopAfter(stop)] if stop and rank == size - 1 else [])]
        try:
            fit(Path(folder) / name, model=Wide(dropout), hardware=hardware, hooks=hooks, clip=0.1, **LENGTHS[length])
        except SystemExit as stopped:
            assert stop and stopped.code == 138
        every = [None] * size
        torch.distributed.all_gather_object(every, record.steps)
        if rank == 0:
            (Path(folder) / f"{name}.{stop}.json").write_text(json.dumps(every))
    hardware.close()

if __name__ == "__main__":
    torch.set_num_threads(1)
    size, port, folder, plan = int(sys.argv[1]), sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
    multiprocessing.start_processes(work, (size, port, folder, plan), nprocs=size, start_method="fork")
"""


def several(folder: Path, size: int, plan: list) -> None:
    """Runs of a plan, (folder, length, step to stop after, dropout), one after another in ``size`` gloo processes."""
    import socket

    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    here = Path(__file__).parent
    result = subprocess.run(
        [sys.executable, "-c", PROCESSES, str(size), str(port), str(folder), json.dumps(plan)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(here), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert result.returncode == 0, result.stderr[-3000:]


@pytest.mark.parametrize("length", LENGTHS)
def test_resume_is_bit_for_bit_with_four_processes(tmp_path, length):
    """A signal to one of them stops all at the same step, in the middle of a round."""
    several(tmp_path, 4, [("whole", length, 0, 0.2), ("run", length, 4, 0.2), ("run", length, 0, 0.2)])
    whole, broken = (load_state(tmp_path / name / "last.pth") for name in ("whole", "run"))
    assert whole["meta"] == broken["meta"]
    for index, moments in whole["optimizer"]["state"].items():
        assert all(torch.equal(value, broken["optimizer"]["state"][index][name]) for name, value in moments.items())
    steps, first, rest = (
        json.loads((tmp_path / name).read_text()) for name in ("whole.0.json", "run.4.json", "run.0.json")
    )
    assert 4 <= len(first[0]) < 12  # it was stopped
    assert len({len(rank) for rank in first}) == 1  # all at once
    assert [a + b for a, b in zip(first, rest, strict=True)] == steps


def test_another_number_of_processes(tmp_path):
    """Two processes, stopped within an epoch; one goes on, in passes of 2; against one that was never stopped."""
    whole = run(tmp_path / "whole", Hardware(), "epochs", model=Wide(), clip=0.1)
    several(tmp_path, 2, [("run", "epochs", 4, 0.0)])
    first, second = json.loads((tmp_path / "run.4.json").read_text())
    assert load_state(tmp_path / "run" / "last.pth")["meta"]["step"] == len(first) == len(second) < 12
    steps = []
    for one, other in zip(first, second, strict=True):
        assert one[:3] == other[:3]  # step, epoch, rate
        steps.append([*one[:3], [value for pair in zip(one[3], other[3], strict=True) for value in pair]])
    steps += run(tmp_path / "run", Hardware(micro_batch=2), "epochs", model=Wide(), clip=0.1)
    assert steps == whole
    close(tmp_path / "whole", tmp_path / "run")
