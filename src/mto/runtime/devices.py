"""Jobs on one machine never share a GPU: each holds a lock on every device that it uses. Slurm parts its own jobs.

A lock is the kernel's, on an open file: it ends with the process that took it, however that ends.
"""

from __future__ import annotations

import fcntl
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from mto.emulate.card import Card

VISIBLE = "CUDA_VISIBLE_DEVICES"
SLURM_JOB = "SLURM_JOB_ID"
PAUSE = 1.0  # seconds between two looks


def lease(count: int, folder: Path | None = None) -> None:
    """Waits for ``count`` GPUs that no other job on this machine holds; makes only them visible to this process.

    They are among those of ``CUDA_VISIBLE_DEVICES`` where it is set. Where there are fewer in all, nothing is done: see
    `Hardware.setup`, which refuses. A Slurm job that was given just these has them to itself; in an allocation with
    more, as `salloc` makes, several jobs may run. Call it before CUDA starts.
    """
    if not count or Card.asked():  # an emulated GPU is every process's own
        return
    devices = visible()
    if len(devices) < count or (SLURM_JOB in os.environ and len(devices) == count):
        return
    os.environ[VISIBLE] = ",".join(take(devices, count, folder or _folder()))


def count() -> int | None:
    """Returns how many GPUs are here for a job, or None where nobody knows.

    In an allocation of Slurm these are the allocation's; elsewhere device files tell, which WSL does not have. It does
    without torch, which the Snakefile does not import.
    """
    if Card.asked():
        return None
    if (listed := os.environ.get(VISIBLE)) is not None:
        return len([name for name in listed.split(",") if name.strip()])
    if SLURM_JOB in os.environ and (granted := os.environ.get("SLURM_GPUS_ON_NODE", "")).isdigit():
        return int(granted)
    return None if Path("/dev/dxg").exists() else len(list(Path("/dev").glob("nvidia[0-9]*")))


def visible() -> list[str]:
    """Returns the names of the GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` has them."""
    if (listed := os.environ.get(VISIBLE)) is not None:
        return [name.strip() for name in listed.split(",") if name.strip()]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


def take(devices: Sequence[str], count: int, folder: Path) -> list[str]:
    """Locks ``count`` of ``devices``, in their order, as soon as they are free, and returns their names.

    Jobs are served one after the other: a large one is not overtaken for ever, and two never wait for each other's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    queue = _open(folder / "queue")
    fcntl.flock(queue, fcntl.LOCK_EX)
    taken: dict[str, int] = {}
    told = False
    while True:
        for name in devices:
            if len(taken) < count and name not in taken and (lock := _try(folder / name)) is not None:
                taken[name] = lock
        if len(taken) == count:
            break
        if not told:
            told = True
            print(f"Waiting for {count} of GPUs {', '.join(devices)}: others hold them", file=sys.stderr, flush=True)
        time.sleep(PAUSE)
    os.close(queue)
    return [name for name in devices if name in taken]


def _try(file: Path) -> int | None:
    lock = _open(file)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def _open(file: Path) -> int:
    return os.open(file, os.O_RDWR | os.O_CREAT, 0o666)


def _folder() -> Path:
    """Returns the locks' folder, one for each Slurm allocation: the same number may be two devices in two of them."""
    allocation = f"-{job}" if (job := os.environ.get(SLURM_JOB)) else ""
    return Path(tempfile.gettempdir()) / f"mto-devices-{os.getuid()}{allocation}"
