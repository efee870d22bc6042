"""Which failed jobs Snakemake tries again, and with how much memory: their logs tell why they failed. No torch here.

A time limit, a lost node, a killed process: another attempt continues from the last checkpoint. A task that refused
what it was given would refuse it again, after another wait for GPUs. One that ran out of memory would do so again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

REFUSAL = "mto: error: "  # how `python -m mto` begins the one line of a mistake that the user can mend
# slurmstepd's with and without cgroups, srun's, and torch's when a loader is gone; "CUDA out of memory" is none of them
OUT_OF_MEMORY = re.compile(
    r"oom[-_ ]kill|[Ee]xceeded (job |step )?memory limit|Out Of Memory|worker \(pid .* is killed by signal: Killed"
)


def refused(logs: Iterable[str | Path]) -> bool:
    """Returns whether a task said in its log that it cannot work with what it was given."""
    return any(line.startswith(REFUSAL) for log in logs for line in _read(log).splitlines())


def do_not_retry_refusals(job_class: Any) -> None:
    """Lets Snakemake's ``Job`` try nothing again that its task refused."""
    times: Callable[[Any], int] = job_class.restart_times.fget
    job_class.restart_times = property(lambda job: 0 if refused(job.log) else times(job))


def memory(mem_mb: int, logs: Iterable[Path], since: float) -> int:
    """Returns ``mem_mb`` and half of it more for each Slurm log, changed since ``since``, where memory ran out."""
    ends = sum(bool(OUT_OF_MEMORY.search(_read(log))) for log in logs if log.stat().st_mtime >= since)
    return mem_mb + mem_mb // 2 * ends


def slurm_logs(folder: Path, rule: str, wildcards: Iterable[str]) -> list[Path]:
    """Finds a job's logs of the executor plugin: ``<slurm-logdir>/rule_<rule>/<wildcards>/<id>.log``."""
    return sorted((folder / f"rule_{rule}" / "_".join(wildcards).replace("/", "_")).glob("*.log"))


def _read(file: str | Path) -> str:
    try:
        return Path(file).read_text(errors="replace", encoding="utf-8")
    except OSError:
        return ""
