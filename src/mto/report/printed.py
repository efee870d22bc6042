"""What the paper prints, and what others report: `mto/paper/*.csv` (that folder's README says what is unknown)."""

from __future__ import annotations

import csv
from functools import cache
from importlib import resources
from typing import NamedTuple

from mto.config.study_plan import REPORTS


class Reported(NamedTuple):
    """A number that a baseline's own repository or an independent reproduction reports."""

    row: str
    task: str
    metric: str
    epoch: int
    value: str
    source: str
    note: str


@cache
def load(table: str) -> dict[tuple[str, str], str]:
    """Returns (row, column) to the number as printed ("1.20" keeps its zero).

    Rows are run names, columns are `metric@epoch`, `metric@first-last` or a name.

    Rows called `unassigned` are numbers whose place in the table is not known; they are left out. A table that is ours,
    beyond the paper, has none.
    """
    if table in REPORTS and REPORTS[table].ours:
        return {}
    return {(row["row"], row["column"]): row["value"] for row in rows(table) if row["row"] != "unassigned"}


def unassigned(table: str) -> list[dict[str, str]]:
    """Returns the rows of a table whose place in it is not known."""
    return [row for row in rows(table) if row["row"] == "unassigned"]


@cache
def elsewhere() -> tuple[Reported, ...]:
    """Returns every number of elsewhere.csv."""
    return tuple(Reported(epoch=int(row.pop("epoch")), **row) for row in rows("elsewhere"))


def rows(name: str) -> list[dict[str, str]]:
    """Returns the lines of a CSV, by column."""
    text = (resources.files("mto") / "paper" / f"{name}.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))
