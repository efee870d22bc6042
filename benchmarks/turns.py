"""Several ways to do one thing, compared by seconds of CPU and by the peak of memory: of the scripts beside it."""

import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def turns(ways: Mapping[str, Callable[[], object]], rounds: int) -> None:
    """Print of each the median seconds of CPU, as a ratio to the first, and the resident memory needed meanwhile.

    They take turns, so that a machine which is busy with others hardly counts. Memory as Linux sees it.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    peaks: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            CLEAR.write_text("5")  # the high-water mark is where the water is
            before, start = _gibibytes("VmRSS"), time.process_time()
            way()
            seconds[name].append(time.process_time() - start)
            peaks[name].append(_gibibytes("VmHWM") - before)
    first = median(next(iter(seconds.values())))
    for name in ways:
        taken = median(seconds[name])
        print(f"  {name:36} {taken / first:6.3f} of the first's {first:.2f} s, peak + {max(peaks[name]):.2f} GiB")


def _gibibytes(name: str) -> float:
    return int(re.search(rf"{name}:\s+(\d+)", STATUS.read_text())[1]) / 2**20
