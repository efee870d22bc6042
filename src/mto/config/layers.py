"""The layers of the settings: the package's, the recipe, the scale, config.yaml, the command line; the last one wins.

Everything that is set keeps its place: which file, and where in it. `mto.config.reading` reads and validates, and asks
here what the layers come to and where a value is from.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache, cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from mto.config import yaml_file
from mto.losses.switches import SWITCHES, TEXT
from mto.names import BASELINES

#: The package's own settings, complete at the paper's scale.
DATA = Path(__file__).parent / "data"
#: Its files, but for recipes and scales.
BASE = ("study", "mto", "prices", "datasets", "resources")
RECIPES = ("paper", "official")
#: The scales that the package has; config.yaml may add others.
SCALES = tuple(sorted(file.stem for file in (DATA / "scales").glob("*.yaml")))
#: Mappings of what the user names, not of our keys (Figures 1 and 2): another one takes their place, as a list's does.
LISTED = ("models",)
#: Keys of a file that are none of `Config`: what it says of all baselines, and of one scale.
EACH, PER_SCALE = "each_baseline", "scales"

Place = tuple[Any, ...]


@dataclass(frozen=True)
class File:
    """A file of settings, or the command line's, which is no file.

    Attributes:
        name: what messages call it.
        content: its mapping.
        path: where it is, if it is a file: its lines are looked up there.
        shipped: it is the package's own.
    """

    name: str
    content: dict[str, Any]
    path: str | Path | None = None
    shipped: bool = False

    @cached_property
    def lines(self) -> dict[Place, int]:
        return {} if self.path is None else yaml_file.lines(self.path)

    def line(self, place: Place) -> int | None:
        """Returns the line of a key, or of the nearest key above it that has one."""
        return next((self.lines[place[:n]] for n in range(len(place), 0, -1) if place[:n] in self.lines), None)


@dataclass(frozen=True)
class Part:
    """A piece of a file, and where it belongs.

    Attributes:
        inside: the place of the piece in its file.
        at: its place in the settings, as `Config` has them.
        node: the piece.
    """

    file: File
    inside: Place
    at: Place
    node: Any

    def reaches(self, place: Place) -> bool:
        """Returns whether the piece has a value at that place of the settings."""
        return place[: len(self.at)] == self.at and reaches(self.node, place[len(self.at) :])

    def value(self, place: Place) -> Any:
        """Returns what the piece has there."""
        node = self.node
        for key in place[len(self.at) :]:
            node = node[key]
        return node


@dataclass(frozen=True)
class Origin:
    """Where a value is set: the file, the place in it, and what stands there."""

    file: File
    inside: Place
    value: Any = None

    def __str__(self) -> str:
        """Returns `config.yaml:12` as far as the line is known."""
        line = self.file.line(self.inside)
        return self.file.name if line is None else f"{self.file.name}:{line}"


Layer = list[Part]


@cache
def shipped(name: str) -> File:
    """Returns a file of the package's settings: `study`, `recipes/mae`, `scales/demo`."""
    path = DATA / f"{name}.yaml"
    return File(f"src/mto/config/data/{name}.yaml", yaml_file.read(path), path, shipped=True)


def base() -> Layer:
    """Returns the paper scale's settings, with the recipes of the paper's tables."""
    parts = [part for name in BASE for part in _parts(shipped(name))]
    parts += _parts(shipped("recipes/shared"))
    for name in BASELINES:
        file = shipped(f"recipes/{name}")
        own = {key: value for key, value in file.content.items() if key != "official"}
        parts.append(Part(file, (), ("baselines", name), own))
    return parts


def official() -> Layer:
    """Returns what `recipe: official` lays over the baselines."""
    files = [(name, shipped(f"recipes/{name}")) for name in BASELINES]
    return [
        Part(file, ("official",), ("baselines", name), file.content["official"])
        for name, file in files
        if "official" in file.content
    ]


def scale(name: str) -> Layer:
    """Returns what the package lays over it at one of its scales."""
    return _parts(shipped(f"scales/{name}"))


def written(file: File, scale: str) -> list[Layer]:
    """Returns what a user's file sets: at every scale, and over that what it sets at this one."""
    per_scale = file.content.get(PER_SCALE) or {}
    layers = [_parts(file)]
    if scale in per_scale:
        layers.append(_parts(file, (PER_SCALE, scale), per_scale[scale]))
    return layers


def _parts(file: File, inside: Place = (), content: Any = None) -> Layer:
    content = file.content if content is None else content
    each = content.get(EACH)
    parts = [Part(file, (*inside, EACH), ("baselines", name), each) for name in BASELINES] if each is not None else []
    own = {key: value for key, value in content.items() if key not in (EACH, PER_SCALE)}
    return [*parts, Part(file, inside, (), own)] if own else parts


# ------------------------------------------------------------------------------------------------------------- merging
def merge(base: Any, over: Any) -> Any:
    """Returns `over` laid onto `base`: mappings are merged, anything else is replaced."""
    if isinstance(base, dict) and isinstance(over, dict):
        return {**base, **{key: merge(None if key in LISTED else base.get(key), over[key]) for key in over}}
    return copy.deepcopy(over)


@dataclass
class Stack:
    """The layers, laid over one another as they are added.

    Attributes:
        settings: what they come to.
        parts: all that they consist of, the last word last.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    parts: list[Part] = field(default_factory=list)
    _hidden: dict[str, Any] = field(default_factory=dict)

    def lay(self, layer: Layer) -> None:
        """Adds a layer on top."""
        said: dict[str, Any] = {}
        for part in layer:
            node = part.node
            for key in reversed(part.at):
                node = {key: node}
            said = merge(said, node)
        self._keep_shares(said)
        self._ask_again(said)
        _yield_to(self.settings, said)
        _start_over(self.settings, said)
        self.settings = merge(self.settings, said)
        self.parts += layer

    def _keep_shares(self, said: dict[str, Any]) -> None:
        """Moves a lower layer's epochs to the same share of the schedule where a layer changes its length."""
        tables, now = said.get("study"), self.settings.get("study")
        before, after = (study.get("pretrain_epochs") if isinstance(study, dict) else None for study in (now, tables))
        if type(before) is int and type(after) is int and 0 < before != after > 0:
            share = Fraction(after, before)
            self.settings = {**self.settings, "study": {**_epochs(now, share), "pretrain_epochs": before}}
            self._hidden = {name: _epochs(keys, share) for name, keys in self._hidden.items()}

    def _ask_again(self, said: dict[str, Any]) -> None:
        """Restores a table that a lower layer made null where a layer gives it keys, to be laid over what it was."""
        tables, now = said.get("study"), self.settings.get("study")
        if not isinstance(tables, dict) or not isinstance(now, dict):
            return
        for name, keys in tables.items():
            if keys is None and isinstance(now.get(name), dict):
                self._hidden[name] = now[name]
            elif isinstance(keys, dict) and now.get(name) is None and name in self._hidden:
                now[name] = self._hidden.pop(name)

    def origins(self, place: Place) -> Iterator[Origin]:
        """Yields where the value at a place of the settings is set, and after that what it overrides."""
        for part in reversed(self.parts):
            if part.reaches(place):
                yield Origin(part.file, part.inside + place[len(part.at) :], part.value(place))
            elif place[:2] == ("mto", "presets") and len(place) > 3 and part.reaches((*place[:3], "base")):
                named = part.value((*place[:3], "base"))
                if isinstance(named, str) and named != place[2]:
                    yield from self.origins((*place[:2], named, *place[3:]))
                return

    def origin(self, place: Place) -> Origin | None:
        """Returns where the value at a place is set; of a missing one, where the nearest key above it is."""
        for n in range(len(place), -1, -1):
            if found := next(self.origins(place[:n]), None):
                return Origin(found.file, found.inside + place[n:])
        return None


def reaches(node: Any, place: Place) -> bool:
    """Returns whether the mapping has a value at that place."""
    for part in place:
        held = range(len(node)) if isinstance(node, list) else node if isinstance(node, dict) else ()
        if part not in held:
            return False
        node = node[part]
    return True


def _yield_to(settings: dict[str, Any], said: dict[str, Any]) -> None:
    """Drops from the blocks of a baseline's backbones below a layer what the layer sets for the whole baseline."""
    said_of, baselines = said.get("baselines"), settings.get("baselines")
    if not isinstance(said_of, dict) or not isinstance(baselines, dict):
        return
    for name, baseline in baselines.items():
        said_here = said_of.get(name)
        if isinstance(baseline, dict) and isinstance(said_here, dict) and isinstance(baseline.get("backbones"), dict):
            baseline["backbones"] = {
                backbone: _without(block, said_here) if isinstance(block, dict) else block
                for backbone, block in baseline["backbones"].items()
            }


def _without(block: dict[str, Any], said: dict[str, Any]) -> dict[str, Any]:
    """Returns the block without what is said, key by key down to single values."""
    left = {}
    for key, value in block.items():
        if key not in said:
            left[key] = value
        elif isinstance(value, dict) and isinstance(said[key], dict):
            left[key] = _without(value, said[key])
    return left


# -------------------------------------------------------------------------------------------------------------- epochs
#: The keys below `study` that hold epochs of pre-training.
EPOCHS = ("measured_epochs", "epochs", "epoch", "baseline_epochs", "mto_epochs", "baseline_epoch", "windows", "models")
#: In the place of a table's epochs: all of `measured_epochs`.
MEASURED = "measured"


def _epochs(node: Any, share: Fraction, within: bool = False) -> Any:
    """Returns the block with each of its epochs times the share; one that is not whole stays a fraction."""
    if isinstance(node, dict):
        return {key: _epochs(value, share, within or key in EPOCHS) for key, value in node.items()}
    if isinstance(node, list):
        return [_epochs(value, share, within) for value in node]
    if not within or type(node) not in (int, Fraction):
        return node
    epoch = node * share
    return epoch.numerator if epoch.denominator == 1 else epoch


def complete_epochs(settings: dict[str, Any]) -> None:
    """Gives each table whose epochs are `measured` those of `measured_epochs`.

    Raises:
        LookupError: the place of the length of pre-training at which an epoch of a lower layer is not whole, and that.
    """
    study = settings.get("study")
    if not isinstance(study, dict):
        return
    measured, tables = study.get("measured_epochs"), {k: v for k, v in study.items() if isinstance(v, dict)}
    if odd := sorted(_odd(study)):
        raise LookupError(("study", "pretrain_epochs"), odd[0])
    known = measured if isinstance(measured, list) and all(type(epoch) is int for epoch in measured) else []
    rises = bool(known) and all(earlier < later for earlier, later in pairwise(known))
    for name, table in tables.items():
        if table.get("epochs") == MEASURED:  # of a list that is refused nothing more is to be said
            study[name] = {**table, "epochs": list(known)} if rises else None


def _odd(node: Any, within: bool = False) -> Iterator[Fraction]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _odd(value, within or key in EPOCHS)
    elif isinstance(node, list):
        for value in node:
            yield from _odd(value, within)
    elif within and isinstance(node, Fraction):
        yield node


# ------------------------------------------------------------------------------------------------------------- presets
def _presets(settings: dict[str, Any]) -> dict[str, Any]:
    mto = settings.get("mto")
    presets = mto.get("presets") if isinstance(mto, dict) else None
    return presets if isinstance(presets, dict) else {}


def _start_over(settings: dict[str, Any], said: dict[str, Any]) -> None:
    """Drops a lower layer's preset of the same name where a preset names its `base`."""
    for name, block in _presets(said).items():
        if isinstance(block, dict) and "base" in block:
            _presets(settings).pop(name, None)


def complete_presets(settings: dict[str, Any]) -> None:
    """Gives each preset that names its `base` the switches of that one which it does not name, and `text` the paper's.

    Raises:
        LookupError: the place of a `base` that is no preset, or that comes back to itself.
    """
    presets = _presets(settings)
    text = {name: switch.text for name, switch in SWITCHES.items()}

    def full(name: str, above: tuple[str, ...]) -> Any:
        block = presets[name]
        if not isinstance(block, dict) or "base" not in block:
            return {**text, **block} if name == TEXT and isinstance(block, dict) else block
        named = block["base"]
        if not isinstance(named, str) or named not in presets or named in (*above, name):
            raise LookupError(("mto", "presets", name, "base"), named)
        own = {key: value for key, value in block.items() if key != "base"}
        return merge(full(named, (*above, name)), own)

    complete = {name: full(name, ()) for name in presets}
    presets.update(complete)
