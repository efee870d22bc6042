"""What the command line gives in vain: a key that the scale, or the official recipe, sets after it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import yaml

from mto.config.models import LISTED
from mto.errors import UserError

if TYPE_CHECKING:
    from mto.config.reading import Place, Resolved

#: What chooses, and what has the last word itself.
APART = ("scale", "recipe", "official", "scales")


def refuse_overruled(resolved: Resolved) -> None:
    """Refuse what would be ignored in silence.

    Not what comes out as it was given, and not what the command line overrules itself (a whole file by `--configfile`).

    Raises:
        UserError: a line for each such key, with the one that wins over it and how to give it instead.
    """
    source, given = resolved.source, resolved.source.given
    lines = []
    for place, value in _leaves({key: value for key, value in given.items() if key not in APART}):
        held = _at(resolved.merged, place)
        if held == value or (value == {} and isinstance(held, dict)):
            continue
        winner = _winner(resolved, place)
        if not source.gives(winner):
            instead: Any = value
            for key in (*reversed(place), resolved.scale):
                instead = {key: instead}
            told = yaml.safe_dump(instead, default_flow_style=True, width=float("inf")).strip()
            lines.append(
                f"{source.name(place)}: {source.name(winner)} has the last word; edit that, or give scales='{told}'"
            )
    if lines:
        raise UserError("\n".join(lines))


def _leaves(node: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Every single value, list, and mapping that `merge` replaces, by its place."""
    if isinstance(node, dict) and node and place[-1:] not in [(key,) for key in LISTED]:
        for key, value in node.items():
            yield from _leaves(value, (*place, key))
    else:
        yield place, node


def _at(node: Any, place: Place) -> Any:
    for key in place:
        node = node.get(key) if isinstance(node, dict) else None
    return node


def _winner(resolved: Resolved, place: Place) -> Place:
    """The key of the scale, or of the recipe, that is laid over that place, or over the whole that it is in."""
    within = [place[:n] for n in range(len(place), 0, -1)]
    if place[2:3] == ("backbones",):  # what a scale says of a baseline, it says of its backbones
        within = [place, (*place[:2], *place[4:]), *within[1:]]
    return next((origin for part in within if (origin := resolved.written(part)) != part), ("scales", resolved.scale))
