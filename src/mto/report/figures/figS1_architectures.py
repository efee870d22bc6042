"""Supplementary Figure 1: MTO in an encoder-style method and in a decoder-style one, over pre-training."""

from __future__ import annotations

from matplotlib.figure import Figure

from mto.names import BASELINES, Run
from mto.report.figures import accuracy, style
from mto.report.labels import baseline_name
from mto.report.metrics import Report


def draw(report: Report) -> Figure:
    """Draws a panel a method, on one scale of accuracy, so that they can be compared."""
    baselines = report.plan["baselines"]
    figure = style.new(3.05, accuracy.footer(report))
    panels = figure.subplots(1, len(baselines), sharey=True, squeeze=False).ravel()
    for axes, baseline in zip(panels, baselines, strict=True):
        accuracy.panel(axes, report, baseline)
        kind = "encoder-style" if BASELINES[Run.parse(baseline).baseline].masked_in == "encoder" else "decoder-style"
        axes.set_title(f"{baseline_name(baseline)}, {kind}", pad=accuracy.ROOM)
        axes.set_xlabel("pre-training epochs")
    panels[0].set_ylabel("top-1 (%)")
    accuracy.legend(figure, panels)
    return figure
