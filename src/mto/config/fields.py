"""The kinds of values in config.yaml, and the strict model that its blocks are."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from mto.names import BACKBONES, BASELINES, TERMS, TRACKERS

#: No rate, weight or length of a recipe comes near it: what is above is a slip, and overflows somewhere in training.
MOST = 1e6
Unit = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, le=MOST)]
NonNegative = Annotated[float, Field(ge=0, le=MOST)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # NumPy's legacy generator takes no more
Share = Annotated[float, Field(ge=0, lt=1)]
Epoch = Annotated[int, Field(ge=1)]
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


Epochs = Annotated[list[Epoch], Field(min_length=1), AfterValidator(rising)]
Window = Annotated[list[Epoch], Field(min_length=2, max_length=2), AfterValidator(rising)]
SomeBaselines = Annotated[list[Baseline], Field(min_length=1)]
Range = Annotated[list[Positive], Field(min_length=2, max_length=2), AfterValidator(ordered)]
Areas = Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=2, max_length=2), AfterValidator(ordered)]
Taps = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=4, max_length=4), AfterValidator(rising)]


class Model(BaseModel):
    """A block of config.yaml: immutable, closed to unknown keys, to .inf and .nan, to `true` or "3" for a number."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def written(self) -> dict[str, Any]:
        """Returns the keys that were given, and no default."""
        return self.model_dump(exclude_unset=True)
