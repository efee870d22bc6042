"""A run with MTO that goes on from the run without it, through the tasks: `mto.starts_at`."""

import json

import pytest
import torch
from tiny import pretrain_job

from mto.__main__ import main
from mto.training.checkpoint import load_state
from mto.training.log import read_history

BALANCE = {"interval": 1, "dense": 0, "images": 4, "memory": 0.5, "largest": 10.0}


def segment(job, out, state="", *options):
    return main(["pretrain", "--job", json.dumps(job), "--out", str(out), "--inputs", f"state={state}", *options])


def jobs(images, baseline="mae", **switches):
    """The first epoch of three without MTO, and the two that follow it with."""
    plain = pretrain_job(images, baseline, epoch=1, epochs=3) | {"log_interval": 1, "run": f"{baseline}-vitb"}
    plain["mto"] = {"terms": []}
    warm = plain | {"epoch": 3, "run": f"{baseline}-vitb-mto"}
    return plain, warm | {"mto": {"terms": ["spa", "e", "r"], "starts_at": 1, **switches}}


def weights(folder):
    return load_state(folder / "state.pth")["state_dict"]


@pytest.mark.parametrize("baseline", ["mae", "bootmae"])
@pytest.mark.parametrize("switches", [{}, {"balance": BALANCE}, {"warmup_epochs": 1.0}])
def test_it_equals_the_run_that_waits_by_itself(images, tmp_path, baseline, switches, capsys):
    """From the shared state, from a pruned one, from none: the same bits. MTO acts on the second epoch alone."""
    plain, warm = jobs(images, baseline, **switches)
    first = tmp_path / "first"
    assert segment(plain, first) == 0
    assert segment(warm, tmp_path / "warm", first / "state.pth") == 0
    assert segment(warm, tmp_path / "alone") == 0
    one, other = weights(tmp_path / "warm"), weights(tmp_path / "alone")
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    begun = [row["step"] for row in read_history(tmp_path / "warm" / "history.jsonl")]
    whole = read_history(tmp_path / "alone" / "history.jsonl")
    assert begun == [row["step"] for row in whole][3:] == [4, 5, 6, 7, 8, 9]
    assert ["loss_spa" in row for row in whole] == [False] * 3 + [True] * 6
    shared = read_history(first / "history.jsonl")
    assert [row["loss"] for row in shared] == [row["loss"] for row in whole][:3]
    assert [row["heterogeneity_0"] for row in shared if "heterogeneity_0" in row] == [
        row["heterogeneity_0"] for row in whole[:3] if "heterogeneity_0" in row
    ]
    # A pruned one, as after the next segment of the run without MTO.
    assert segment(plain | {"epoch": 3}, tmp_path / "plain", first / "state.pth", "--prune") == 0
    assert "optimizer" not in load_state(first / "state.pth")
    assert segment(warm, tmp_path / "again", first / "state.pth") == 0
    assert "only weights are left" in capsys.readouterr().out
    again = weights(tmp_path / "again")
    assert all(torch.equal(value, again[name]) for name, value in one.items())
    assert [row["step"] for row in read_history(tmp_path / "again" / "history.jsonl")] == begun
    moved = weights(tmp_path / "plain")
    assert any(not torch.equal(value, one[name]) for name, value in moved.items())


def test_the_state_is_left_whole_where_two_continue_it(images, tmp_path):
    plain, warm = jobs(images)
    assert segment(plain, tmp_path / "first") == 0
    assert segment(plain | {"epoch": 2}, tmp_path / "plain", tmp_path / "first/state.pth", "--keep-state") == 0
    assert "optimizer" in load_state(tmp_path / "first/state.pth")
    assert segment(warm, tmp_path / "warm", tmp_path / "first/state.pth", "--keep-state") == 0


def test_a_state_of_another_epoch_or_run_is_refused(images, tmp_path, capsys):
    plain, warm = jobs(images)
    assert segment(plain | {"epoch": 2}, tmp_path / "later") == 0
    assert segment(warm, tmp_path / "warm", tmp_path / "later/state.pth") == 2
    assert "of step 6 of mae-vitb, but this run leaves it at step 3 (mto.starts_at" in capsys.readouterr().err
    assert segment(plain | {"seed": 1}, tmp_path / "seed") == 0
    assert segment(warm, tmp_path / "warm", tmp_path / "seed/state.pth") == 2
    assert "of another job (seed 1 there, 0 here)" in capsys.readouterr().err
    cold = warm | {"mto": {"terms": ["spa", "e", "r"]}}
    assert segment(plain, tmp_path / "first") == 0
    assert segment(cold, tmp_path / "cold", tmp_path / "first/state.pth") == 2
    assert "of another job" in capsys.readouterr().err


def test_it_resumes_before_and_after_the_start(images, tmp_path):
    """In segments of an epoch each, it is the same run."""
    plain, warm = jobs(images, balance=BALANCE)
    assert segment(plain, tmp_path / "1") == 0
    assert segment(warm | {"epoch": 2}, tmp_path / "2", tmp_path / "1/state.pth") == 0
    assert segment(warm, tmp_path / "3", tmp_path / "2/state.pth") == 0
    assert segment(warm, tmp_path / "whole", tmp_path / "1/state.pth") == 0
    one, other = weights(tmp_path / "3"), weights(tmp_path / "whole")
    assert all(torch.equal(value, other[name]) for name, value in one.items())
