"""The kinds of values in config.yaml and in jobs."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from annotated_types import Ge, Gt, Le, Len, Lt, MinLen

from mto.config.typed import Checked
from mto.names import BACKBONES, BASELINES, TERMS, TRACKERS

#: No rate, weight or length of a recipe comes near it: what is above is a slip, and overflows somewhere in training.
MOST = 1e6
Unit = Annotated[float, Ge(0), Le(1)]
Positive = Annotated[float, Gt(0), Le(MOST)]
NonNegative = Annotated[float, Ge(0), Le(MOST)]
Count = Annotated[int, Ge(1)]
Seed = Annotated[int, Ge(0), Lt(2**32)]  # NumPy's legacy generator takes no more
Share = Annotated[float, Ge(0), Lt(1)]
Epoch = Annotated[int, Ge(1)]
if TYPE_CHECKING:
    Term: TypeAlias = str
    Baseline: TypeAlias = str
    Backbone: TypeAlias = str
    Tracker: TypeAlias = str
else:
    Term = Literal[TERMS]
    Tracker = Literal[TRACKERS]
    Backbone = Literal[tuple(BACKBONES)]
    Baseline = Literal[tuple(f"{baseline}-{backbone}" for backbone in BACKBONES for baseline in BASELINES)]


def rising(values: list[float]) -> list[float]:
    if any(later <= earlier for earlier, later in pairwise(values)):
        raise ValueError(f"must rise, without repeats: {values}")
    return values


def different(values: list[Any]) -> list[Any]:
    if len(set(values)) != len(values):
        raise ValueError(f"must not repeat: {values}")
    return values


def ordered(values: list[float]) -> list[float]:
    if values[0] > values[1]:
        raise ValueError(f"the first must not be above the second: {values}")
    return values


Epochs = Annotated[list[Epoch], MinLen(1), Checked(rising)]
Window = Annotated[list[Epoch], Len(2, 2), Checked(rising)]
SomeBaselines = Annotated[list[Baseline], MinLen(1)]
Range = Annotated[list[Positive], Len(2, 2), Checked(ordered)]
Areas = Annotated[list[Annotated[float, Gt(0), Le(1)]], Len(2, 2), Checked(ordered)]
Taps = Annotated[list[Annotated[int, Ge(0)]], Len(4, 4), Checked(rising)]
#: The share of each class's training images whose labels are used; see mto.data.labels.
Labels = Annotated[float, Gt(0), Le(1)]
