"""Work on many files, over processes, with a line of progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

Part = TypeVar("Part")
Result = TypeVar("Result")


def over_processes(
    title: str,
    work: Callable[[Part], Result],
    parts: Sequence[Part],
    sizes: Sequence[int],
    workers: int,
    chunk: int = 1,
) -> Iterator[Result]:
    """Yields the result of ``work`` on each part, in order, over processes; prints every ten seconds how far it is.

    Args:
        sizes: files of each part.
        chunk: parts that a process takes at once.
    """
    count, done = sum(sizes), 0
    started = told = time.monotonic()
    with ProcessPoolExecutor(max(workers, 1)) as pool:
        for size, result in zip(sizes, pool.map(work, parts, chunksize=chunk), strict=True):
            yield result
            done += size
            now = time.monotonic()
            if now - told > 10:
                told = now
                left = (count - done) * (now - started) / done
                print(f"{title}: {done} of {count} files, {left / 60:.0f} min left", flush=True)
