"""Figure 2: token affinity per layer, masked tokens first, then the visible ones."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mto.errors import UserError
from mto.report.figures import style
from mto.report.labels import run_name, stream_name
from mto.report.metrics import Report

COLUMNS = 7


def draw(report: Report) -> Figure:
    """Draws a block a model, epoch and stream; a map a layer, min-max normalised, of the first image and seed."""
    blocks = []
    for cell in report.cells:
        if not report.step(cell, report.seeds[0]):
            continue
        streams = read(report.folder(cell, report.seeds[0]))
        for stream, maps, masked in streams:
            suffix = f", {stream_name(stream)}" if len(streams) > 1 else ""
            blocks.append((f"{run_name(cell.run)}, {report.epochs(cell.epoch)}{suffix}", maps, masked))
    footer = " ".join(["Each map min-max normalised.", report.scale_line, *report.missing_notes])
    if not blocks:
        return style.nothing(footer, "no model has been measured yet")
    most = max(len(maps) for _, maps, _ in blocks)
    columns = -(-most // -(-most // COLUMNS))  # rows of about equal length
    heights = [-(-len(maps) // columns) for _, maps, _ in blocks]
    size = style.WIDTH / (columns + 0.4)
    figure = style.new(sum(heights) * (size + 0.12) + 0.35 * len(blocks) + 0.3, footer)
    parts = np.atleast_1d(np.asarray(figure.subfigures(len(blocks), 1, height_ratios=heights)))
    for part, (title, maps, masked), rows in zip(parts, blocks, heights, strict=True):
        part.suptitle(title, fontsize=8.5, fontweight="bold", x=0.005, ha="left")
        grid = part.subplots(rows, columns, squeeze=False).ravel()
        for axes in grid[len(maps) :]:
            axes.set_axis_off()
        for axes, (layer, affinity) in zip(grid, maps.items(), strict=False):
            _map(axes, affinity, masked, labelled=axes is grid[(rows - 1) * columns])
            axes.set_title(
                "layer 0 (embedding)" if layer == 0 and columns < 6 else f"layer {layer}", fontweight="normal"
            )
    return figure


def _map(axes: Any, affinity: NDArray[Any], masked: int, *, labelled: bool) -> None:
    low, high = np.nanmin(affinity), np.nanmax(affinity)
    tokens = len(affinity)
    axes.imshow((affinity - low) / (high - low or 1.0), cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
    axes.axhline(masked - 0.5, color="white", linewidth=0.9)
    axes.axvline(masked - 0.5, color="white", linewidth=0.9)
    axes.grid(visible=False)
    middles = [(masked - 1) / 2, (masked + tokens - 1) / 2]
    axes.tick_params(length=0, labelsize=6.5)
    axes.set_xticks(middles if labelled else [], ["masked", "visible"] if labelled else [])
    axes.set_yticks(middles if labelled else [], ["masked", "visible"] if labelled else [], rotation=90, va="center")


def read(folder: Path) -> list[tuple[str, dict[int, NDArray[Any]], int]]:
    """Reads each stream in affinity.npz: its name, the first image's (N, N) map by layer, how many tokens are masked.

    Raises:
        UserError: if the file is missing or holds something else.
    """
    path = folder / "affinity.npz"
    try:
        arrays = dict(np.load(path))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run `snakemake analysis`") from None
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not an npz file ({error}); delete it and run `snakemake analysis`") from None
    if "num_masked" not in arrays:
        raise UserError(f"{path}: lacks num_masked; delete it and run `snakemake analysis`")
    masked = int(np.ravel(arrays.pop("num_masked"))[0])
    streams: dict[str, dict[int, NDArray[Any]]] = {}
    for key, array in arrays.items():
        match = re.fullmatch(r"(.+)/(?:layer)?(\d+)", key)
        if not match or array.ndim != 3 or array.shape[1] != array.shape[2]:
            raise UserError(f"{path}: {key} must be '<stream>/<layer>' of shape (images, N, N), not {array.shape}")
        streams.setdefault(match[1], {})[int(match[2])] = array[0].astype(float)
    return [(stream, dict(sorted(maps.items())), masked) for stream, maps in streams.items()]
