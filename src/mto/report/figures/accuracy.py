"""Fine-tuning accuracy over pre-training, without and with MTO: the panel that two figures share, and their legend."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mto.names import TERMS, Cell, Run
from mto.report import printed, verdict
from mto.report.figures import style
from mto.report.metrics import Report, mean, std
from mto.report.sheet import UNKNOWN
from mto.report.verdict import Verdict

# Told apart without colour too: by the line, and by what the markers are.
LOOKS: tuple[tuple[tuple[str, ...], str, dict[str, Any]], ...] = (
    ((), "without MTO", {"color": style.PLAIN, "marker": "o", "linestyle": "--", "markerfacecolor": "white"}),
    (TERMS, "with MTO", {"color": style.WITH_MTO, "marker": "s", "linestyle": "-"}),
)


#: Between a panel's title and its axes, in points: two lines of a remark.
ROOM = 25
#: A digit of a tick's label, as a share of the narrowest panel's width, with some room beside it.
DIGIT = 0.055


def footer(report: Report) -> str:
    """Returns what stands below a figure of such panels."""
    averaged = " The epochs saved are the mean of each seed's."
    return report.footer + (averaged if len(report.seeds) > 1 else "")


def panel(axes: Axes, report: Report, baseline: str) -> None:
    """Draws both curves of a baseline: the mean over seeds, a band of one standard deviation, the epochs saved."""
    drawn = [_curve(axes, report, baseline, *look) for look in LOOKS]
    axes.set_xticks(report.plan["epochs"], labels_with_room(report.plan["epochs"]))
    axes.margins(x=0.06, y=0.16)
    if not any(drawn):
        style.absent(axes, "not measured yet")
        return
    if all(sorted(curve) == report.plan["epochs"] for curve in drawn):
        final = max(drawn[0])
        paper = printed.load("fig4_epochs").get((_run(baseline, TERMS), "saved_percent"))
        _saving(axes, drawn[0][final], final, verdict.of(report, baseline), paper=paper)
    else:
        style.remark(axes, "not complete yet")
    from_scratch(axes, report, "finetune", _run(baseline, ()))
    if report.is_paper_scale:
        found = [r for r in printed.elsewhere() if (r.row, r.task, r.metric) == (baseline, "finetune", "top1")]
        points = [(r.epoch, float(r.value)) for r in found if r.epoch in report.plan["epochs"]]
        if points:
            look: dict[str, Any] = {"markerfacecolor": "white", "color": style.PLAIN, "linestyle": "none"}
            axes.plot(
                *zip(*points, strict=True), marker="D", label="reported elsewhere,\neach a whole schedule", **look
            )


def labels_with_room(epochs: list[int]) -> list[str]:
    """Returns what stands at the ticks: every epoch that has room beside the next one, from the last back."""
    labels: list[str] = []
    nearest = float("inf")
    for epoch in reversed(epochs):
        room = DIGIT * len(str(epoch)) * (epochs[-1] - epochs[0])
        fits = nearest - epoch >= room
        labels.append(str(epoch) if fits else "")
        nearest = epoch if fits else nearest
    return labels[::-1]


def from_scratch(axes: Axes, report: Report, task: str, run: str) -> None:
    """Draws the level without pre-training, where the study measures it."""
    found = report.values(Cell(task, run, 0, "top1")) if Cell(task, run, 0, "top1") in report.scratch else []
    if found:
        axes.axhline(mean(found), color=style.GREY, linewidth=0.9, linestyle="-.", label="from scratch")


def _run(baseline: str, terms: tuple[str, ...]) -> str:
    plain = Run.parse(baseline)
    return Run(plain.baseline, plain.backbone, terms).name


def _curve(
    axes: Axes, report: Report, baseline: str, terms: tuple[str, ...], label: str, look: dict[str, Any]
) -> dict[int, float]:
    """Draws one curve through the epochs that have a value; returns its means."""
    cells = [Cell("finetune", _run(baseline, terms), epoch, "top1") for epoch in report.plan["epochs"]]
    values = {cell.epoch: found for cell in cells if (found := report.values(cell))}
    means = {epoch: mean(found) for epoch, found in values.items()}
    spread = {epoch: std(found) or 0.0 for epoch, found in values.items()}
    if any(spread.values()):
        low, high = ([means[e] + sign * spread[e] for e in means] for sign in (-1, 1))
        axes.fill_between(list(means), low, high, color=look["color"], alpha=0.18, linewidth=0)
    if means:
        axes.plot(list(means), list(means.values()), label=label, clip_on=False, zorder=3, **look)
    return means


def _saving(axes: Axes, level: float, final: int, found: Verdict, *, paper: str | None) -> None:
    """Draws the baseline's final level, an arrow back to where MTO reaches it, and the paper's percentage."""
    axes.axhline(level, color=style.PLAIN, linewidth=0.8, linestyle=":", label="baseline's final accuracy")
    if found.kind == "void":
        text = "no better than from scratch"
    elif found.percent == UNKNOWN:
        text = found.to_match
    else:
        text = f"{found.percent} % fewer epochs"
        if found.share is not None and found.share < 1:
            arrow = {"arrowstyle": "-|>", "color": style.VERMILION, "linewidth": 1.3, "shrinkA": 0, "shrinkB": 0}
            axes.annotate("", xy=(found.share * final, level), xytext=(final, level), arrowprops=arrow, zorder=4)
    style.remark(axes, f"{text}\n(paper: {paper} %)" if paper else text)


def legend(figure: Figure, panels: Iterable[Axes], free: Iterable[Axes] = ()) -> None:
    """Draws one legend of all panels, in the first free cell of the grid or above them all."""
    entries: dict[str, Artist] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        entries |= {label: handle for handle, label in zip(handles, labels, strict=True)}
    place = next(iter(free), None)
    if not entries:
        return
    if place is not None:
        place.legend(list(entries.values()), list(entries), loc="center left")
    else:
        figure.legend(list(entries.values()), list(entries), loc="outside upper center", ncols=len(entries))
