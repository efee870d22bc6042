"""The paper's printed numbers, from `mto/paper/<table>.csv` (that folder's README says which are unknown)."""

from __future__ import annotations

import csv
from importlib import resources


def official(task: str) -> dict[tuple[str, int], str]:
    """(run, epochs) to what the baseline's own repository reports for `finetune`, `linear` or `ade20k`."""
    found = ((run, column.split("@"), value) for (run, column), value in load("official").items())
    return {(run, int(epochs)): value for run, (name, epochs), value in found if name == task}


def load(table: str) -> dict[tuple[str, str], str]:
    """(row, column) to the number as printed ("1.20" keeps its zero). Rows are run names, columns are
    `metric@epoch` or a name.

    Rows called `unassigned` are numbers whose place in the table is not known; they are left out.
    """
    text = (resources.files("mto") / "paper" / f"{table}.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines())
    return {(row["row"], row["column"]): row["value"] for row in rows if row["row"] != "unassigned"}
