"""What a setting is, who set it, and what that overrides: `python -m mto config show`."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from typing import Any

from mto.config.layers import MEASURED, Origin, Place, reaches
from mto.config.models import Config
from mto.config.reading import Resolved
from mto.errors import UserError
from mto.names import Run


def key(resolved: Resolved, config: Config, name: str) -> Iterator[str]:
    """Yields a line for each value at or below a key, such as `baselines.mae.pretrain.lr`, and lines on its origin.

    Raises:
        UserError: there is no such key.
    """
    place, whole = tuple(name.split(".")), config.model_dump()
    node = _at(whole, place)
    for leaf, value in _leaves(node):
        yield from _told(resolved, (*place, *leaf), value)
    if place[0] == "baselines" and len(place) > 2 and place[2] != "backbones":
        for backbone, block in whole["baselines"][place[1]]["backbones"].items():
            if reaches(block, place[2:]):
                for leaf, value in _leaves(_at(block, place[2:])):
                    yield from _told(resolved, (*place[:2], "backbones", backbone, *place[2:], *leaf), value)


def run(resolved: Resolved, config: Config, name: str) -> Iterator[str]:
    """Yields every setting of a run as `key: value  # where it is set`; the keys are those of config.yaml.

    Raises:
        UserError: the name is no run's, or the run is of no baseline, backbone or preset of these settings.
    """
    parsed = Run.parse(name)
    baseline = getattr(config.baselines, parsed.baseline)
    if parsed.backbone not in baseline.backbones:
        raise UserError(f"{name}: baselines.{parsed.baseline}.backbones has: {', '.join(baseline.backbones)}")
    places: list[tuple[Place, Place, Any]] = []  # as it is shown, where the backbone sets it, the value
    recipe = config.of(parsed.baseline, parsed.backbone).model_dump(exclude={"backbones"})
    above = ("baselines", parsed.baseline)
    for leaf, value in _leaves(recipe):
        places.append(((*above, *leaf), (*above, "backbones", parsed.backbone, *leaf), value))
    whole = config.model_dump()
    shared: list[Place] = [("backbones", parsed.backbone), ("study", "pretrain_epochs"), ("datasets", "imagenet")]
    shared += [(k,) for k in ("img_size", "patch_size", "evaluation", "precision", "log_interval", "eval_interval")]
    if parsed.terms:
        preset = parsed.preset or config.mto.default
        if preset not in config.mto.presets:
            raise UserError(f"{name}: no such preset (mto.presets has: {', '.join(config.mto.presets)})")
        shared.append(("mto", "presets", preset))
    places += [((*place, *leaf), (), value) for place in shared for leaf, value in _leaves(_at(whole, place))]
    rows = []
    for place, own, value in places:
        found = next(resolved.stack.origins(own), None) if own and reaches(resolved.merged, own) else None
        found = found or next(resolved.stack.origins(place), None)
        rows.append((f"{'.'.join(map(str, place))}: {_shown(value)}", str(found or _declared(place))))
    width = max(len(text) for text, _ in rows)
    yield from (f"{text:<{width}}  # {origin}" for text, origin in rows)


def _told(resolved: Resolved, place: Place, value: Any) -> Iterator[str]:
    yield f"{'.'.join(map(str, place))}: {_shown(value)}"
    found = list(resolved.stack.origins(place))
    if not found:
        yield f"    {_declared(place)}; no file sets it"
    for word, origin in zip(["set by", *["over"] * len(found)], found, strict=False):
        before = "" if word == "set by" else f"{_shown(origin.value)}, of "
        if word == "set by" and origin.value != value and place[0] == "study":
            share = "" if origin.value == MEASURED else ", its share of pretrain_epochs,"
            before = f"{_shown(origin.value)}{share} in "
        yield f"    {word} {before}{_named(origin, place)}"


def _declared(place: Place) -> str:
    """Returns where a value is declared that no file sets."""
    return "declared in mto.losses.switches" if place[:2] == ("mto", "presets") else "its default"


def _named(origin: Origin, place: Place) -> str:
    """Returns the file and line, and the key there where it is another."""
    inside = ".".join(map(str, origin.inside))
    return f"{origin}" if origin.inside == place else f"{origin} ({inside})"


def _at(node: Any, place: Place) -> Any:
    for number, part in enumerate(place):
        known = list(node) if isinstance(node, dict) else []
        if part not in known:
            above = ".".join(map(str, place[:number])) or "the settings"
            close = difflib.get_close_matches(str(part), known, n=1)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            keys = ", ".join(known) or "no keys"
            raise UserError(f"{'.'.join(map(str, place))}: {above} has no '{part}'{hint} ({keys})")
        node = node[part]
    return node


def _leaves(node: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Yields every value that is no mapping, with its place; an empty mapping is one."""
    if isinstance(node, dict) and node:
        for name, value in node.items():
            yield from _leaves(value, (*place, name))
    else:
        yield place, node


def _shown(value: Any) -> str:
    return json.dumps(value) if isinstance(value, list | dict | bool) or value is None else str(value)
