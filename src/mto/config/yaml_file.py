"""Strict YAML: a key given twice is refused, numbers are what they look like, and every key knows its line.

Numbers as in YAML 1.2: `1e-4` is one, `1:08:16` (4,096 to YAML 1.1) and `010` (8) are not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from mto.errors import UserError

Place = tuple[Any, ...]


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """PyYAML's safe loader, in C where it was built with it: a tenth of the time."""


_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _NUMBERS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"([-+]?((\d[\d_]*\.\d*|\.\d+|\d+(?=[eE]))([eE][-+]?\d+)?|\.(inf|Inf|INF))|\.(nan|NaN|NAN))$"),
    list("-+.0123456789"),
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"([-+]?(0|[1-9][\d_]*)|0x[0-9a-fA-F]+)$"), list("-+0123456789")
)


def read(path: str | Path) -> dict[str, Any]:
    """Returns the mapping in the file; an empty one if it holds nothing but comments.

    Raises:
        UserError: no such file, no YAML, no mapping, or a key that is there twice; with the line.
    """
    root = _root(path)
    if root is None:
        return {}
    if not isinstance(root, yaml.MappingNode):
        raise UserError(f"{path}: not a mapping of keys to values")
    _refuse_repeats(path, root)
    try:
        return _Loader("").construct_document(root)
    except yaml.MarkedYAMLError as error:
        raise _no_yaml(path, error) from None
    except (ValueError, RecursionError) as error:  # a date such as 2024-13-40; an anchor inside itself
        raise UserError(f"{path}: not YAML that can be read: {error}") from None


def typed(given: Any) -> Any:
    """Reads the words of a command line as the file's would be: Snakemake leaves `[0, 1]` as two words."""
    if isinstance(given, dict):
        return {key: typed(value) for key, value in given.items()}
    if isinstance(given, list):
        return [typed(value) for value in given]
    if not isinstance(given, str):
        return given
    try:
        return yaml.load(given, Loader=_Loader)
    except yaml.YAMLError:
        return given


def lines(path: str | Path) -> dict[Place, int]:
    """Returns the line of every key and list entry, by its path from the top; of what an anchor brings, its own."""
    return dict(_walk(_root(path), ()))


def _root(path: str | Path) -> yaml.Node | None:
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {str(error.strerror).lower()}; run from the clone's root") from None
    try:
        return _Loader(content).get_single_node()
    except (yaml.YAMLError, UnicodeError) as error:
        raise _no_yaml(path, error) from None


def _no_yaml(path: str | Path, error: Exception) -> UserError:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    where = f"{path}:{mark.line + 1}" if mark else f"{path}"
    what = " ".join(filter(None, (getattr(error, "context", None), getattr(error, "problem", None)))) or str(error)
    hint = " (a tab? indent with spaces)" if "cannot start any token" in what else "" if mark else "; save it as UTF-8"
    return UserError(f"{where}: not YAML: {' '.join(what.split())}{hint}")


def _refuse_repeats(path: str | Path, root: yaml.Node) -> None:
    """Refuses a key given twice, of which YAML would take the last in silence, such as a second `scales:`."""
    problems: list[tuple[int, str]] = []
    seen: set[int] = set()
    waiting: list[tuple[Place, yaml.Node]] = [((), root)]
    while waiting:
        place, node = waiting.pop(0)
        if id(node) in seen:  # an alias
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += [((*place, index), value) for index, value in enumerate(node.value)]
        elif isinstance(node, yaml.MappingNode):
            first: dict[str, int] = {}
            for key, value in node.value:
                name, line = str(key.value), key.start_mark.line + 1
                if name in first:
                    shown = ".".join(map(str, (*place, name)))
                    problems.append((line, f"{path}:{line}: {shown}: this key is in line {first[name]} already"))
                first.setdefault(name, line)
                waiting.append(((*place, name), value))
    if problems:
        raise UserError("\n".join(text for _, text in sorted(problems)))


def _walk(node: yaml.Node | None, place: Place) -> Iterator[tuple[Place, int]]:
    if isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*place, index), value.start_mark.line + 1
            yield from _walk(value, (*place, index))
    elif isinstance(node, yaml.MappingNode):
        merged = [value for key, value in node.value if key.tag == "tag:yaml.org,2002:merge"]
        for value in merged:  # what stands beside `<<` comes later, and overrides it
            for base in reversed(value.value) if isinstance(value, yaml.SequenceNode) else [value]:
                yield from _walk(base, place)
        for key, value in node.value:
            if value not in merged:
                yield (*place, key.value), key.start_mark.line + 1
                yield from _walk(value, (*place, key.value))
