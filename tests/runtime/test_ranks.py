"""Torch's names in the environment count where our own launcher set them, and are another's everywhere else."""

import os

import pytest
import torch

from mto.errors import UserError
from mto.runtime import ranks
from mto.training.hardware import Hardware

OTHERS = dict.fromkeys((*ranks.TORCHS, "TORCHELASTIC_RUN_ID"), "7")


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in (ranks.LAUNCHER, *OTHERS):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize("stale", [{}, {ranks.LAUNCHER: "1"}], ids=["no sign", "the sign of another process"])
def test_what_other_launchers_left_is_forgotten(environment, stale):
    for name, value in (OTHERS | stale).items():
        environment.setenv(name, value)
    ranks.forget_others()
    assert not {ranks.LAUNCHER, *OTHERS} & set(os.environ)
    assert not ranks.is_launched()
    assert Hardware(processes=8).rank == 0


def test_a_rank_of_another_launcher_is_none_of_ours(environment):
    """Also where nobody removed it: in a program of the user's own."""
    environment.setenv("RANK", "7")
    environment.setenv("LOCAL_RANK", "7")
    assert Hardware(processes=8).rank == 0
    assert Hardware(gpus=8).device == torch.device("cuda", 0)


def test_what_our_launcher_said_stays(environment):
    for name, value in ({ranks.LAUNCHER: str(os.getppid())} | OTHERS).items():
        environment.setenv(name, value)
    ranks.forget_others()
    assert OTHERS.items() <= dict(os.environ).items()
    assert Hardware(processes=8).rank == 7
    assert Hardware(processes=1).rank == 0


@pytest.mark.parametrize("joined", [1, 3])
def test_another_number_of_processes_is_refused(monkeypatch, joined):
    """Each would read its share of the data as one of two, and the batch would be another."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: joined)
    with pytest.raises(UserError, match=f"2 processes were to share this job, but {joined} did"):
        Hardware(processes=2).setup()
