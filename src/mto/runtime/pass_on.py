"""Signals that Slurm sends to a job reach its task: the Snakemake inside the job passes them on. No torch here.

Slurm starts Snakemake, which starts a shell, which starts the task. With ``proctrack/cgroup``, Slurm's default, the
SIGTERM of a time limit, a preemption or an ``scancel`` goes to what Slurm itself started and to nothing else, so that
Snakemake keeps it: by itself it would finish its jobs first, and they would be killed with it ``KillWait`` later. Where
Slurm signals all processes of a job, these hear of it twice, which is as once.
"""

from __future__ import annotations

import signal
from contextlib import suppress
from typing import Any

import psutil

#: For the shell between Snakemake and the task, which would die first and take the job's end with it.
OUTLIVE = "trap : TERM USR1\n"


def pass_signals_on(scheduler: Any) -> None:
    """Lets a Snakemake in this process pass SIGTERM and SIGUSR1 on to all processes below it.

    Args:
        scheduler: Snakemake's ``JobScheduler``, whose ``exit_gracefully`` is its answer to SIGTERM.
    """
    gracefully = scheduler.exit_gracefully

    def exit_gracefully(self: Any, *signal_and_frame: Any) -> None:
        tell(signal.SIGTERM)
        gracefully(self, *signal_and_frame)

    scheduler.exit_gracefully = exit_gracefully
    signal.signal(signal.SIGUSR1, lambda number, frame: tell(number))


def tell(number: int) -> None:
    """Sends a signal to every process below this one."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)
