"""The plan before it runs: how many jobs each stage has, and what each may take at most. No torch, no data.

`python -m mto.report.plan --rows JSON --out plan.csv` writes and prints the rows that the Snakefile worked out.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

from mto.study import STAGES, Study

COLUMNS = (
    "stage",
    "jobs",
    "gpus_each",
    "cpus_each",
    "mem_gb_each",
    "hours_each_at_most",
    "gpu_hours_at_most",
    "gpu_hours",
)
Row = tuple[str | int | float, ...]


def rows(study: Study) -> list[Row]:
    """One row a stage, in `COLUMNS`; `gpu_hours` is empty as long as nobody measured a job at this size."""
    table: list[Row] = []
    for stage in STAGES:
        jobs, each = len(study.select(stage)), study.resources(stage)
        hours = round(each.runtime / 60, 2)
        limit = round(jobs * each.gpu * hours, 1)
        table.append((stage, jobs, each.gpu, each.cpus_per_task, round(each.mem_mb / 1000, 1), hours, limit, ""))
    return table


def write(table: list[Row], out: str | Path) -> None:
    """Write the rows as CSV, and print them with their totals."""
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    with Path(out).open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([COLUMNS, *table])
    total = ("all", sum(int(row[1]) for row in table), *[""] * 4, round(sum(float(row[6]) for row in table), 1), "")
    width = max(len(stage) for stage in STAGES)
    for row in (COLUMNS, *table, total):
        cells = (str(value).rjust(len(name)) for name, value in zip(COLUMNS[1:], row[1:], strict=True))
        print(str(row[0]).ljust(width), *cells, sep="  ")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m mto.report.plan", description=__doc__)
    parser.add_argument("--rows", type=json.loads, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    write(args.rows, args.out)
