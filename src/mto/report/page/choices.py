"""What is chosen where the paper is silent or contradicts itself: every switch of a preset of MTO, and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from mto.losses.switches import SWITCHES
from mto.names import Run


class Choice(NamedTuple):
    """One switch: its value in each of `presets`, as JSON without quotes."""

    key: str
    open: str
    values: list[str]
    why: str


def presets(mto: dict[str, Any]) -> list[str]:
    """Returns the names of a page's presets: the paper's `text` first, then the study's default, then the others.

    Args:
        mto: ``default`` and ``presets`` of a page's job.
    """
    return sorted(mto["presets"], key=lambda name: (name != "text", name != mto["default"], name))


def listed(mto: dict[str, Any]) -> list[Choice]:
    """Returns every switch of these presets, in the order in which they are declared; last what only a preset has."""
    used = [key for key in SWITCHES if any(key in preset for preset in mto["presets"].values())]
    used += sorted({key for preset in mto["presets"].values() for key in preset} - SWITCHES.keys())
    return [
        Choice(
            key,
            SWITCHES[key].gap if key in SWITCHES else "",
            [_shown(mto["presets"][name].get(key)) for name in presets(mto)],
            SWITCHES[key].reason if key in SWITCHES else "",
        )
        for key in used
    ]


def disagreeing(mto: dict[str, Any], results: Path) -> list[str]:
    """Returns a sentence for each value that a finished run with MTO has otherwise (its job.json), as after an edit."""
    others: dict[tuple[str, str, str], set[str]] = {}
    for path in sorted(results.glob("pretrain/*-mto*/seed*/epoch*/job.json")):
        run = path.parts[-4]
        preset = Run.parse(run).preset or mto["default"]
        try:
            used = json.loads(path.read_text(encoding="utf-8"))["job"]["mto"]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # no job of ours: whoever reads the run's metrics says so
        for key, value in mto["presets"].get(preset, {}).items():
            if used.get(key, value) != value:
                others.setdefault((f"{preset}.{key}", _shown(value), _shown(used[key])), set()).add(run)
    return [
        f"mto.presets.{key} is {here} in config.yaml, but was {there} in {', '.join(sorted(runs))}."
        for (key, here, there), runs in sorted(others.items())
    ]


def _shown(value: Any) -> str:
    return json.dumps(value).strip('"')
