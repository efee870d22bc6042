"""Reading config.yaml: overrides merged, then validated; every problem is one line with its key and what is allowed."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from mto.config.models import Config, merge
from mto.errors import UserError

OVERRIDES = ("each_baseline", "official", "scales")


def resolve(raw: dict[str, Any], *, scale: str | None = None, recipe: str | None = None) -> dict[str, Any]:
    """The plain mapping that `Config` validates: the base file, then the recipe's overrides, then the scale's."""
    scale = raw.get("scale") if scale is None else scale
    recipe = raw.get("recipe") if recipe is None else recipe
    scales = raw.get("scales") or {}
    if scale not in scales:
        raise UserError(f"config.yaml: scale: no such scale: {scale!r} (allowed: {', '.join(map(str, scales))})")
    if recipe not in ("paper", "official"):
        raise UserError(f"config.yaml: recipe: no such recipe: {recipe!r} (allowed: paper, official)")
    if "each_baseline" in raw:
        raise UserError("config.yaml: each_baseline belongs under scales.<scale>")
    for name, block in scales.items():
        if not isinstance(block, dict) or {"scale", "recipe"} & block.keys():
            raise UserError(f"config.yaml: scales.{name}: a mapping of overrides, without scale and recipe")
    merged = {key: value for key, value in raw.items() if key not in OVERRIDES}
    merged |= {"scale": scale, "recipe": recipe}
    if recipe == "official":
        merged = merge(merged, {"baselines": raw.get("official") or {}})
    over = dict(scales[scale] or {})
    each = over.pop("each_baseline", None) or {}
    merged = merge(merged, {"baselines": dict.fromkeys(merged.get("baselines") or {}, each)})
    return merge(merged, over)


def validate(merged: dict[str, Any]) -> Config:
    """`Config` from a merged mapping; every problem is one line of one `UserError`."""
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        lines = [f"config.yaml: {_line(problem)}" for problem in error.errors()]
        raise UserError("\n".join(lines)) from None


def _line(problem: Any) -> str:
    # pydantic also names the member of a union that it tried, such as list[int] or literal['all'].
    path = ".".join(str(part) for part in problem["loc"] if not re.search(r"\[|^constrained-", str(part)))
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "too_short":
        message = f"needs at least {problem['ctx']['min_length']} of them"
    if problem["type"] == "list_type":
        message = "must be a list, such as [3]"
    if problem["type"] == "extra_forbidden":
        allowed = _allowed(problem["loc"][:-1])
        close = difflib.get_close_matches(str(problem["loc"][-1]), allowed, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        return f"{path}: unknown key{hint} (allowed: {', '.join(allowed)})"
    if problem["type"] == "missing":
        return f"{path}: this key is required"
    given = "" if problem["type"] == "value_error" else f", not {problem['input']!r}"
    return f"{path}: {message}{given}" if path else message


def _allowed(path: tuple[Any, ...]) -> list[str]:
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


def read(path: str | Path) -> dict[str, Any]:
    """The mapping in the file.

    Raises:
        UserError: no such file, no YAML, or no mapping.
    """
    try:
        raw = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        raise UserError(f"{path}: {str(error.strerror).lower()}; run from the clone's root") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path}: not a mapping of keys to values")
    return raw


def load(source: str | Path | dict[str, Any] = "config.yaml", **choice: str) -> Config:
    """Read and validate config.yaml (or Snakemake's mapping of it), at every scale and recipe, so that a mistake shows
    before the scale that it belongs to is run.

    Args:
        source: a path, or the mapping read from it.
        choice: `scale` and `recipe`, to override the file's own.

    Raises:
        UserError: one line per problem: file, key path, what is wrong, what is allowed.
    """
    raw = source if isinstance(source, dict) else read(source)
    config = validate(resolve(raw, **choice))
    for scale in raw["scales"]:
        for recipe in ("paper", "official"):
            if (scale, recipe) == (config.scale, config.recipe):
                continue
            try:
                validate(resolve(raw, scale=scale, recipe=recipe))
            except UserError as error:
                raise UserError(f"at scale {scale}, recipe {recipe}:\n{error}") from None
    return config
