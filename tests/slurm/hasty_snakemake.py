"""Snakemake that looks at its cluster jobs every second.

Its Slurm plugin waits ten seconds longer after each look that finds nothing new, up to three minutes: most of these
tests' time would be waiting for it.
"""

from __future__ import annotations

import asyncio

from snakemake.cli import main
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor


async def _a_second(self: RemoteExecutor) -> None:
    await asyncio.sleep(1)


RemoteExecutor.sleep = _a_second
main()
