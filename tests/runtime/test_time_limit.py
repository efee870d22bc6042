"""When a job leaves before its time limit, by what Slurm answers or had said at the start."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mto.runtime import time_limit
from mto.runtime.time_limit import MARGIN, Slot, TimeLimit, ask_slurm


def soon(limit: TimeLimit, seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while not limit.is_near() and time.monotonic() < end:
        time.sleep(0.01)
    return limit.is_near()


def squeue(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    (folder / "squeue").write_text(f"#!/bin/sh\n{body}\n")
    (folder / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setenv("SLURM_JOB_ID", "7")


def test_outside_slurm_no_time_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert not soon(TimeLimit(), 0.2)


@pytest.mark.parametrize(
    ("left", "length", "near"),
    [
        (MARGIN - 5, 86_400, True),
        (MARGIN + 5, 86_400, False),
        (2, 60, True),  # of a short job the margin is a twentieth
        (20, 60, False),
        (5, float("inf"), True),
        (-30, 86_400, True),  # OverTimeLimit: it runs on, and may be ended at any moment
    ],
)
def test_it_is_near_when_a_step_and_a_state_may_take_what_is_left(left: float, length: float, near: bool) -> None:
    assert soon(TimeLimit(lambda: Slot(time.time() + left, length)), 10 if near else 0.3) is near


def test_slurm_is_asked_again_before_it_is_said_to_be_near() -> None:
    """The limit was extended meanwhile: the first end passes without a word."""
    ends = iter([time.time() + 0.2, time.time() + 0.8, time.time() + 0.8])
    began = time.time()
    assert soon(TimeLimit(lambda: Slot(next(ends), 0)))
    assert time.time() - began >= 0.8


def test_a_limit_that_is_shortened_is_seen_at_the_next_question(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_limit, "PAUSE", 0.1)
    lefts = iter([9000.0, 0.0])
    assert soon(TimeLimit(lambda: Slot(time.time() + next(lefts), 9000)))


def test_the_last_answer_holds_while_slurm_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: Iterator[Slot | None] = iter([None, Slot(time.time() + 0.5, 0), None, None, None, None, None, None])
    monkeypatch.setattr(time_limit, "PAUSE", 0.1)
    assert soon(TimeLimit(lambda: next(answers)))


def test_a_watch_that_is_closed_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(time_limit, "PAUSE", 0.05)
    limit = TimeLimit(lambda: asked.append(1))
    limit.close()
    time.sleep(0.2)
    assert len(asked) <= 2


def test_what_squeue_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    squeue(tmp_path, monkeypatch, 'test "$SLURM_TIME_FORMAT" = %s && echo "1793000000|2-00:00:00"; echo "$*" >$0.said')
    assert ask_slurm() == Slot(1793000000, 172_800)
    assert "--jobs 7" in (tmp_path / "squeue.said").read_text()


@pytest.mark.parametrize("said", ["N/A|UNLIMITED", "NONE|UNLIMITED", ""])
def test_a_job_without_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    squeue(tmp_path, monkeypatch, f"echo '{said}'")
    assert ask_slurm() is None


def test_where_squeue_does_not_answer_the_start_of_the_job_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    squeue(tmp_path, monkeypatch, "exit 1")
    assert ask_slurm() is None
    monkeypatch.setenv("SLURM_JOB_START_TIME", "1000")
    monkeypatch.setenv("SLURM_JOB_END_TIME", "4600")
    assert ask_slurm() == Slot(4600, 3600)
