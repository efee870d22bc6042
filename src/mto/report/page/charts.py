"""Training curves as small inline SVG drawings: no script, and every colour from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from mto.report.page.histories import Points

WIDTH, HEIGHT = 320, 180
LEFT, RIGHT, TOP, BOTTOM = 36, 250, 10, 158  # of the plot; right of it the lines' names
LINE = 11.0  # between the names


@dataclass(frozen=True)
class Line:
    """One curve.

    Attributes:
        look: its class in the style sheet, or for a layer its place between the first (0.0) and the last (1.0).
        label: written at its end; "" for none.
    """

    name: str
    points: Points
    look: str | float
    label: str = ""


@dataclass(frozen=True)
class Scale:
    """The y axis: shown range, and whether it is logarithmic."""

    low: float
    high: float
    log: bool = False

    @classmethod
    def over(cls, lines: Sequence[Line], *, log: bool = False) -> Scale:
        """Returns the scale of these lines; logarithmic, if allowed, where they span more than a factor of twenty."""
        values = [y for line in lines for _, y in line.points] or [0.0, 1.0]
        low, high = min(values), max(values)
        if log and low > 0 and high / low > 20:
            return cls(low, high, log=True)
        pad = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
        return cls(low - pad, high + pad)

    def height(self, value: float) -> float:
        """Returns where a value lies, in the drawing's units from its top."""
        value = min(max(value, self.low), self.high)
        low, high, y = (math.log(v) for v in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        return BOTTOM - (BOTTOM - TOP) * (y - low) / (high - low) if high > low else BOTTOM

    def ticks(self) -> list[float]:
        """Returns a few round values in the range."""
        if self.log:
            return [10.0**p for p in range(math.ceil(math.log10(self.low)), math.floor(math.log10(self.high)) + 1)]
        rough = (self.high - self.low) / 4
        size = 10 ** math.floor(math.log10(rough))
        step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough)
        return [step * n for n in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]


def draw(
    title: str, lines: Sequence[Line], scale: Scale, epochs: int, marks: Sequence[int], ceiling: float | None = None
) -> str:
    """Draws one panel, as SVG text.

    Args:
        title: what a screen reader says.
        epochs: the end of the x axis.
        marks: epochs with a tick, those that are measured.
        ceiling: a level drawn across, dotted and named ln V.
    """
    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">',
        *(_level(scale, tick) for tick in scale.ticks()),
        *(_mark(_across(mark, epochs), mark) for mark in _sparse(marks, epochs)),
    ]
    named: list[tuple[float, float, str, str]] = []
    if ceiling is not None:
        y = scale.height(ceiling)
        parts.append(f'<path class="ceiling" d="M{LEFT} {y:.0f}H{RIGHT}"/>')
        named.append((y, RIGHT, 'class="faint"', "ln V"))
    for line in lines:
        if not line.points:
            continue
        style = f'class="{line.look}"' if isinstance(line.look, str) else f'class="layer" style="--t:{line.look:.2f}"'
        first, last = line.points[0][1], line.points[-1][1]
        told = f"{line.name}: {_number(first)} at first, {_number(last)} at last"
        path = _path([(_across(x, epochs), scale.height(y)) for x, y in line.points])
        parts.append(f'<path {style} d="{path}"><title>{escape(told)}</title></path>')
        if line.label:
            x, y = line.points[-1]
            named.append((scale.height(y), _across(x, epochs), style, line.label))
    for y, (_, x, style, label) in zip(_apart([name[0] for name in sorted(named)]), sorted(named), strict=True):
        parts.append(f'<text {style} x="{x + 4:.0f}" y="{y + 3.5:.0f}">{escape(label)}</text>')
    return "".join([*parts, "</svg>"])


def _across(epoch: float, epochs: int) -> float:
    return LEFT + (RIGHT - LEFT) * min(epoch / epochs, 1.0)


def _level(scale: Scale, value: float) -> str:
    y = scale.height(value)
    return (
        f'<path class="grid" d="M{LEFT} {y:.0f}H{RIGHT}"/>'
        f'<text x="{LEFT - 4}" y="{y + 3.5:.0f}" text-anchor="end">{_number(value)}</text>'
    )


def _mark(x: float, epoch: int) -> str:
    return (
        f'<path class="grid" d="M{x:.0f} {TOP}V{BOTTOM}"/>'
        f'<text x="{x:.0f}" y="{BOTTOM + 13}" text-anchor="middle">{epoch}</text>'
    )


def _sparse(marks: Sequence[int], epochs: int) -> list[int]:
    """Returns the marks that leave room for their numbers, the last first."""
    kept: list[int] = []
    for mark in sorted(marks, reverse=True):
        if not kept or (kept[-1] - mark) / epochs * (RIGHT - LEFT) >= 20:
            kept.append(mark)
    return kept


def _path(points: Points) -> str:
    """Returns a polyline in whole units and tenths of height, each point relative to the last; one point is a dot."""
    spots = [(round(x), round(10 * y)) for x, y in points]
    if len(spots) == 1:
        return f"M{spots[0][0]} {spots[0][1] / 10:g}h.1"
    steps = [(x - a, y - b) for (a, b), (x, y) in pairwise(spots)]
    return f"M{spots[0][0]} {spots[0][1] / 10:g}l" + " ".join(f"{dx} {dy / 10:g}" for dx, dy in steps)


def _apart(heights: list[float]) -> list[float]:
    """Pushes sorted heights of texts apart and keeps them inside the plot."""
    placed: list[float] = []
    for height in heights:
        placed.append(max(height, placed[-1] + LINE) if placed else height)
    for index in reversed(range(len(placed))):
        limit = placed[index + 1] - LINE if index + 1 < len(placed) else BOTTOM
        placed[index] = min(placed[index], limit)
    return placed


def _number(value: float) -> str:
    return f"{value:.3g}".replace("-", "−")
