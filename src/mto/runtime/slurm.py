"""What Slurm can tell before the first job is submitted. The Snakefile asks at the start of a run; no torch here.

A job that asks for more than any node has is refused by ``sbatch`` at each attempt, one above its partition's time
limit waits for ever, and without an accounting database nobody notices that a job ended. All of it is known beforehand,
so the start says it: a line for each problem, with the key to change.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mto.runtime import submit

PROFILE = "slurm/profile.yaml"
POLL = 180  # seconds: the executor plugin's longest wait between two looks at its jobs


@dataclass(frozen=True)
class Request:
    """What one stage's job asks of Slurm, by the names of Snakemake's resources.

    Attributes:
        stage: the stage, as under `resources` in config.yaml.
        partition: one, or several with commas; None: the cluster's default.
        gpu: of the whole job; the other amounts are of each node.
        mem_mb: MB.
        runtime: minutes.
    """

    stage: str
    partition: str | None = None
    gpu: int = 0
    cpus_per_task: int = 1
    mem_mb: int = 0
    runtime: int = 0
    nodes: int = 1


@dataclass(frozen=True)
class Node:
    """What a node has, or a job wants of one; ``runtime`` in minutes is the partition's limit."""

    gpu: int
    cpus_per_task: int
    mem_mb: int
    runtime: float


UNITS = {"gpu": "GPUs a node", "cpus_per_task": "CPUs", "mem_mb": "MB", "runtime": "minutes"}
ADVICE = {
    "gpu": "; nodes: N spreads a job over N whole nodes",
    "runtime": "; a job at its limit is submitted again and continues, so a shorter one will do",
}


def problems(
    requests: Iterable[Request],
    status_command: str | None = None,
    first_look: int = 40,
    account: str | None = None,
    array_jobs: str | None = None,
) -> list[str]:
    """Returns every reason why these jobs could not run, or not be watched, on this cluster; a line each.

    Args:
        status_command: `slurm-status-command`, sacct or squeue, as the executor plugin settled it.
        first_look: `slurm-init-seconds-before-status-checks`.
        account: `slurm_account`, if one is given.
        array_jobs: `slurm-array-jobs`, if it is given.
    """
    if array_jobs:
        return [
            f"{PROFILE}: slurm-array-jobs: {array_jobs}: leave it out: the executor plugin takes the state of one task "
            "for that of all, so that a finished job may be reported as failed and its outputs deleted"
        ]
    if shutil.which("sbatch") is None:
        return [f"{PROFILE}: sbatch is not on this machine's PATH: start where Slurm jobs are submitted from"]
    shown = _run("sinfo", "-a", "-h", "-N", "-o", "%P|%c|%m|%G|%l")
    if shown.returncode:
        return [f"Slurm does not answer (sinfo: {_said(shown)}): start again when it does"]
    partitions, default = read_partitions(shown.stdout)
    found = _blind(status_command, first_look, account)
    for request in requests:
        found += _misfit(request, partitions, default)
    return list(dict.fromkeys(found))


def _blind(status_command: str | None, first_look: int, account: str | None) -> list[str]:
    """Returns why the executor plugin could not submit a job, or see that it ended."""
    sacct = shutil.which("sacct")
    if not sacct and not account:
        return [
            f"{PROFILE}: default-resources.slurm_account: name one: it is guessed by sacct, which is not installed here"
        ]
    if sacct and status_command != "squeue":
        answer = _run("sacct", "-X", "--noheader", "--clusters", "all", "--name", "mto")
        if not answer.returncode:
            return []
        return [
            f"{PROFILE}: slurm-status-command: sacct fails ({_said(answer)}), and no job's end would be seen; "
            "on a cluster without an accounting database set it to squeue"
        ]
    age = re.search(r"^MinJobAge\s*=\s*(\d+)", _run("scontrol", "show", "config").stdout, re.MULTILINE)
    if not age or int(age[1]) >= max(POLL, 3 * first_look):
        return []
    return [
        f"{PROFILE}: slurm-status-command: squeue: Slurm forgets a job {age[1]} s after its end (MinJobAge), and "
        f"Snakemake looks every {POLL} s: use sacct, or ask for MinJobAge=300, Slurm's default"
    ]


def _misfit(request: Request, partitions: dict[str, list[Node]], default: str | None) -> list[str]:
    """Returns why no node of its partition would ever run this job."""
    names = [name.strip() for name in (request.partition or default or "").split(",") if name.strip()]
    key = f"{PROFILE}: default-resources.slurm_partition"
    known = f"one of {', '.join(sorted(partitions))}"
    if not names:
        return [f"{key}: needed, for this cluster has no default: {known}"]
    if unknown := [name for name in names if name not in partitions]:
        return [f"{key}: {', '.join(unknown)}: this cluster has no such partition: {known}"]
    nodes = [node for name in names for node in partitions[name]]
    asked = Node(-(-request.gpu // request.nodes), request.cpus_per_task, request.mem_mb, request.runtime)
    where, resources = f"partition {', '.join(names)}", f"config.yaml: resources.{request.stage}"
    found = []
    for field, unit in UNITS.items():
        wanted, most = getattr(asked, field), max(getattr(node, field) for node in nodes)
        if wanted > most:
            advice = ADVICE.get(field, "")
            found.append(f"{resources}.{field}: {wanted:g} {unit}, and {where} has {most:g} at most{advice}")
    if found:
        return found
    fitting = [node for node in nodes if all(getattr(node, name) >= getattr(asked, name) for name in UNITS)]
    if len(fitting) < request.nodes:
        wanted = ", ".join(f"{name}: {getattr(asked, name):g}" for name in UNITS)
        return [
            f"{resources}: {where} has {len(fitting)} node(s) with all of {wanted}, and the job wants {request.nodes}"
        ]
    size = min(node.gpu for node in fitting)
    if request.nodes > 1 and request.gpu != request.nodes * size:
        # Slurm deals a job's GPUs out as it likes, 3 and 1 for instance.
        return [
            f"{resources}.nodes: several nodes are taken whole, and one of {where} has {size} GPUs: "
            f"set gpu: {request.nodes * size}, or nodes: {max(request.gpu // size, 1)}"
        ]
    return []


# ----------------------------------------------------------------------------------------------------- Slurm's language
def read_partitions(shown: str) -> tuple[dict[str, list[Node]], str | None]:
    """Returns the nodes of each partition, and the default one, from ``sinfo -N -o '%P|%c|%m|%G|%l'``."""
    partitions: dict[str, list[Node]] = {}
    default = None
    for line in shown.splitlines():
        name, cpus, memory, gres, limit = line.strip().split("|")
        if name.endswith("*"):
            name = default = name[:-1]
        node = Node(count_gpus(gres), int(cpus), memory_of(memory), minutes(limit))
        partitions.setdefault(name, []).append(node)
    return partitions, default


def count_gpus(gres: str) -> int:
    """Returns the number of GPUs of a node: ``gpu:h100:8(S:0-1),nvme:1`` has 8."""
    total = 0
    for item in re.sub(r"\([^)]*\)", "", gres).split(","):
        kind, *details = item.split(":")
        if kind == "gpu":
            total += int(details[-1]) if details and details[-1].isdigit() else 1
    return total


def memory_of(shown: str) -> int:
    """Returns the memory in MB; a cluster that does not manage it shows 1, which stands for any amount."""
    return int(shown) if int(shown) > 1 else 10**12


def minutes(limit: str) -> float:
    """Returns a time limit's minutes: ``[days-]hours:minutes:seconds``, ``minutes:seconds``, or a word for none."""
    days, _, clock = limit.rpartition("-")
    parts = clock.split(":")
    if not all(part.isdigit() for part in parts):
        return float("inf")
    seconds = 0
    for part in parts:
        seconds = seconds * 60 + int(part)
    return int(days or 0) * 1440 + seconds / 60


def remember_min_job_age(plugin: Any) -> None:
    """Lets the executor plugin ask slurmctld for MinJobAge once.

    It asks before each look at its jobs, and when slurmctld is away it looks by sacct, which may have no database.
    """
    known = plugin.get_min_job_age()
    plugin.get_min_job_age = lambda: known


def submit_patiently(plugin: Any) -> None:
    """Lets the executor plugin submit through `mto.runtime.submit`, which waits where Slurm may take a job later."""
    command = plugin.get_submit_command
    patient = f"{shlex.quote(sys.executable)} {shlex.quote(submit.__file__)}"
    plugin.get_submit_command = lambda *args, **kwargs: f"{patient} {command(*args, **kwargs)}"


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 1, "", str(error))


def _said(done: subprocess.CompletedProcess[str]) -> str:
    lines = (done.stderr or done.stdout).strip().splitlines()
    return lines[-1] if lines else f"exit code {done.returncode}"
