"""Supplementary Figure 2: fine-tuning and linear-probe accuracy over the decoder's depth, with MTO."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mto.names import Cell
from mto.report import printed
from mto.report.figures import accuracy, style
from mto.report.labels import run_name
from mto.report.metrics import Report, mean, std


def draw(report: Report) -> Figure:
    """Draws two panels, fine-tuning and linear probe; bars are of one standard deviation over seeds."""
    figure = style.new(2.65, report.footer)
    panels = figure.subplots(1, 2)
    lowest = {row["column"]: float(row["value"]) for row in printed.unassigned("figS2_decoder_depth")}
    for axes, task, title in zip(panels, ("finetune", "linear"), ("Fine-tuning", "Linear probe"), strict=True):
        cells = [cell for cell in report.cells if cell.task == task]  # in the order of plan.depths
        _panel(axes, report, dict(zip(report.plan["depths"], cells, strict=True)))
        accuracy.from_scratch(axes, report, task, report.plan["baseline"])
        axes.set_title(f"{title}\n{run_name(cells[0].run)}, {report.epochs(report.plan['epoch'])}")
        axes.set_xlabel(f"decoder blocks{axes.get_xlabel()}")
        if report.is_paper_scale:
            level = lowest[f"{task}_top1_lowest"]
            axes.axhline(level, color=style.PLAIN, linewidth=0.8, linestyle=":")
            place = {"xy": (1, level), "xycoords": ("axes fraction", "data"), "ha": "right", "va": "bottom"}
            axes.annotate("the paper's lowest, its depth not printed", fontsize=6.5, color=style.GREY, **place)
    panels[0].set_ylabel("top-1 (%)")
    accuracy.legend(figure, panels)  # of the level from scratch, if there is one
    return figure


def _panel(axes: Axes, report: Report, cells: dict[int, Cell]) -> None:
    axes.set_xticks(sorted(cells))
    values = {depth: found for depth in sorted(cells) if (found := report.values(cells[depth]))}
    if not values:
        style.absent(axes, "not measured yet")
        return
    deviation = [std(found) or 0.0 for found in values.values()]
    axes.errorbar(
        *(list(values), [mean(found) for found in values.values()]),
        yerr=deviation if any(deviation) else None,
        color=style.WITH_MTO,
        marker="s",
        capsize=2.5,
        elinewidth=1,
    )
    axes.margins(y=0.15)
    if len(values) < len(cells):
        absent = [depth for depth in cells if depth not in values]
        axes.set_xlabel(f" (not measured yet: {', '.join(map(str, absent))})")
