"""Typed values without pydantic, which takes longer to import than a small job to train: strict, frozen, closed.

A `Part` is a class whose hints say what JSON may hold: numbers within bounds (`annotated_types`), words, lists and
parts. `parse` reads one from a mapping. `mto.config.model.settings` makes a pydantic model of the same declaration.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
    NamedTuple,
    Self,
    TypeVar,
    Union,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

from annotated_types import Ge, GroupedMetadata, Gt, Le, Lt, MaxLen, MinLen, MultipleOf

from mto.errors import UserError

_BOUNDS: dict[type, tuple[str, str, Callable[[Any, Any], bool]]] = {
    Gt: ("gt", "above {}", operator.gt),
    Ge: ("ge", "{} or more", operator.ge),
    Lt: ("lt", "below {}", operator.lt),
    Le: ("le", "at most {}", operator.le),
    MultipleOf: ("multiple_of", "a multiple of {}", lambda value, unit: not value % unit),
    MinLen: ("min_length", "of {} or more items", lambda value, least: len(value) >= least),
    MaxLen: ("max_length", "of at most {} items", lambda value, most: len(value) <= most),
}


class Checked(NamedTuple):
    """Marks a hint whose value a function checks, which raises ValueError; in pydantic's models too."""

    check: Callable[[Any], Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        from pydantic_core.core_schema import no_info_after_validator_function

        return no_info_after_validator_function(self.check, handler(source))


class Problem(NamedTuple):
    """What is wrong with a value: its place, the kind ("missing", "unknown", "value") and a message."""

    place: tuple[str, ...]
    kind: str
    message: str = ""


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Part:
    """A frozen record, which knows the keys that it was given. A class may keep unknown ones, in its field `REST`.

    It is written like a dataclass, which would compile some methods for each class: a third of a second for all jobs.
    """

    REST: ClassVar[str | None] = None
    keys: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        named = [name for base in reversed(cls.__mro__[:-1]) if base is not Part for name in base.__annotations__]
        cls.keys = tuple(name for name in dict.fromkeys(named) if name != cls.REST)

    def __init__(self, **values: Any) -> None:
        defaults = {name: getattr(type(self), name) for name in self.keys if hasattr(type(self), name)}
        known = {*self.keys, *([self.REST] if self.REST else [])}
        if wrong := values.keys() - known | known - defaults.keys() - values.keys():
            raise TypeError(f"{type(self).__name__}: lacks or does not know {', '.join(sorted(wrong))}")
        self.__dict__.update(defaults | values, _given=frozenset(values))
        self.check()

    def check(self) -> None:
        """Checks what the hints of single keys cannot say.

        Raises:
            ValueError: the keys do not go together.
        """

    def written(self) -> dict[str, Any]:
        """Returns the keys that were given, and no default, as JSON has them."""
        rest = getattr(self, self.REST) if self.REST else {}
        return {name: _plain(getattr(self, name)) for name in self.keys if name in self.__dict__["_given"]} | rest

    def changed(self, **values: Any) -> Self:
        """Returns the same with other values, which count as given."""
        return type(self)(**{name: getattr(self, name) for name in self.__dict__["_given"]} | values)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen: {name} cannot be set")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.written()})"


P = TypeVar("P", bound=Part)
_HINTS: dict[type[Part], dict[str, Any]] = {}


def parse(kind: type[P], given: Mapping[str, Any], name: str = "--job") -> P:
    """Returns a part of that kind.

    Args:
        kind: a subclass of `Part`.
        given: as JSON has it.
        name: of the whole, for messages.

    Raises:
        UserError: it lacks a key, has one that it should not, or a value of another kind.
    """
    found: list[Problem] = []
    part = _part(kind, given, (), found)
    if not found:
        return part
    lacking, unknown = ([".".join(p.place) for p in found if p.kind == kind] for kind in ("missing", "unknown"))
    if lacking:
        raise UserError(f"{name}: lacks {', '.join(lacking)}; a job.json beside a task's outputs is whole")
    if unknown:
        raise UserError(f"{name}: unknown: {', '.join(unknown)}; is it a job of another version?")
    raise UserError(f"{name}: {'.'.join(found[0].place)}: {found[0].message}")


def hints(kind: type[Part]) -> dict[str, Any]:
    """Returns the hints of a part's fields, with their bounds."""
    if kind not in _HINTS:
        _HINTS[kind] = get_type_hints(kind, include_extras=True)
    return _HINTS[kind]


def build(name: str, base: type[P], keys: Mapping[str, Any], defaults: Mapping[str, Any]) -> Any:
    """Returns a part whose keys, with their hints, are known only now."""
    return type(name, (base,), {"__annotations__": dict(keys), "__module__": __name__, **defaults})


def _part(kind: type[Any], given: Any, place: tuple[str, ...], found: list[Problem]) -> Any:
    if not isinstance(given, Mapping):
        return found.append(Problem(place, "value", f"must be a mapping, not {given!r}"))
    keys, before = kind.keys, len(found)
    found += [Problem((*place, name), "missing") for name in keys if name not in given and not hasattr(kind, name)]
    rest = {name: value for name, value in given.items() if name not in keys}
    if not kind.REST:
        found += [Problem((*place, str(name)), "unknown") for name in rest]
    values = {name: _value(hints(kind)[name], given[name], (*place, name), found) for name in keys if name in given}
    if len(found) > before:
        return None
    try:
        return kind(**values, **({kind.REST: rest} if kind.REST else {}))
    except ValueError as error:
        return found.append(Problem(place, "value", str(error)))


def _value(hint: Any, given: Any, place: tuple[str, ...], found: list[Problem]) -> Any:
    """Returns a value as its hint has it, a whole number as a float where one is wanted; notes what is wrong."""

    def wrong(message: str) -> None:
        found.append(Problem(place, "value", f"must be {message}, not {given!r}"))

    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        before = len(found)
        value = _value(arguments[0], given, place, found)
        for mark in arguments[1:] if len(found) == before else ():
            _check(mark, value, wrong)
        return value
    if origin in (Union, UnionType):
        tried: list[list[Problem]] = []
        for each in arguments:
            problems: list[Problem] = []
            value = _value(each, given, place, problems)
            if not problems:
                return value
            tried.append(problems)
        deepest = max(tried, key=lambda problems: len(problems[0].place))
        return found.extend(deepest if len(deepest[0].place) > len(place) else tried[0])
    if origin is Literal:
        known = any(given == word and type(given) is type(word) for word in arguments)
        return given if known else wrong(" or ".join(map(repr, arguments)))
    if origin is list:
        if not isinstance(given, list):
            return wrong("a list")
        return [_value(arguments[0], item, (*place, str(index)), found) for index, item in enumerate(given)]
    if origin is dict:
        return dict(given) if isinstance(given, Mapping) else wrong("a mapping")
    if isinstance(hint, type) and issubclass(hint, Part):
        return given if isinstance(given, hint) else _part(hint, given, place, found)
    if hint is float and type(given) in (int, float):
        return float(given) if math.isfinite(given) else wrong("a finite number")
    if hint is Any or type(given) is hint or (hint in (None, NoneType) and given is None):
        return given
    return wrong({int: "a whole number", float: "a number", str: "a text", bool: "true or false"}.get(hint, "null"))


def _check(mark: Any, value: Any, wrong: Callable[[str], None]) -> None:
    if isinstance(mark, Checked):
        try:
            mark.check(value)
        except ValueError as error:
            wrong(str(error).removeprefix("must be "))
    for bound in mark if isinstance(mark, GroupedMetadata) else [mark]:
        if type(bound) in _BOUNDS:
            name, words, holds = _BOUNDS[type(bound)]
            if not holds(value, limit := getattr(bound, name)):
                wrong(words.format(limit))


def _plain(value: Any) -> Any:
    """Returns a value as JSON has it."""
    if isinstance(value, Part):
        return value.written()
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
