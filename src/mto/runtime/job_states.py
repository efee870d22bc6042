"""What became of Slurm's jobs, told to Snakemake so that it waits for none without end. No torch here.

The executor plugin takes each state as ``sacct`` or ``squeue`` spells it, and waits on where it does not know the word.
So it waits for ever for a job that was cancelled ("CANCELLED by 1000"), that was preempted and not queued again, that
Slurm holds after a failed launch, or of which nobody knows any more. Here such a job becomes CANCELLED, a word that the
plugin knows: it submits the job again while `retries` of the profile last. What only a person can mend is said once.
"""

from __future__ import annotations

import shlex
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

#: Seconds in which neither ``sacct`` nor ``squeue`` knows a job before it is taken for lost.
PATIENCE = 300.0

#: Ends after which Slurm may queue a job again, and those that are final.
MAYBE_AGAIN = {"PREEMPTED", "NODE_FAIL"}
FINAL = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "OUT_OF_MEMORY", "REVOKED", "TIMEOUT"}
#: Why ``squeue`` says that a job waits, in lower case without separators.
FAILED_LAUNCH = "launchfailedrequeuedheld"
HELD = {"jobheldadmin", "jobhelduser"}


@dataclass
class Watch:
    """The jobs of one Snakemake, and what was seen of them.

    Args:
        run: runs a command and returns what it printed; None where it failed.
        clock: seconds.
        active: ids of the jobs that Snakemake waits for.
        elsewhere: some went to another cluster, of which this one's slurmctld knows nothing.
    """

    run: Callable[..., str | None] = field(default_factory=lambda: _run)
    clock: Callable[[], float] = time.monotonic
    active: set[str] = field(default_factory=set)
    elsewhere: bool = False
    _missed: dict[str, float] = field(default_factory=dict)
    _said: set[str] = field(default_factory=set)

    def settle(self, states: dict[str, str], name: str, say: Callable[[str], object]) -> dict[str, str]:
        """Returns the states of the active jobs in words that the plugin knows.

        Args:
            states: of `sacct` or `squeue`, by job id.
            name: of all jobs of this Snakemake in Slurm.
            say: prints a line.
        """
        states = {job: state.partition(" ")[0] for job, state in states.items()}
        live = None if self.elsewhere else self._live(name)
        if live is None:  # slurmctld is away: what it alone can tell is left for the next look
            return {job: state for job, state in states.items() if state not in MAYBE_AGAIN}
        for job in self.active:
            if states.get(job) in FINAL or (seen := self._look(job, states.get(job), *live.get(job, ("", "")))) is None:
                continue
            states[job], line = seen
            if line and line not in self._said:
                self._said.add(line)
                say(f"Slurm job {job} {line}")
        return states

    def _look(self, job: str, told: str | None, state: str, reason: str) -> tuple[str, str] | None:
        """Returns a job's state and what to say of it, or None while it may yet become known.

        Args:
            told: its state by the plugin's query.
            state: its state by slurmctld.
            reason: the reason by slurmctld.
        """
        since = self._missed.pop(job, self.clock())
        if state in MAYBE_AGAIN or (told in MAYBE_AGAIN and not state):
            return "CANCELLED", f"ended as {state or told}, and Slurm does not queue it again"
        if not state:
            self._missed[job] = since
            if self.clock() - since < PATIENCE:
                return None
            return "CANCELLED", "is known to neither squeue nor sacct any more, and taken for lost"
        if reason == FAILED_LAUNCH:
            self.run("scancel", job)
            return "CANCELLED", "could not be launched, and is held: it is cancelled"
        return state, f"is held, and waits for somebody's: scontrol release {job}" if reason in HELD else ""

    def _live(self, name: str) -> dict[str, tuple[str, str]] | None:
        """Returns the state and reason of each job that slurmctld remembers."""
        shown = self.run("squeue", "--noheader", "--states=all", "--name", name, "--format=%i|%T|%r")
        if shown is None:
            return None
        rows = (line.strip().split("|", 2) for line in shown.splitlines() if line.count("|") >= 2)
        return {job: (state, "".join(filter(str.isalpha, reason.lower()))) for job, state, reason in rows}


def watch(plugin: Any) -> None:
    """Lets the executor plugin see its jobs' states by way of `Watch`."""
    seen = Watch()
    query, check = plugin.query_job_status, plugin.Executor.check_active_jobs

    async def query_job_status(command: str, logger: Any) -> Any:
        states, seconds = await query(command, logger)
        words = shlex.split(command)
        if states is not None:
            states = seen.settle(states, words[words.index("--name") + 1], logger.warning)
        return states, seconds

    def check_active_jobs(self: Any, active_jobs: Any) -> Any:
        seen.active = {job.external_jobid for job in active_jobs}
        seen.elsewhere = bool(self._submitted_job_clusters)
        return check(self, active_jobs)

    plugin.query_job_status = query_job_status
    plugin.Executor.check_active_jobs = check_active_jobs


def _run(*command: str) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
