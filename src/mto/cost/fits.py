"""What fits a card, as `python -m mto preflight --emulate` found it: as a table, and in words for the plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mto.errors import UserError
from mto.files import read_json
from mto.names import MEMORIES

#: In the folder of the results.
NAME = "preflight-emulated.json"
#: Of the table of rows.
HEAD = """\
| stage | run | micro-batch | needs, GiB | fits | largest micro-batch that fits |
|---|---|--:|--:|---|--:|"""
Found = dict[str, Any]


def card(found: Found) -> str:
    """Returns the card's name."""
    return f"an emulated card of {found['gigabytes']} GB, compute capability {found['compute_capability']}"


def table(found: Found) -> list[str]:
    """Returns the lines of a Markdown table, and what is to be done about what does not fit or start."""
    return [HEAD, *(line(row) for row in found["rows"]), *left_out(found), "", *remedies(found)]


def left_out(found: Found) -> list[str]:
    """Returns a line of the table for each stage that the study has and an emulated card cannot count."""
    return [f"| {stage} | not counted: its regions depend on values | | | | |" for stage in found.get("left_out", ())]


def line(row: Found) -> str:
    """Returns a row's line of the table."""
    start = f"| {row['stage']} | {row['run']} | {row['micro_batch']} |"
    if "error" in row:
        return f"{start} | does not start | |"
    needs, fixed = row["needs_mib"], "" if row["varies"] else " (batch norms see it)"
    return (
        f"{start} {'more' if needs is None else f'{needs / 1024:.1f}'} | {'no' if needs is None else 'yes'} "
        f"| {row['fits'] or 'none'}{fixed} |"
    )


def remedies(found: Found) -> list[str]:
    """Returns a line for each row that does not fit or start: what is to be done."""
    said = []
    for row in found["rows"]:
        start = f"- {row['run']}, {row['stage']}:"
        if "error" in row:
            said.append(f"{start} {row['error']}")
        elif row["needs_mib"] is None:
            said.append(f"{start} {_remedy(row)}")
    return said


def _remedy(row: Found) -> str:
    """Returns what to set where the configured micro-batch does not fit: what alters no result comes first."""
    stage, spared, remedies = row["stage"], row.get("spared"), []
    if spared and spared["needs_mib"] is not None:
        needs = f"needs {spared['needs_mib'] / 1024:.1f} GiB and costs {MEMORIES[spared['memory']]}"
        remedies.append(f"set resources.{stage}.memory: {spared['memory']}, which {needs}")
    if row["fits"]:
        fewer = "" if row["varies"] else ", with which its batch norms see fewer images than the recipe's"
        remedies.append(f"set resources.{stage}.micro_batch: {row['fits']}{fewer}")
    elif spared and not remedies and spared["fits"]:
        remedies.append(f"set resources.{stage}: memory: {spared['memory']}, micro_batch: {spared['fits']}")
    if not remedies or (not row["varies"] and len(remedies) == 1 and row["fits"]):
        remedies.append("use a larger card")
    return ", or ".join(remedies)


def told(folder: Path) -> list[str]:
    """Returns a line for each stage of what was found for this study; nothing where nothing was."""
    try:
        found = read_json(folder / NAME)
    except UserError:
        return []
    if not found:
        return []
    stages: dict[str, list[Found]] = {}
    for row in found["rows"]:
        stages.setdefault(row["stage"], []).append(row)
    lines = [f"On {card(found)}:"]
    for stage, rows in stages.items():
        if failed := [row["run"] for row in rows if "error" in row]:
            lines.append(f"- {stage}: {', '.join(failed)} cannot start; see {folder / NAME}")
            continue
        least = min(row["fits"] for row in rows)
        configured = max(row["micro_batch"] for row in rows)
        verdict = "fits" if least >= configured else "does not fit"
        lines.append(
            f"- {stage}: micro-batch {configured} {verdict}; the largest that fits is {least or 'none'}{_spared(rows)}"
        )
    return lines


def _spared(rows: list[Found]) -> str:
    """Returns the option with which all that does not fit does, and what it costs; nothing where there is none."""
    spared = [row.get("spared") for row in rows if row["needs_mib"] is None]
    if not spared or not all(one and one["needs_mib"] is not None for one in spared):
        return ""
    option = max((one["memory"] for one in spared if one), key=list(MEMORIES).index)
    return f"; with memory: {option} the configured one fits, which costs {MEMORIES[option]}"
