"""What fits a card, as `python -m mto preflight --emulate` found it: as a table, and in words for the plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mto.errors import UserError
from mto.files import read_json

#: In the folder of the results.
NAME = "preflight-emulated.json"
Found = dict[str, Any]


def card(found: Found) -> str:
    """Returns the card's name."""
    return f"an emulated card of {found['gigabytes']} GB, compute capability {found['compute_capability']}"


def table(found: Found) -> list[str]:
    """Returns the lines of a Markdown table, and what is to be done about what does not fit or start."""
    lines = [
        "| stage | run | micro-batch | needs, GiB | fits | largest micro-batch that fits |",
        "|---|---|--:|--:|---|--:|",
    ]
    remedies = []
    for row in found["rows"]:
        start = f"| {row['stage']} | {row['run']} | {row['micro_batch']} |"
        if "error" in row:
            lines.append(f"{start} | does not start | |")
            remedies.append(f"- {row['run']}, {row['stage']}: {row['error']}")
            continue
        needs, largest = row["needs_mib"], row["fits"]
        fixed = "" if row["varies"] else " (batch norms see it)"
        lines.append(
            f"{start} {'more' if needs is None else f'{needs / 1024:.1f}'} | {'no' if needs is None else 'yes'} "
            f"| {largest or 'none'}{fixed} |"
        )
        if needs is None:
            remedy = f"set resources.{row['stage']}.micro_batch: {largest}" if largest else "use a larger card"
            if largest and not row["varies"]:
                remedy += ", with which its batch norms see fewer images than the recipe's, or use a larger card"
            remedies.append(f"- {row['run']}, {row['stage']}: {remedy}")
    return [*lines, "", *remedies]


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
        lines.append(f"- {stage}: micro-batch {configured} {verdict}; the largest that fits is {least or 'none'}")
    return lines
