"""What a claim of the paper is, the four verdicts on it, and what several claims of the audit compute."""

from __future__ import annotations

from typing import NamedTuple

from mto.names import Run
from mto.report import printed
from mto.report.labels import baseline_name

HOLDS, NOT_FOLLOWING, CONTRADICTED, OPEN = "holds", "does not follow", "contradicted", "cannot be checked"
ROUNDING = 0.05  # of an accuracy printed with one decimal


class Claim(NamedTuple):
    """What the paper says, where, the arithmetic, and whether it holds."""

    claim: str
    where: str
    arithmetic: str
    verdict: str


def matches(ours: float, base: float) -> tuple[str, str]:
    """Arithmetic and verdict of "at least as good", up to the rounding of both numbers."""
    difference = round(ours - base, 6)
    text = f"{ours} − {base} = {signed(difference)}"
    if difference >= 0:
        return text, HOLDS
    if difference >= -2 * ROUNDING - 1e-6:
        return f"{text}, which rounding alone could make", NOT_FOLLOWING
    return text, CONTRADICTED


def better(ours: float, base: float) -> tuple[str, str]:
    """Arithmetic and verdict of "better", which equal numbers are not."""
    difference = round(ours - base, 6)
    text = f"{ours} − {base} = {signed(difference)}"
    if difference > 0:
        return text, HOLDS
    if difference >= -2 * ROUNDING - 1e-6:
        return f"{text}, no more than rounding", NOT_FOLLOWING
    return text, CONTRADICTED


def baselines(table: dict[tuple[str, str], str]) -> list[str]:
    """A table's baselines, in its order."""
    return [run for run in dict.fromkeys(run for run, _ in table) if not Run.parse(run).terms]


def published(task: str) -> float:
    """The accuracy of a ViT-B after 800 epochs, as SimMIM's own authors report it."""
    wanted = ("SimMIM", "simmim-vitb", task, 800)
    (value,) = (float(r.value) for r in printed.elsewhere() if (r.source, r.row, r.task, r.epoch) == wanted)
    return value


def with_mto(name: str) -> str:
    """`mae-vitb-mto` of `mae-vitb`."""
    return Run.parse(name).with_mto.name


def signed(value: float, digits: int = 1) -> str:
    """`+0.3`, `−0.3`."""
    return f"{value:+.{digits}f}".replace("-", "−")


def short(run: str) -> str:
    """`MAE`, of whatever backbone."""
    return baseline_name(run).split()[0]
