"""The kinds of values in config.yaml, and the strict model that its blocks are."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Unit = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Epoch = Annotated[int, Field(ge=1)]
Term = Literal["spa", "e", "r"]
#: What a preset of MTO may be called: no hyphen, which ends a part of a run's name.
PRESET = "[a-z0-9_]+"
Baseline = Literal[
    "simmim-vitb",
    "mae-vitb",
    "bootmae-vitb",
    "conmim-vitb",
    "simmim-vitl",
    "mae-vitl",
    "bootmae-vitl",
    "conmim-vitl",
]


def rising(values: list[float]) -> list[float]:
    if any(later <= earlier for earlier, later in pairwise(values)):
        raise ValueError(f"must rise, without repeats: {values}")
    return values


def ordered(values: list[float]) -> list[float]:
    if values[0] > values[1]:
        raise ValueError(f"the first must not be above the second: {values}")
    return values


Epochs = Annotated[list[Epoch], Field(min_length=1), AfterValidator(rising)]
Window = Annotated[list[Epoch], Field(min_length=2, max_length=2), AfterValidator(rising)]
SomeBaselines = Annotated[list[Baseline], Field(min_length=1)]
Range = Annotated[list[Positive], Field(min_length=2, max_length=2), AfterValidator(ordered)]
Taps = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=4, max_length=4), AfterValidator(rising)]


class Model(BaseModel):
    """A block of config.yaml: immutable, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)
