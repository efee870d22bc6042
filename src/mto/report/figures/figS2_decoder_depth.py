"""Supplementary Figure 2: fine-tuning and linear-probe accuracy over the decoder's depth, with MTO."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mto.report.figures import style
from mto.report.labels import run_name
from mto.report.metrics import Cell, Report, mean, std


def draw(report: Report) -> Figure:
    """Two panels: fine-tuning and linear probe; bars of one standard deviation over seeds."""
    figure = style.new(2.5, report.footer)
    panels = figure.subplots(1, 2)
    for axes, task, title in zip(panels, ("finetune", "linear"), ("Fine-tuning", "Linear probe"), strict=True):
        cells = [cell for cell in report.cells if cell.task == task]  # in the order of plan.depths
        _panel(axes, report, dict(zip(report.plan["depths"], cells, strict=True)))
        axes.set_title(f"{title}: {run_name(cells[0].run)}, {report.plan['epoch']} epochs")
        axes.set_xlabel("decoder blocks")
    panels[0].set_ylabel("top-1 (%)")
    return figure


def _panel(axes: Axes, report: Report, cells: dict[int, Cell]) -> None:
    depths = sorted(cells)
    values = [report.values(cells[depth]) for depth in depths]
    deviation = [std(value) or 0.0 for value in values]
    axes.errorbar(
        *(depths, [mean(value) for value in values]),
        yerr=deviation if any(deviation) else None,
        color=style.WITH_MTO,
        marker="s",
        capsize=2.5,
        elinewidth=1,
    )
    axes.set_xticks(depths)
    axes.margins(y=0.15)
