"""What Snakemake is told of a Slurm job, by what sacct or squeue said first and what slurmctld then says."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from mto.runtime.job_states import PATIENCE, Watch, watch


class Slurm:
    """Answers `squeue`, and notes what else is run."""

    def __init__(self, live: str | None) -> None:
        self.live, self.ran = live, []

    def __call__(self, *command: str) -> str | None:
        self.ran.append(command)
        return self.live if command[0] == "squeue" else ""


def settled(told: dict[str, str], live: str | None, *active: str) -> tuple[dict[str, str], list[str], Slurm]:
    slurm, said = Slurm(live), []
    seen = Watch(run=slurm, active={*active} or {"7"})
    states = seen.settle(told, "the-run", said.append)
    assert seen.settle(told, "the-run", said.append) == states
    assert len(said) <= 1, "said twice"
    return states, said, slurm


@pytest.mark.parametrize(
    ("told", "live", "state", "line"),
    [
        ("RUNNING", "RUNNING|None", "RUNNING", ""),
        ("COMPLETED", None, "COMPLETED", ""),
        ("COMPLETED", "", "COMPLETED", ""),
        ("CANCELLED by 1000", "CANCELLED|None", "CANCELLED", ""),
        ("CANCELLED by 0", "", "CANCELLED", ""),
        ("TIMEOUT", "TIMEOUT|TimeLimit", "TIMEOUT", ""),
        # Preempted: queued again, running again, given up; sacct has the old word for some seconds.
        ("PREEMPTED", "PENDING|BeginTime", "PENDING", ""),
        ("PREEMPTED", "RUNNING|None", "RUNNING", ""),
        ("PREEMPTED", "PREEMPTED|None", "CANCELLED", "ended as PREEMPTED, and Slurm does not queue it again"),
        ("PREEMPTED", "", "CANCELLED", "ended as PREEMPTED, and Slurm does not queue it again"),
        ("PREEMPTED", None, None, ""),  # nobody can say: the next look will
        ("NODE_FAIL", "PENDING|BeginTime", "PENDING", ""),
        ("NODE_FAIL", "NODE_FAIL|None", "CANCELLED", "ended as NODE_FAIL, and Slurm does not queue it again"),
        # Held.
        ("PENDING", "PENDING|launch failed requeued held", "CANCELLED", "could not be launched, and is held"),
        ("PENDING", "PENDING|launch_failed_requeued_held", "CANCELLED", "could not be launched, and is held"),
        ("PENDING", "PENDING|JobHeldAdmin", "PENDING", "scontrol release 7"),
        ("PENDING", "PENDING|JobHeldUser", "PENDING", "scontrol release 7"),
        ("PENDING", "PENDING|Priority", "PENDING", ""),
        # The accounting is behind, or lost it: slurmctld knows.
        ("RUNNING", "FAILED|NonZeroExitCode", "FAILED", ""),
        (None, "COMPLETED|None", "COMPLETED", ""),
        (None, "PENDING|Resources", "PENDING", ""),
        (None, "", None, ""),
        (None, None, None, ""),
    ],
)
def test_what_a_job_s_state_comes_to(told: str | None, live: str | None, state: str | None, line: str) -> None:
    shown = f"7|{live}\n" if live else live
    states, said, slurm = settled({} if told is None else {"7": told}, shown)
    assert states.get("7") == state
    assert bool(said) == bool(line)
    assert line in "".join(said)
    assert (("scancel", "7") in slurm.ran) == ("launched" in line)
    assert (slurm.ran[0][0], *slurm.ran[0][3:5]) == ("squeue", "--name", "the-run")


@pytest.mark.parametrize("told", [{}, {"7": "RUNNING"}], ids=["by neither", "sacct says that it runs"])
def test_a_job_that_slurmctld_does_not_know_is_lost_in_time(told: dict[str, str]) -> None:
    now, said = [0.0], []
    seen = Watch(run=Slurm(""), clock=lambda: now[0], active={"7"})
    for now[0] in (0.0, PATIENCE - 1):
        assert seen.settle(told, "run", said.append) == told
    seen.run = Slurm("7|RUNNING|None")
    assert seen.settle(told, "run", said.append) == {"7": "RUNNING"}  # it is there after all: the time begins anew
    seen.run = Slurm("")
    for now[0] in (PATIENCE + 1, 2 * PATIENCE):
        assert seen.settle(told, "run", said.append) == told
    now[0] = 2 * PATIENCE + 1
    assert seen.settle(told, "run", said.append) == {"7": "CANCELLED"}
    assert len(said) == 1
    assert "taken for lost" in said[0]


def test_jobs_of_another_cluster_are_left_to_the_accounting() -> None:
    seen = Watch(run=Slurm(""), clock=lambda: 1e9, active={"7", "8"}, elsewhere=True)
    assert seen.settle({"7": "RUNNING", "8": "CANCELLED by 0"}, "run", print) == {"7": "RUNNING", "8": "CANCELLED"}


def test_the_plugin_sees_its_jobs_through_the_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the real plugin has it: a look is a generator over the jobs, which asks for their states by the run's name."""
    plugin = pytest.importorskip("snakemake_executor_plugin_slurm")
    answers: list[Any] = [({"7": "CANCELLED by 0"}, 0.1), (None, None)]

    async def query_job_status(command: str, logger: Any) -> Any:
        return answers.pop(0)

    async def check_active_jobs(self: Any, active_jobs: Any) -> Any:
        command = plugin.query_job_status_squeue("the-run")
        yield await plugin.query_job_status(command, SimpleNamespace(warning=print))

    monkeypatch.setattr(plugin, "query_job_status", query_job_status)
    monkeypatch.setattr(plugin.Executor, "check_active_jobs", check_active_jobs)
    watch(plugin)

    async def look() -> list[Any]:
        executor = SimpleNamespace(_submitted_job_clusters=set())
        jobs = [SimpleNamespace(external_jobid="7")]
        return [found async for found in plugin.Executor.check_active_jobs(executor, jobs)]

    assert asyncio.run(look()) == [({"7": "CANCELLED"}, 0.1)]
    assert asyncio.run(look()) == [(None, None)]  # an outage stays one
