"""What `snakemake -n` of the paper's study costs beside an empty Snakefile, and beside as many jobs of a bare rule.

    python benchmarks/dry_run.py [--rounds 5]

User and system time of the processes, which another load of the machine alters little; ratios are of the medians.
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
EMPTY = "rule all:\n    default_target: True\n"
JOBS = 180  # of the paper's study
BARE = f"""rule all:
    input:
        expand("{{n}}.txt", n=range({JOBS})),


rule one:
    output:
        "{{n}}.txt",
    shell:
        "touch {{output}}"
"""
DRY = [sys.executable, "-m", "snakemake", "-n", "--quiet", "all"]


def cpu_seconds(folder: Path, *arguments: str) -> float:
    """Of one dry run, children included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([*DRY, *arguments], cwd=folder, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as temporary:
        folders = {"empty": Path(temporary, "empty"), "bare": Path(temporary, "bare"), "paper": ROOT}
        for name, text in {"empty": EMPTY, "bare": BARE}.items():
            folders[name].mkdir()
            (folders[name] / "Snakefile").write_text(text)
        taken: dict[str, list[float]] = {name: [] for name in folders}
        for _ in range(rounds):
            for name, folder in folders.items():
                taken[name].append(cpu_seconds(folder, *(["--config", "scale=paper"] if name == "paper" else [])))
            print("   ".join(f"{name} {values[-1]:.2f} s" for name, values in taken.items()), flush=True)
    empty = median(taken["empty"])
    print("   ".join(f"{name} x{median(values) / empty:.2f}" for name, values in taken.items()))


if __name__ == "__main__":
    main()
