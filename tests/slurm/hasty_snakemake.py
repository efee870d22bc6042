"""Snakemake that looks at its cluster jobs every second.

Its Slurm plugin waits ten seconds longer after each look that finds nothing new, up to three minutes: most of these
tests' time would be waiting for it. A job that Slurm knows no more is lost after seconds here, not minutes.
"""

from __future__ import annotations

import asyncio
import sys

from snakemake.cli import main
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor


async def _a_second(self: RemoteExecutor) -> None:
    await asyncio.sleep(1)


RemoteExecutor.sleep = _a_second
sys.path.insert(0, "src")  # the clone's
from mto.runtime import job_states  # noqa: E402

job_states.PATIENCE = 8.0
main()
