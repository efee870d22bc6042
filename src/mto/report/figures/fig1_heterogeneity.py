"""Figure 1: heterogeneity per layer of converged models, and of an early one, by every affinity of Eq. 2."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mto.report import profiles
from mto.report.figures import style
from mto.report.labels import affinity_name, run_name, stream_name
from mto.report.metrics import Report

SMALL_COLUMNS = 3
#: Of the CSV: H in nats; H / ln V, with its 10th and 90th percentile; the share of masked rows that are saturated.
COLUMNS = ("run", "epoch", "stream", "variant", "layer", "H", "H_over_lnV", "p10", "p90", "saturated")


def draw(report: Report) -> Figure:
    """Draws a line a model, epoch and stream: the mean over images and seeds, and a band of 10th to 90th percentile.

    The first variant of the files (`analysis.variants`) is drawn large, the others are small multiples.
    """
    tables = _tables(report)
    footer = " ".join(["Mean and 10th to 90th percentile over images.", report.scale_line, *report.missing_notes])
    if not tables:
        return style.nothing(footer, "no model has been measured yet")
    lines = {key: profiles.over_layers(table) for key, table in tables.items()}
    variants = list(dict.fromkeys(v for table in tables.values() for v in table["variant"].unique()))
    small = -(-(len(variants) - 1) // SMALL_COLUMNS)
    figure = style.new(2.7 + 1.6 * small, footer)
    grid = figure.add_gridspec(1 + small, SMALL_COLUMNS, height_ratios=[1.7] + [1] * small)
    large = figure.add_subplot(grid[0, :])
    _panel(large, report, lines, variants[0])
    large.set_title(large.get_title().replace("\n", ", "), fontweight="bold")
    large.set_ylabel("H / ln V")
    large.set_xlabel("layer (0: the initial embedding)")
    figure.legend(*large.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    for index, variant in enumerate(variants[1:]):
        axes = figure.add_subplot(grid[1 + index // SMALL_COLUMNS, index % SMALL_COLUMNS])
        _panel(axes, report, lines, variant)
        if index % SMALL_COLUMNS == 0:
            axes.set_ylabel("H / ln V")
        if index // SMALL_COLUMNS == small - 1:
            axes.set_xlabel("layer")
    return figure


def values(report: Report) -> list[dict[str, Any]]:
    """Returns what is drawn, a row a run, epoch, stream, variant and layer, for the CSV beside the figure."""
    return [
        {"run": run, "epoch": epoch, **{str(name): value for name, value in row.items()}}
        for (run, epoch), table in _tables(report).items()
        for row in profiles.over_layers(table)
        .rename(columns={"mean": "H_over_lnV", "low": "p10", "high": "p90"})
        .sort_values(["stream", "variant", "layer"])
        .to_dict("records")
    ]


def _tables(report: Report) -> dict[tuple[str, int], pd.DataFrame]:
    """Reads the files of all seeds of each model that has been measured."""
    found = {
        (c.run, c.epoch): [profiles.read(report.folder(c, s)) for s in report.seeds if report.step(c, s)]
        for c in report.cells
    }
    return {key: pd.concat(parts) for key, parts in found.items() if parts}


def _panel(axes: Axes, report: Report, lines: dict[tuple[str, int], pd.DataFrame], variant: str) -> None:
    runs = list(dict.fromkeys(run for run, _ in lines))
    last = {run: max(epoch for other, epoch in lines if other == run) for run in runs}
    low, high, layers = 1.0, 0.0, 0
    colors = iter(style.CYCLE * 3)
    chosen: dict[tuple[str, str], str] = {}
    for (run, epoch), table in lines.items():
        table = table[table.variant == variant]
        streams = table.stream.unique()
        for stream in streams:
            part = table[table.stream == stream]
            color = chosen.get((run, stream)) or chosen.setdefault((run, stream), next(colors))
            name = run_name(run) + (f", {stream_name(stream)}" if len(streams) > 1 else "")
            early = epoch != last[run]
            axes.fill_between(part.layer, part.low, part.high, color=color, alpha=0.08 if early else 0.16, linewidth=0)
            axes.plot(
                *(part.layer, part["mean"]),
                color=color,
                linestyle="--" if early else "-",
                marker="o",
                clip_on=False,
                markerfacecolor="white" if early else color,
                label=f"{name}, {report.epochs(epoch)}",
            )
            low, high, layers = min(low, part.low.min()), max(high, part.high.max()), max(layers, part.layer.max())
    pad = max(0.05 - (high - low), 0.08 * (high - low)) / 2  # never a span so small that noise looks like a slope
    axes.set_ylim(max(low - pad, -0.02), min(high + pad, 1.02))
    axes.set_xticks(range(0, layers + 1, 1 if layers <= 8 else 2))
    axes.set_title(affinity_name(variant), fontsize=8, fontweight="normal")
