"""What several claims of the audit compute."""

from __future__ import annotations

from mto.names import Run
from mto.report import printed
from mto.report.audit import CONTRADICTED, HOLDS, NOT_FOLLOWING
from mto.report.labels import baseline_name, signed

ROUNDING = 0.05  # of an accuracy printed with one decimal


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


def short(run: str) -> str:
    """`MAE`, of whatever backbone."""
    return baseline_name(run).split()[0]
