"""What `snakemake -n` of the paper's study costs beside an empty Snakefile: CPU seconds, pairs in turns.

    python benchmarks/dry_run.py [--pairs 5]

User and system time of the processes, which another load of the machine alters little; the ratio is of the medians.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
DRY = [sys.executable, "-m", "snakemake", "-n", "--quiet", "all"]


def cpu_seconds(folder: Path, *arguments: str) -> float:
    """Of one dry run, children included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([*DRY, *arguments], cwd=folder, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    pairs = parser.parse_args().pairs
    with tempfile.TemporaryDirectory() as folder:
        empty = Path(folder)
        (empty / "Snakefile").write_text("rule all:\n    default_target: True\n")
        study, nothing = [], []
        for _ in range(pairs):
            nothing.append(cpu_seconds(empty))
            study.append(cpu_seconds(ROOT, "--config", "scale=paper"))
            print(f"empty {nothing[-1]:.2f} s   paper {study[-1]:.2f} s", flush=True)
    base, ours = median(nothing), median(study)
    print(f"median: empty {base:.2f} s, paper {ours:.2f} s, ratio {ours / base:.2f}")


if __name__ == "__main__":
    main()
