"""Rows of measurements as a Markdown table; imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

TEXTS = ("baseline", "run", "stage", "task", "variant", "memory", "kept", "compiled", "error")


def table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    """Returns a Markdown table of the columns that some row fills; what was not measured is left blank."""
    used = {key: title for key, title in columns.items() if any(row.get(key) is not None for row in rows)}
    lines = [list(used.values()), ["---" if key in TEXTS else "--:" for key in used]]
    lines += [[_shown(key, row.get(key)) for key in used] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _shown(key: str, value: Any) -> str:
    if value is None:
        return ""
    if key.endswith("_share"):
        return f"{100 * value:.1f} %"
    if key.endswith(("_ratio", "_to_fast", "_to_official")):
        return f"×{value:.3f}"
    if isinstance(value, float):
        return f"{value:.3g}" if value < 1000 else f"{value:.0f}"
    return str(value)
