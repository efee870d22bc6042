"""What the logs of failed attempts lead to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mto.runtime.attempts import do_not_retry_refusals, memory, refused, slurm_logs

CUDA = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB."


@pytest.mark.parametrize(
    ("log", "ended"),
    [
        ("slurmstepd: error: StepId=11.0 exceeded memory limit (1320796160 > 1048576000), being killed", True),
        ("slurmstepd: error: Exceeded job memory limit", True),
        ("slurmstepd: error: Detected 1 oom-kill event(s) in StepId=7.0. Some of your processes may have ...", True),
        ("slurmstepd: error: Detected 2 oom_kill events in StepId=7.batch. Some of the step tasks ...", True),
        ("srun: error: n1: task 0: Out Of Memory", True),
        ("RuntimeError: DataLoader worker (pid 4711) is killed by signal: Killed.", True),
        (CUDA, False),
        ("slurmstepd: error: *** JOB 5 ON n1 CANCELLED AT 2026-01-01T00:00:00 DUE TO TIME LIMIT ***", False),
        ("", False),
    ],
)
def test_memory_grows_only_where_it_ran_out(tmp_path: Path, log: str, ended: bool) -> None:
    (tmp_path / "1.log").write_text(f"some lines\n{log}\nand more\n")
    assert memory(1000, [tmp_path / "1.log"], since=0) == (1500 if ended else 1000)


def test_every_time_that_memory_ran_out_counts_but_not_those_of_an_earlier_start(tmp_path: Path) -> None:
    folder = tmp_path / "rule_pretrain_segment/mae-vitb_seed0"
    folder.mkdir(parents=True)
    for number, log in enumerate(("Out Of Memory", "", "Out Of Memory", "Out Of Memory")):
        file = folder / f"{number}.log"
        file.write_text(log)
        os.utime(file, (number, number))
    logs = slurm_logs(tmp_path, "pretrain_segment", ["mae-vitb/seed0"])
    assert len(logs) == 4
    assert memory(1000, logs, since=1) == 2000
    assert memory(1000, [], since=0) == 1000


class Job:
    """The part of Snakemake's Job that matters."""

    def __init__(self, *log: str) -> None:
        self.log = log

    @property
    def restart_times(self) -> int:
        return 10


def test_a_refusal_is_not_tried_again(tmp_path: Path) -> None:
    class Patched(Job):
        restart_times = Job.restart_times

    do_not_retry_refusals(Patched)
    log = tmp_path / "log"
    assert Patched(str(log)).restart_times == 10  # no log: the job was lost before it began
    log.write_text("loss 1.0\nmto: error: datasets.imagenet.root: no such folder\n  a launcher's lines\n")
    assert refused([log])
    assert Patched(str(log)).restart_times == 0
    log.write_text("Traceback\nRuntimeError: it said 'mto: error: no'\n")
    assert Patched(str(log)).restart_times == 10


def test_snakemakes_job_has_what_is_changed() -> None:
    jobs = pytest.importorskip("snakemake.jobs")
    assert isinstance(jobs.Job.restart_times, property)
    assert isinstance(jobs.Job.log, property)
