"""The paper's claims about numbers, each with its arithmetic and a verdict: `mto/paper/audit.csv`.

The arithmetic is done again by a test, from `mto/paper/*.csv` (what the paper prints, what others report) and from the
two recipes of the package (`tests/report/audited.py`, which also writes the file). The table says nothing of our own
runs.
"""

from __future__ import annotations

from typing import NamedTuple

from mto.report import printed
from mto.report.metrics import Report
from mto.report.sheet import Column, Sheet

HOLDS, NOT_FOLLOWING, CONTRADICTED, OPEN = "holds", "does not follow", "contradicted", "cannot be checked"


class Claim(NamedTuple):
    """What the paper says, where, the arithmetic, and whether it holds."""

    claim: str
    where: str
    arithmetic: str
    verdict: str


def claims() -> list[Claim]:
    """Returns every claim, in the paper's order."""
    return [Claim(**row) for row in printed.rows("audit")]


def audit(report: Report) -> Sheet:
    """Returns the table of the claims."""
    sheet = Sheet(
        *(report.name, "Audit", "The paper's claims that arithmetic can check."),
        "From the paper's own printed numbers, and from published ones where it says so; not from our runs.",
        [
            Column("Claim", align="X"),
            Column("Where", align="l"),
            Column("Arithmetic", align="X"),
            Column("Verdict", align="l"),
        ],
        fields=Claim._fields,
    )
    for claim in claims():
        sheet.rows.append(list(claim))
        sheet.records.append(claim._asdict())
    sheet.notes.append(
        f"{HOLDS}: the numbers agree. {NOT_FOLLOWING}: the numbers given do not lead to it. {CONTRADICTED}: they say"
        f" the opposite. {OPEN}: what it needs is not printed, or not published. Printed accuracies are rounded to"
        " 0.1: a difference that rounding alone could make is no contradiction."
    )
    return sheet
