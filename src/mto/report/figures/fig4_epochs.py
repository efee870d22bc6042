"""Figure 4: fine-tuning accuracy over pre-training, without and with MTO, and the epochs that MTO saves."""

from __future__ import annotations

from matplotlib.figure import Figure

from mto.report.figures import accuracy, style
from mto.report.labels import baseline_name
from mto.report.metrics import Report

COLUMNS = 3


def draw(report: Report) -> Figure:
    """Draws a panel a baseline."""
    baselines = report.plan["baselines"]
    cells = len(baselines) + 1 if len(baselines) % COLUMNS else len(baselines)  # a free cell holds the legend
    rows = -(-cells // COLUMNS)
    figure = style.new(2.3 * rows + 0.3, accuracy.footer(report))
    grid = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for index, (axes, baseline) in enumerate(zip(grid, baselines, strict=False)):
        accuracy.panel(axes, report, baseline)
        axes.set_title(baseline_name(baseline), pad=accuracy.ROOM)
        if index % COLUMNS == 0:
            axes.set_ylabel("top-1 (%)")
        if index + COLUMNS >= len(baselines):
            axes.set_xlabel("pre-training epochs")
    for axes in grid[len(baselines) :]:
        axes.set_axis_off()
    accuracy.legend(figure, grid[: len(baselines)], grid[len(baselines) :])
    return figure
