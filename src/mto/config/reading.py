"""Reading config.yaml: overrides merged, then validated; every problem is a line with its place and what is allowed."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from mto.config import yaml_file
from mto.config.agreement import disagreements
from mto.config.models import Config, merge
from mto.config.overruled import refuse_overruled
from mto.config.study_plan import StudyPlan
from mto.errors import UserError

OVERRIDES = ("each_baseline", "official", "scales")
RECIPES = ("paper", "official")
Place = tuple[Any, ...]


@dataclass(frozen=True)
class Source:
    """What was given: the file's mapping, with what the command line lays over it.

    Attributes:
        raw: the whole mapping, overrides included.
        path: the file, if there is one: it knows the lines.
        given: the command line's part (`--config`, `--configfile`).
    """

    raw: dict[str, Any]
    path: str | Path | None = None
    given: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def lines(self) -> dict[Place, int]:
        return yaml_file.lines(self.path) if self.path is not None else {}

    def gives(self, place: Place) -> bool:
        """Whether the command line has that key."""
        return _reaches(self.given, place)

    def name(self, place: Place) -> str:
        """`config.yaml:412: scales.demo.seeds`: where a key stands, as far as it is known."""
        shown = ".".join(map(str, place))
        if self.gives(place):
            return f"--config: {shown}"
        known = next((self.lines[place[:n]] for n in range(len(place), 0, -1) if place[:n] in self.lines), None)
        return f"{self.path or 'config.yaml'}{'' if known is None else f':{known}'}: {shown}"


@dataclass(frozen=True)
class Resolved:
    """One scale and recipe of a source: the plain mapping that `Config` validates."""

    source: Source
    scale: str
    recipe: str
    merged: dict[str, Any]

    def written(self, place: Place) -> Place:
        """Where the value at a place of the merged mapping comes from: what is laid on top first, the base last."""
        return next((origin for origin in self._origins(place) if _reaches(self.source.raw, origin)), place)

    def _origins(self, place: Place) -> Iterator[Place]:
        yield ("scales", self.scale, *place)
        if place[:1] == ("baselines",) and len(place) > 1:
            yield ("scales", self.scale, "each_baseline", *place[2:])
            if self.recipe == "official":
                yield ("official", *place[1:])

    def name(self, place: Place) -> str:
        return self.source.name(self.written(place))


def _reaches(node: Any, place: Place) -> bool:
    """Whether the mapping has a value at that place."""
    for part in place:
        held = range(len(node)) if isinstance(node, list) else node if isinstance(node, dict) else ()
        if part not in held:
            return False
        node = node[part]
    return True


def resolve(source: Source, *, scale: str | None = None, recipe: str | None = None) -> Resolved:
    """The base file, then the recipe's overrides, then the scale's."""
    raw = source.raw
    scale = raw.get("scale") if scale is None else scale
    recipe = raw.get("recipe") if recipe is None else recipe
    scales = raw.get("scales")
    if not isinstance(scales, dict) or not scales:
        raise UserError(f"{source.name(('scales',))}: must be a mapping of scales to their overrides")
    if not isinstance(scale, str) or scale not in scales:
        allowed = ", ".join(map(str, scales))
        raise UserError(f"{source.name(('scale',))}: no such scale: {scale!r} (allowed: {allowed})")
    if recipe not in RECIPES:
        allowed = ", ".join(RECIPES)
        raise UserError(f"{source.name(('recipe',))}: no such recipe: {recipe!r} (allowed: {allowed})")
    if "each_baseline" in raw:
        raise UserError(f"{source.name(('each_baseline',))}: each_baseline belongs under scales.<scale>")
    for name, block in scales.items():
        if not isinstance(block, dict) or {"scale", "recipe"} & block.keys():
            raise UserError(f"{source.name(('scales', name))}: a mapping of overrides, without scale and recipe")
    for place, block in {("official",): raw.get("official"), ("baselines",): raw.get("baselines")}.items():
        if not isinstance(block, dict | None):
            raise UserError(f"{source.name(place)}: must be a mapping of baselines, not {_shown(block)}")
    merged = {key: value for key, value in raw.items() if key not in OVERRIDES}
    merged |= {"scale": scale, "recipe": recipe}
    if recipe == "official":
        merged = merge(merged, {"baselines": raw.get("official") or {}})
    over = dict(scales[scale])
    each = over.pop("each_baseline", None) or {}
    _keep_null(merged, over)
    shared = {"baselines": dict.fromkeys(merged.get("baselines") or {}, each)}
    merged = merge(merged, shared)
    _yield_to(merged, merge(shared, over))
    return Resolved(source, scale, recipe, merge(merged, over))


def _yield_to(base: dict[str, Any], over: dict[str, Any]) -> None:
    """What a scale says of a baseline, it says of all its backbones: their own blocks above it lose those keys."""
    said_of = over.get("baselines")
    if not isinstance(said_of, dict):
        return  # `validate` says so
    for name, baseline in (base.get("baselines") or {}).items():
        said = said_of.get(name)
        if isinstance(baseline, dict) and isinstance(said, dict) and isinstance(baseline.get("backbones"), dict):
            baseline["backbones"] = {
                backbone: _without(block, said) if isinstance(block, dict) else block
                for backbone, block in baseline["backbones"].items()
            }


def _without(block: dict[str, Any], said: dict[str, Any]) -> dict[str, Any]:
    """The block without what is said, key by key down to single values."""
    left = {}
    for key, value in block.items():
        if key not in said:
            left[key] = value
        elif isinstance(value, dict) and isinstance(said[key], dict):
            left[key] = _without(value, said[key])
    return left


def _keep_null(base: dict[str, Any], over: dict[str, Any]) -> None:
    """A table that the file's upper part leaves out stays out of a scale that only sets some keys of it."""
    tables, changed = base.get("study"), over.get("study")
    if isinstance(tables, dict) and isinstance(changed, dict):
        left_out = {name for name, keys in tables.items() if keys is None}
        over["study"] = {name: keys for name, keys in changed.items() if name not in left_out or _whole(name, keys)}


def _whole(name: str, keys: Any) -> bool:
    """Whether the keys make a table or figure by themselves."""
    models = get_args(StudyPlan.model_fields[name].annotation) if name in StudyPlan.model_fields else ()
    fields = {field for model in models if hasattr(model, "model_fields") for field in model.model_fields}
    return not isinstance(keys, dict) or not fields or fields <= keys.keys()


def validate(resolved: Resolved) -> Config:
    """`Config` from a merged mapping; every problem is one line of one `UserError`."""
    try:
        config = Config.model_validate(resolved.merged)
    except ValidationError as error:
        lines = [_line(resolved, problem) for problem in error.errors()]
        raise UserError("\n".join(dict.fromkeys(lines))) from None
    told: dict[Any, str] = {}
    for place, value, message in disagreements(config):  # a value that all baselines share is told of the first alone
        told.setdefault(place[-1], f"{resolved.name(place)}{value}: {message}")
    if told:
        raise UserError("\n".join(told.values()))
    return config


def _line(resolved: Resolved, problem: Any) -> str:
    # pydantic also names the member of a union that it tried, such as list[int] or literal['all'], and `[key]`.
    place = tuple(
        part for part in problem["loc"] if not re.search(r"\[|^constrained-|^(int|float|bool|str)$", str(part))
    )
    name = resolved.name(place)
    message = problem["msg"].removeprefix("Value error, ")
    kind = problem["type"]
    if kind == "extra_forbidden":
        allowed = _allowed(problem["loc"][:-1])
        close = difflib.get_close_matches(str(problem["loc"][-1]), allowed, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        return f"{name}: unknown key{hint} (allowed: {', '.join(allowed)})"
    if kind == "missing":
        return f"{name}: this key is required"
    if kind == "too_short":
        message = f"needs at least {problem['ctx']['min_length']} of them"
    elif kind == "list_type":
        message = "must be a list, such as [3]"
    elif kind in ("model_type", "dict_type"):
        message = "must be a mapping of keys to values"
    given = "" if kind == "value_error" else f", not {_shown(problem['input'])}"
    return f"{name}: {message}{given}"


def _shown(value: Any) -> str:
    """A value, cut where it would fill the line."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _allowed(path: Place) -> list[str]:
    """The keys of the model found by walking down `path` from `Config`."""
    schema = Config.model_json_schema()
    node: dict[str, Any] = schema
    for part in path:
        options = [node, *node.get("anyOf", [])]
        options = [schema["$defs"][o["$ref"].rsplit("/", 1)[1]] if "$ref" in o else o for o in options]
        following = [o["properties"][part] for o in options if part in o.get("properties", {})]
        following += [o["additionalProperties"] for o in options if isinstance(o.get("additionalProperties"), dict)]
        node = following[0] if following else {}
    if "$ref" in node:
        node = schema["$defs"][node["$ref"].rsplit("/", 1)[1]]
    for option in node.get("anyOf", []):
        if "$ref" in option:
            node = schema["$defs"][option["$ref"].rsplit("/", 1)[1]]
    return sorted(node.get("properties", {}))


def read(path: str | Path = "config.yaml", given: dict[str, Any] | None = None) -> Source:
    """The file, with the command line's values laid over it.

    Raises:
        UserError: no such file, no YAML, or no mapping, or a key that is there twice.
    """
    raw, given = yaml_file.read(path), yaml_file.typed(given or {})
    return Source(merge(raw, given), path, given)


def load(
    source: str | Path | dict[str, Any] | Source = "config.yaml", given: dict[str, Any] | None = None, **choice: str
) -> Config:
    """Read and validate config.yaml, at every scale and recipe: a mistake shows before the scale that it is in is run.

    Args:
        source: a path, its mapping, or what `read` made of it.
        given: laid over the file: what the command line says.
        choice: `scale` and `recipe`, to override the file's own.

    Raises:
        UserError: one line per problem: file, line, key path, what is wrong, what is allowed. A given key that the
            scale sets itself is one, since it would have no effect.
    """
    if isinstance(source, dict):
        source = Source(source)
    whole = source if isinstance(source, Source) else read(source, given)
    chosen = resolve(whole, **choice)
    refuse_overruled(chosen)
    config = validate(chosen)
    for scale in whole.raw["scales"]:
        for recipe in RECIPES:
            if (scale, recipe) != (config.scale, config.recipe):
                try:
                    validate(resolve(whole, scale=scale, recipe=recipe))
                except UserError as error:
                    lines = [f"{line} (at scale {scale}, recipe {recipe})" for line in str(error).splitlines()]
                    raise UserError("\n".join(lines)) from None
    return config
