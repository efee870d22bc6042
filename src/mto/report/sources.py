"""Where a number of ours comes from: the place of its steps in the report's list of steps.

The list is ordered by network, stage, run and epoch, so that one place of it holds all steps behind a number: the seeds
of a measured value, the two curves behind a ratio, or everything that a baseline took.
"""

from __future__ import annotations

from typing import NamedTuple

from mto.names import Run, Step


class Sourced(str):
    """A text of a table that knows where its number comes from; to whatever writes the table it is that text."""

    __slots__ = ("source",)
    source: str

    def __new__(cls, text: str, source: str = "") -> Sourced:
        """Returns the text with the place of its steps."""
        made = super().__new__(cls, text)
        made.source = source
        return made

    def __add__(self, mark: str) -> Sourced:
        """Returns the text with a mark behind it, of the same source."""
        return Sourced(str(self) + mark, self.source)


class Place(NamedTuple):
    """The three places of the list in which a step is, the widest first."""

    network: str
    curves: str
    value: str


def of(step: Step) -> Place:
    """Returns where a step is listed: as one of its network's, its curve's, and its value's over all seeds."""
    network = Run.parse(step.run).plain.name
    return Place(f"steps/{network}", f"{step.task}/{network}", f"{step.task}/{step.run}/epoch{step.epoch:04d}")


def source(text: str) -> str:
    """Returns the place that a table's text names; "" where it names none."""
    return text.source if isinstance(text, Sourced) else ""
