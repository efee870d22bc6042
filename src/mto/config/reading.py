"""Reading the settings: layers merged, then validated; every problem is a line with its place and what is allowed."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from mto.config import layers, yaml_file
from mto.config.agreement import disagreements
from mto.config.layers import EACH, PER_SCALE, RECIPES, SCALES, File, Place, Stack
from mto.config.models import Config
from mto.errors import UserError


@dataclass(frozen=True)
class Source:
    """What the user wrote: a file of settings, and what the command line lays over it.

    Attributes:
        raw: the file's mapping.
        path: the file, if there is one: it knows the lines.
        given: the command line's part (`--config`, `--configfile`).
    """

    raw: dict[str, Any] = field(default_factory=dict)
    path: str | Path | None = None
    given: dict[str, Any] = field(default_factory=dict)

    @property
    def files(self) -> tuple[File, File]:
        """Returns both, the last word last."""
        return File(str(self.path or "config.yaml"), self.raw, self.path), File("--config", self.given)


@dataclass(frozen=True)
class Resolved:
    """The settings at one scale and recipe: the plain mapping that `Config` validates, and what it consists of."""

    source: Source
    scale: str
    recipe: str
    stack: Stack

    @property
    def merged(self) -> dict[str, Any]:
        return self.stack.settings

    def told(self, place: Place, message: str) -> str:
        """Returns the message with the place that it is about: where the user set it, or where the package did."""
        found, shown = self.stack.origin(place), ".".join(map(str, place))
        if found is None or found.file.shipped:
            where = "" if found is None or not found.inside else f" (set in {found})"
            return f"{self.source.files[0].name}: {shown}{message}{where}"
        return f"{found}: {'.'.join(map(str, found.inside))}{message}"


class Problem(NamedTuple):
    """What is wrong, and with which key."""

    place: Place
    line: str


def resolve(source: Source, *, scale: str | None = None, recipe: str | None = None) -> Resolved:
    """Lays the layers over one another: the package's, the recipe's, the scale's, config.yaml's, the command line's.

    Args:
        source: what the user wrote.
        scale: one of the package's or of the user's, to override the one that the user names.
        recipe: `paper` or `official`, likewise.

    Raises:
        UserError: there is no such scale or recipe, or a block that chooses is no mapping.
    """
    written = source.files
    for file in written:
        _refuse_odd_blocks(file)
    scales = list(dict.fromkeys([*SCALES, *(name for file in written for name in file.content.get(PER_SCALE) or {})]))
    scale = _chosen(written, "scale", scale, scales)
    recipe = _chosen(written, "recipe", recipe, RECIPES)
    stack = Stack()
    stack.lay(layers.base())
    layers.complete_presets(stack.settings)  # before any edit: no shipped preset takes another's edits
    if recipe == "official":
        stack.lay(layers.official())
    if scale in SCALES:
        stack.lay(layers.scale(scale))
    for file in written:
        for layer in layers.written(file, scale):
            stack.lay(layer)
    stack.settings |= {"scale": scale, "recipe": recipe}
    resolved = Resolved(source, scale, recipe, stack)
    try:
        layers.complete_presets(stack.settings)
    except LookupError as error:
        place, named = error.args
        others = ", ".join(name for name in stack.settings["mto"]["presets"] if name != place[2])
        raise UserError(resolved.told(place, f": {_shown(named)} is no preset to take from ({others})")) from None
    try:
        layers.complete_epochs(stack.settings)
    except LookupError as error:
        place, odd = error.args
        length = stack.settings["study"]["pretrain_epochs"]
        message = f" {length}: what is measured keeps its share of it, and {float(odd):g} of {length} is no whole epoch"
        raise UserError(resolved.told(place, f"{message}; take another length, or name the epochs of study")) from None
    return resolved


def _chosen(written: tuple[File, ...], key: str, asked: str | None, allowed: Any) -> str:
    """Returns the scale or the recipe: the caller's, or the last one that is written."""
    file = next((file for file in reversed(written) if key in file.content), layers.shipped("study"))
    value = file.content[key] if asked is None else asked
    if not isinstance(value, str) or value not in allowed:
        where = layers.Origin(file, (key,)) if asked is None and not file.shipped else written[0].name
        raise UserError(f"{where}: {key}: no such {key}: {value!r} (allowed: {', '.join(map(str, allowed))})")
    return value


def _refuse_odd_blocks(file: File) -> None:
    """Refuses what would keep a file from being cut into its parts."""

    def where(*place: Any) -> str:
        return f"{layers.Origin(file, place)}: {'.'.join(map(str, place))}"

    scales = file.content.get(PER_SCALE)
    if not isinstance(scales, dict | None):
        raise UserError(f"{where(PER_SCALE)}: must be a mapping of scales to what is set at each, not {_shown(scales)}")
    for name, block in (scales or {}).items():
        if not isinstance(block, dict) or {"scale", "recipe", PER_SCALE} & block.keys():
            raise UserError(f"{where(PER_SCALE, name)}: must be a mapping of settings, without scale and recipe")
    if "official" in file.content:
        raise UserError(
            f"{where('official')}: write it below baselines: what you set there has the last word with both recipes"
        )
    blocks: dict[Place, Any] = {
        (): file.content,
        **{(PER_SCALE, name): block for name, block in (scales or {}).items()},
    }
    for place, node in blocks.items():
        if not isinstance(node.get(EACH), dict | None):
            raise UserError(f"{where(*place, EACH)}: must be a mapping of keys to values, not {_shown(node[EACH])}")


def problems(resolved: Resolved) -> tuple[Config | None, list[Problem]]:
    """Returns the settings as `Config`, or everything that is wrong with them."""
    try:
        config = Config.model_validate(resolved.merged)
    except ValidationError as error:
        return None, [_problem(resolved, each) for each in error.errors()]
    told: dict[Any, Problem] = {}
    for place, value, message in disagreements(config):  # a value that all baselines share is told of the first alone
        told.setdefault(place[-1], Problem(place, resolved.told(place, f"{value}: {message}")))
    return config, list(told.values())


def validate(resolved: Resolved) -> Config:
    """Returns the settings as `Config`.

    Raises:
        UserError: every problem is one line of it.
    """
    config, found = problems(resolved)
    if config is None or found:
        raise UserError("\n".join(dict.fromkeys(problem.line for problem in found)))
    return config


def _problem(resolved: Resolved, problem: Any) -> Problem:
    # pydantic also names the member of a union that it tried, such as list[int] or literal['all'], and `[key]`.
    place = tuple(
        part for part in problem["loc"] if not re.search(r"\[|^constrained-|^(int|float|bool|str)$", str(part))
    )
    message = problem["msg"].removeprefix("Value error, ")
    kind = problem["type"]
    if kind == "extra_forbidden":
        allowed = _allowed(problem["loc"][:-1])
        close = difflib.get_close_matches(str(problem["loc"][-1]), allowed, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        return Problem(place, resolved.told(place, f": unknown key{hint} (allowed: {', '.join(allowed)})"))
    if kind == "missing":
        return Problem(place, resolved.told(place, ": this key is required"))
    if kind == "too_short":
        message = f"needs at least {problem['ctx']['min_length']} of them"
    elif kind == "list_type":
        message = "must be a list, such as [3]"
    elif kind in ("model_type", "dict_type"):
        message = "must be a mapping of keys to values"
    given = "" if kind == "value_error" else f", not {_shown(problem['input'])}"
    return Problem(place, resolved.told(place, f": {message}{given}"))


def _shown(value: Any) -> str:
    """Returns a value as text, cut where it would fill the line."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _allowed(path: Place) -> list[str]:
    """Returns the keys of the model found by walking down `path` from `Config`."""
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
    """Returns what the user wrote: the file, and the command line's values over it.

    Raises:
        UserError: no such file, no YAML, or no mapping, or a key that is there twice.
    """
    return Source(yaml_file.read(path), path, yaml_file.typed(given or {}))


def load(
    source: str | Path | dict[str, Any] | Source = "config.yaml",
    given: dict[str, Any] | None = None,
    *,
    scale: str | None = None,
    recipe: str | None = None,
) -> Config:
    """Reads and validates the settings; what config.yaml leaves out is the package's.

    Args:
        source: a path, its mapping, or what `read` made of it.
        given: laid over the file: what the command line says.
        scale: to override the one that the user names.
        recipe: likewise.

    Raises:
        UserError: one line per problem: file, line, key path, what is wrong, what is allowed. What a file sets for
            another scale is looked at too, so that a mistake in it shows before that scale is run.
    """
    if isinstance(source, dict):
        source = Source(source, given=given or {})
    whole = source if isinstance(source, Source) else read(source, given)
    chosen = resolve(whole, scale=scale, recipe=recipe)
    config = validate(chosen)
    elsewhere = list(dict.fromkeys(_of_other_scales(whole, chosen)))
    if elsewhere:
        raise UserError("\n".join(elsewhere))
    return config


def _of_other_scales(source: Source, chosen: Resolved) -> Iterator[str]:
    """Yields what is wrong with what is set for other scales: both by itself, and with all else that is set."""
    alone = Source({PER_SCALE: source.raw.get(PER_SCALE)}, source.path, {PER_SCALE: source.given.get(PER_SCALE)})
    for scale in dict.fromkeys(name for file in source.files for name in file.content.get(PER_SCALE) or {}):
        if scale != chosen.scale:
            whole, part = (resolve(each, scale=scale, recipe=chosen.recipe) for each in (source, alone))
            wrong = {place for place, _ in problems(whole)[1]}
            yield from (f"{line} (at scale {scale})" for place, line in problems(part)[1] if place in wrong)


# ---------------------------------------------------------------------------------- what a start keeps for its own jobs
def kept(source: Source, config: Config) -> str:
    """Returns everything that a start read, as text: `load_kept` gives the same `Config`, whatever is edited since."""
    settings = resolve(source, scale=config.scale, recipe=config.recipe).merged
    classes = {"datasets": {"imagenet": {"classes": config.datasets.imagenet.classes}}}  # so far a file's name, maybe
    return json.dumps({"given": source.given, "settings": layers.merge(settings, classes)}, indent=1)


def load_kept(path: str | Path) -> tuple[Config, Source]:
    """Returns what `kept` kept."""
    whole = json.loads(Path(path).read_text(encoding="utf-8"))
    return Config.model_validate(whole["settings"]), Source(given=whole["given"])
