"""The look that all figures share, and how they are written. No pyplot: no global state, no display."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mto.files import replacing

# Okabe and Ito's colours, told apart by every kind of colour vision.
BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"
CYCLE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
GREY, LIGHT = "#595959", "#D9D9D9"
PLAIN, WITH_MTO = GREY, BLUE
WIDTH = 7.0  # inches: the text width of a page
FOOT = 120  # characters across it, at the size of a figure's foot

matplotlib.rcParams.update(
    {
        "font.family": "DejaVu Sans",  # ships with matplotlib: the same on every machine
        "font.size": 8,
        "axes.titlesize": 8.5,
        "axes.titleweight": "bold",
        "axes.labelsize": 8,
        "axes.linewidth": 0.7,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#E6E6E6",
        "grid.linewidth": 0.6,
        "xtick.labelsize": 7.5,
        "ytick.labelsize": 7.5,
        "legend.fontsize": 7.5,
        "legend.frameon": False,
        "lines.linewidth": 1.6,
        "lines.markersize": 4,
        "pdf.fonttype": 42,  # TrueType, embedded: text stays text
        "figure.dpi": 200,
        "savefig.dpi": "figure",
    }
)


def nothing(footer: str, text: str) -> Figure:
    """Makes a figure none of whose data is there yet."""
    figure = new(1.6, footer)
    axes = figure.subplots()
    axes.set_axis_off()
    absent(axes, text)
    return figure


def new(height: float, footer: str, **options: Any) -> Figure:
    """Makes an empty figure of the page's width (inches), with the scale named at its foot; a long foot adds height."""
    lines = textwrap.wrap(footer, FOOT, break_long_words=False, break_on_hyphens=False)
    figure = Figure(figsize=(WIDTH, height + 0.12 * max(len(lines) - 1, 0)), layout="constrained", **options)
    figure.supxlabel("\n".join(lines), fontsize=7, color=GREY, x=0.995, ha="right")
    return figure


def absent(axes: Axes, text: str) -> None:
    """Says in the drawing itself that something is not there."""
    axes.text(0.5, 0.5, text, ha="center", va="center", color=GREY, style="italic", transform=axes.transAxes)
    axes.set_yticks([])


def remark(axes: Axes, text: str) -> None:
    """Writes a line or two between a panel's title and its axes."""
    axes.text(0.5, 1.02, text, fontsize=7.5, color=VERMILION, ha="center", va="bottom", transform=axes.transAxes)


def save(figure: Figure, out: Path, name: str) -> None:
    """Writes <name>.png and <name>.pdf by atomic rename, without dates, so that equal figures are equal bytes."""
    out.mkdir(parents=True, exist_ok=True)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # laid out once, not for each format
    for kind, metadata in (
        ("png", {"Software": None}),
        ("pdf", {"CreationDate": None, "Creator": None, "Producer": None}),
    ):
        with replacing(out / f"{name}.{kind}") as partial:
            figure.savefig(partial, format=kind, metadata=metadata)
