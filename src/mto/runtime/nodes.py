"""Several nodes for one job: where one has fewer GPUs than a job wants, Slurm starts the task's launcher on each."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import NoReturn

from mto.errors import UserError

#: ``host:port`` where the nodes' launchers meet; set on each of them.
RENDEZVOUS = "MTO_RENDEZVOUS"
#: When the job began, in seconds since 1970: its processes start later.
BEGAN = "MTO_BEGAN"


def is_one_of_several() -> bool:
    """Returns whether `spread` started this process."""
    return RENDEZVOUS in os.environ


def spread(argv: Sequence[str], processes: int, nodes: int, gpus: int, began: float) -> NoReturn:
    """Becomes the step that runs ``python -m mto ARGV`` once on each of this Slurm job's ``nodes``.

    What it starts finds `is_one_of_several` true.

    Raises:
        UserError: not in a Slurm job, or the nodes cannot share ``processes`` evenly.
    """
    command = step(processes, nodes, gpus)
    os.environ |= {RENDEZVOUS: f"{socket.gethostname()}:{_free_port()}", BEGAN: str(began)}
    os.execvp(command[0], [*command, sys.executable, "-m", "mto", *argv])


def step(processes: int, nodes: int, gpus: int) -> list[str]:
    """Returns the ``srun`` command before what each node runs.

    Snakemake removed Slurm's description of the job, so that all is spelled out.

    Raises:
        UserError: not in a Slurm job, or the nodes cannot share ``processes`` evenly.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if not job:
        raise UserError(f"--nodes {nodes}: only a Slurm job has several nodes, and this is none; use --nodes 1")
    if processes % nodes:
        raise UserError(f"--nodes {nodes}: {processes} processes cannot be shared evenly; change --gpus or --nodes")
    cpus = int(_ask("squeue", "--noheader", "--jobs", job, "--format=%C")) // nodes
    command = ["srun", "--overlap", f"--nodes={nodes}", "--ntasks-per-node=1", f"--cpus-per-task={cpus}"]
    return [*command, f"--gpus-per-node={gpus // nodes}"] if gpus else command  # left to itself, a step may see fewer


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def _ask(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        raise UserError(f"--nodes: Slurm does not say what this job has ({command[0]}: {said.strip()})") from error
    return done.stdout.strip()
