"""The way of a signal from Snakemake to a task below a shell, as in a Slurm job."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from mto.runtime.pass_on import OUTLIVE

TASK = """
import signal, sys, time
def leave(number, frame):
    time.sleep(0.5)                    # saves
    print("saved", number, flush=True)
    sys.exit(128 + number)
signal.signal(signal.SIGTERM, leave), signal.signal(signal.SIGUSR1, leave)
print("ready", flush=True)
time.sleep(60)
"""
SNAKEMAKE = """
import signal, subprocess, sys
from mto.runtime.pass_on import pass_signals_on
class Scheduler:
    def exit_gracefully(self, *args):
        print("and gracefully", flush=True)
pass_signals_on(Scheduler)
signal.signal(signal.SIGTERM, Scheduler().exit_gracefully)
sys.exit(subprocess.Popen(["bash", "-c", sys.argv[1]]).wait())
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1], ids=["SIGTERM", "SIGUSR1"])
def test_a_signal_to_snakemake_alone_reaches_the_task_and_nobody_dies_before_it(number: signal.Signals) -> None:
    shell = f"set -euo pipefail\n{OUTLIVE}{sys.executable} -c '{TASK}' 2>&1 | (trap '' TERM USR1; cat)"
    process = subprocess.Popen(
        [sys.executable, "-c", SNAKEMAKE, shell], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    said, _ = process.communicate(timeout=30)
    assert f"saved {number}" in said
    assert process.returncode == 128 + number
    assert ("and gracefully" in said) == (number == signal.SIGTERM)
