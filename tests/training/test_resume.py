"""A run in segments, killed or resumed, equals an unbroken one bit for bit."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from toy import Observer, fit

from mto.training.checkpoint import load_state
from mto.training.log import read_history


def same_bits(a: Path, b: Path) -> None:
    a, b = load_state(a / "last.pth"), load_state(b / "last.pth")
    assert a["meta"]["epoch"] == b["meta"]["epoch"]
    assert a["meta"]["step"] == b["meta"]["step"]
    assert a["state_dict"].keys() == b["state_dict"].keys()
    for name, value in a["state_dict"].items():
        assert torch.equal(value, b["state_dict"][name]), name
    for index, moments in a["optimizer"]["state"].items():
        for name, value in moments.items():
            assert torch.equal(value, b["optimizer"]["state"][index][name]), (index, name)


def without_speed(path: Path) -> list[dict]:
    return [{k: v for k, v in row.items() if k != "images_per_second"} for row in read_history(path / "history.jsonl")]


class DieIn(Observer):
    def __init__(self, step: int) -> None:
        self.step = step

    def before_pass(self, loop, batch) -> None:
        if loop.step == self.step:
            raise SystemExit(1)


def test_segments_equal_an_unbroken_run(tmp_path):
    fit(tmp_path / "whole")
    fit(tmp_path / "first", stop_at=2)
    state = load_state(tmp_path / "first" / "last.pth")
    assert (state["meta"]["epoch"], state["meta"]["step"]) == (2, 6)
    fit(tmp_path / "second", resume_from=tmp_path / "first" / "last.pth")
    same_bits(tmp_path / "whole", tmp_path / "second")
    rows = without_speed(tmp_path / "first") + without_speed(tmp_path / "second")
    assert rows == without_speed(tmp_path / "whole")


def test_a_different_first_half_is_seen(tmp_path):
    """The comparison above can fail: another seed gives other bits."""
    fit(tmp_path / "whole")
    fit(tmp_path / "other", seed=1)
    with pytest.raises(AssertionError):
        same_bits(tmp_path / "whole", tmp_path / "other")


@pytest.mark.parametrize("length", [{"epochs": 4}, {"iters": 12, "save_interval": 3}])
def test_dies_and_resumes(tmp_path, length):
    fit(tmp_path / "whole", **length)
    with pytest.raises(SystemExit):
        fit(tmp_path / "broken", hooks=[DieIn(7)], **length)
    assert load_state(tmp_path / "broken" / "last.pth")["meta"]["step"] == 6
    fit(tmp_path / "broken", **length)
    same_bits(tmp_path / "whole", tmp_path / "broken")
    assert without_speed(tmp_path / "broken") == without_speed(tmp_path / "whole")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143)])
def test_killed_process_resumes(tmp_path, number, code):
    fit(tmp_path / "whole")
    script = f"""
import os
from pathlib import Path
from toy import Observer, fit
class Shoot(Observer):
    def before_pass(self, loop, batch):
        if loop.step == 7:
            os.kill(os.getpid(), {int(number)})
fit(Path({str(tmp_path / "shot")!r}), hooks=[Shoot()])
"""
    result = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
    )
    assert result.returncode == code, result.stderr.decode()
    fit(tmp_path / "shot")
    same_bits(tmp_path / "whole", tmp_path / "shot")


def test_half_written_checkpoint_is_ignored(tmp_path):
    fit(tmp_path, epochs=4, stop_at=2)
    (tmp_path / "last.pth.tmp").write_bytes(b"cut short")
    fit(tmp_path, epochs=4)
    assert load_state(tmp_path / "last.pth")["meta"]["epoch"] == 4


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    from toy import ToyModel

    fit(tmp_path, stop_at=1)
    with pytest.raises(RuntimeError, match="net"):
        fit(tmp_path, model=ToyModel(dropout=0.0))
