"""Which of a job's processes this is, by what this product's own launcher says, and nobody else.

Containers, pods and other launchers leave torch's names (``RANK``, ``WORLD_SIZE``, ``MASTER_ADDR`` ...) in shells that
hold one process. They are no sign that `mto.runtime.launch` started a process: that sign is a name of our own.
"""

from __future__ import annotations

import os

#: The launcher that started this process, by its process id.
LAUNCHER = "MTO_LAUNCHER"
#: What torch's launcher sets for each process that it starts.
TORCHS = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE"),
    *("ROLE_RANK", "ROLE_NAME", "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
)


def forget_others() -> None:
    """Removes from the environment what other launchers than the one that started this process left in it."""
    if os.environ.get(LAUNCHER) == str(os.getppid()):
        return
    for name in (LAUNCHER, *TORCHS, *(name for name in os.environ if name.startswith("TORCHELASTIC_"))):
        os.environ.pop(name, None)


def is_launched() -> bool:
    """Returns whether this process is one of those that the launcher started for a job."""
    return LAUNCHER in os.environ


def number(name: str, alone: int) -> int:
    """Returns a number that torch's launcher gave this process, such as its ``RANK``.

    Args:
        alone: the number of a process that was not launched.
    """
    return int(os.environ[name]) if is_launched() else alone
