"""What this machine has, and what it does not allow: where no Slurm can be brought up, the tests here say why."""

from __future__ import annotations

import os
import random
import re
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path

#: Debian keeps the daemons where a user's PATH, and a container's, may not look.
PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
NEEDED = ("munged", "munge", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "sinfo", "scancel")

# The kernel's words for what a sandbox withholds from root. All else that keeps a daemon from starting is a failure.
WITHHELD = re.compile(
    "Operation not permitted|Permission denied|Read-only file system|Function not implemented|Operation not supported"
    "|Address family not supported|Network is unreachable|Cannot assign requested address|Invalid ownership of"
    "|[Uu]nable to (?:init|initialize|create) cgroup|cgroup namespace",
)


def which(program: str) -> str | None:
    return shutil.which(program, path=PATH)


def why_not() -> str | None:
    """Why no Slurm can be brought up here, or None."""
    if missing := [name for name in NEEDED if which(name) is None]:
        return f"needs {', '.join(missing)} (Debian: apt-get install slurm-wlm munge)"
    if os.geteuid() != 0:
        return "needs root, as slurmd does"
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=10).close()
    except OSError as error:
        return f"needs to connect to 127.0.0.1, where this machine says: {error.strerror}"
    return None


def why_no_cgroups() -> str | None:
    """Why Slurm cannot keep a job's processes in control groups here, or None."""
    freezer = Path("/sys/fs/cgroup/freezer")
    probe = freezer / f"mto-{os.getpid()}"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        return f"needs {freezer} (control groups of version 1) to write to, where this machine says: {error.strerror}"
    return None


def withheld(last_words: str) -> str | None:
    """The line in which a daemon, before it gave up, says that the machine does not let it do its work; or None.

    Args:
        last_words: what it printed and logged. It may well complain first of what it then does without: only the lines
            it calls fatal count, or the last three where there are none.
    """
    lines = [line.strip() for line in last_words.splitlines() if line.strip()]
    said = [line for line in lines if "fatal: " in line] or lines[-3:]
    return next((line for line in said if WITHHELD.search(line)), None)


def free_ports(count: int) -> list[int]:
    """Below the range that the kernel deals out by itself: no other program is given one while its daemon is down."""
    found: list[int] = []
    while len(found) < count:
        port = random.SystemRandom().randrange(10_000, 30_000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", port))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found


def wait(condition: Callable[[], object], what: str, seconds: float = 60, check: bool = True) -> object:
    """Look four times a second until something is true; return it."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            assert not check, f"not within {seconds} s: {what}"
            return value
        time.sleep(0.25)
    return value
