"""The end of this Slurm job's time: a task that knows it saves and leaves in time, without any signal. No torch here.

Slurm's signal comes at the limit, ``KillWait`` seconds (30 by default) before the end, which is little for a step and
the writing of a large state. How it comes is the site's choice: with ``proctrack/cgroup`` it reaches only what Slurm
started itself. What ends a job before its time, as a preemption does, is known from signals alone.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable
from math import inf
from typing import NamedTuple

from mto.runtime.slurm import minutes

#: Seconds that a step, or a batch of a validation, and the writing of a state may take.
MARGIN = 120.0
#: Of a short job no more than this share is given away.
SHARE = 0.05
#: Seconds between two questions to Slurm at most: a limit can be changed while a job runs.
PAUSE = 3600.0


class Slot(NamedTuple):
    """A job's time on its nodes: its end in seconds since 1970, and its length in seconds."""

    end: float
    length: float


class TimeLimit:
    """Knows when to leave. A thread asks Slurm for this job's end, and once more before it says that it is near.

    Args:
        ask: returns the job's time, or None where nobody knows it; by default `ask_slurm`.
    """

    def __init__(self, ask: Callable[[], Slot | None] | None = None) -> None:
        self._ask = ask or ask_slurm
        self._near, self._closed = threading.Event(), threading.Event()
        if ask or "SLURM_JOB_ID" in os.environ:
            threading.Thread(target=self._watch, daemon=True, name="time limit").start()

    def is_near(self) -> bool:
        """Returns whether it is time to save and leave. It costs nothing, and outside Slurm it is never true."""
        return self._near.is_set()

    def close(self) -> None:
        """Ends the watch."""
        self._closed.set()

    def _watch(self) -> None:
        leave = inf
        while True:
            slot = self._ask()
            if slot is not None:
                leave = slot.end - min(MARGIN, SHARE * slot.length)
            if (left := leave - time.time()) <= 0:
                self._near.set()
                return
            if self._closed.wait(min(left, PAUSE)):
                return


def ask_slurm() -> Slot | None:
    """Asks ``squeue`` for the end of this job; where it is missing or does not answer, what Slurm said at the start."""
    command = ("squeue", "--noheader", "--jobs", os.environ["SLURM_JOB_ID"], "--format=%e|%l")
    environment = os.environ | {"SLURM_TIME_FORMAT": "%s"}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        begin, end = (os.environ.get(f"SLURM_JOB_{name}_TIME", "") for name in ("START", "END"))
        return Slot(float(end), float(end) - float(begin)) if begin.isdigit() and end.isdigit() else None
    end, _, limit = done.stdout.strip().partition("|")
    return Slot(float(end), 60 * minutes(limit)) if end.isdigit() else None
