"""heterogeneity.csv: profiles of H over the layers, for Figure 1 and for the `profile` command.

One row an image: stream, layer, variant, image, H (nats), H_over_lnV (H / ln V, 0 to 1), saturated (share of masked
rows whose entropy has collapsed).
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pandas as pd

from mto.errors import UserError

COLUMNS = ["stream", "layer", "variant", "image", "H", "H_over_lnV", "saturated"]
FLAT = 0.01  # a profile that moves less than this, in units of ln V, is flat


def read(folder: Path) -> pd.DataFrame:
    """Reads the heterogeneity.csv of a folder.

    Raises:
        UserError: if it is missing, empty, lacks a column, or was cut.
    """
    path = folder / "heterogeneity.csv"
    try:
        table = pd.read_csv(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run `snakemake analysis`") from None
    except ValueError as error:
        raise UserError(f"{path}: not a table ({error}); delete it and run `snakemake analysis`") from None
    lacking = [column for column in COLUMNS if column not in table]
    if lacking or table.empty:
        raise UserError(
            f"{path}: {'lacks ' + ', '.join(lacking) if lacking else 'no rows'}; delete it and run `snakemake analysis`"
        )
    if cut := _cut(path, table, folder / "metrics.json"):
        raise UserError(f"{path}: cut off ({cut}); delete it and run `snakemake analysis`")
    return table


def _cut(path: Path, table: pd.DataFrame, metrics: Path) -> str | None:
    """Says what a whole file has and this one lacks: every layer under every variant, for every image measured."""
    if not path.read_bytes().endswith(b"\n"):
        return "its last line has no end"
    if table[COLUMNS].isna().any(axis=None):
        return "a value is missing"
    images = table["image"].nunique()
    a_layer = table.groupby(["stream", "variant", "layer"], sort=False).size()
    layers = table.groupby(["stream", "variant"], sort=False)["layer"].nunique().groupby("stream").nunique()
    if (a_layer != images).any() or (layers != 1).any():
        return f"not every layer and variant has its {images} images"
    measured = (
        json.loads(metrics.read_text(encoding="utf-8"))["metrics"].get("images", images) if metrics.exists() else images
    )
    return None if images == measured else f"{images} of {measured} images"


def over_layers(table: pd.DataFrame) -> pd.DataFrame:
    """Averages over images H / ln V (and 10th, 90th percentile), H in nats, saturation; by stream, variant, layer."""
    keys = ["stream", "variant", "layer"]
    grouped = table.groupby(keys, sort=False)
    profile = grouped.agg(mean=("H_over_lnV", "mean"), saturated=("saturated", "mean"), H=("H", "mean"))
    profile["low"] = grouped["H_over_lnV"].quantile(0.1)
    profile["high"] = grouped["H_over_lnV"].quantile(0.9)
    return profile.reset_index().sort_values("layer", kind="stable")


def shape(means: list[float]) -> str:
    """Says in a word what a profile does from the first to the last layer."""
    steps = [after - before for before, after in pairwise(means)]
    if max(means) - min(means) < FLAT:
        return "flat"
    if all(step < 0 for step in steps):
        return "falls at every layer"
    if means[-1] - means[0] <= -FLAT:
        return "falls"
    return "rises" if means[-1] - means[0] >= FLAT else "returns"


def verdict(folders: list[Path]) -> pd.DataFrame:
    """Returns how H / ln V goes over the layers by every affinity (variant), in every folder and stream.

    Returns:
        One row a folder, stream and variant: first, last, drop (first minus last), falling (share of falling steps),
        saturated (the largest share over layers), shape.
    """
    rows = []
    for folder in folders:
        profile = over_layers(read(folder))
        for (stream, variant), part in profile.groupby(["stream", "variant"], sort=False):
            means = part["mean"].tolist()
            steps = part["mean"].diff().iloc[1:]
            rows.append(
                {
                    "folder": str(folder),
                    "stream": stream,
                    "variant": variant,
                    "first": means[0],
                    "last": means[-1],
                    "drop": means[0] - means[-1],
                    "falling": float((steps < 0).mean()),
                    "saturated": part["saturated"].max(),
                    "shape": shape(means),
                }
            )
    return pd.DataFrame(rows)


def layers(folders: list[Path]) -> str:
    """Returns H of every layer as text, in nats, as means over images: a table a folder, a row a stream and variant."""
    parts = []
    for folder in folders:
        wide = over_layers(read(folder)).pivot_table("H", ["stream", "variant"], "layer", sort=False)
        text = wide.reset_index().to_string(index=False, float_format="{:.3f}".format)
        parts += [f"{folder}: H in nats, by layer", text]
    return "\n".join(parts)


def describe(folders: list[Path]) -> str:
    """Returns the decision aid as text: every profile, then the affinities whose profile falls on all models given."""
    rows = verdict(folders)
    parts = [
        rows.drop(columns="folder")[rows.folder == str(f)].to_string(index=False, float_format="{:.3f}".format)
        for f in folders
    ]
    lines = [line for folder, part in zip(folders, parts, strict=True) for line in (f"{folder}", part, "")]
    ranked = rows.groupby("variant", sort=False).agg(
        falling=("falling", "mean"), drop=("drop", "min"), saturated=("saturated", "max")
    )
    always = rows.groupby("variant", sort=False)["shape"].agg(lambda shapes: all(s.startswith("falls") for s in shapes))
    ranked = ranked[always].sort_values(["falling", "drop"], ascending=False, kind="stable")
    if ranked.empty:
        return "\n".join([*lines, "No affinity gives a falling profile on all of them, as the paper's Figure 1 shows."])
    lines.append(
        "Affinities with a falling profile on all of them, as the paper's Figure 1 shows, the steadiest first:"
    )
    for variant, row in ranked.iterrows():
        warning = f"; up to {row.saturated:.0%} of rows saturated" if row.saturated > 0.05 else ""
        lines.append(
            f"  {variant}: {row.falling:.0%} of the steps fall, H / ln V drops by at least {row['drop']:.3f}{warning}"
        )
    return "\n".join(lines)
