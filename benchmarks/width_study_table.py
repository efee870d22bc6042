"""What the runs of `width_study.py` say of the registered comparisons: markdown, from their CSV alone.

    python benchmarks/width_study_table.py docs/width-study.csv

Families, intervals, the correction and the words are those of docs/width-study.md. A comparison that lacks seeds is
`incomplete`, whatever its numbers are.
"""

import argparse
import csv
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats
from width_study import METHODS, REPORTED, WIDTHS
from width_study_arms import SHARE, SHARES

HARM = math.log(1.02)
Row = dict[str, str]


class Difference(NamedTuple):
    """A paired comparison: how many seeds, the mean, its 95 % interval, and the p-value before correction."""

    seeds: int
    mean: float
    low: float
    high: float
    p: float


def difference(values: Iterable[tuple[float, float]]) -> Difference | None:
    """Of pairs (one arm, the other) by seed; the interval is nan with fewer than two, and None without any."""
    gaps = np.array([a - b for a, b in values])
    if not len(gaps):
        return None
    if len(gaps) < 2:
        return Difference(1, float(gaps[0]), math.nan, math.nan, math.nan)
    error = float(gaps.std(ddof=1)) / math.sqrt(len(gaps))
    half = float(stats.t.ppf(0.975, len(gaps) - 1)) * error
    p = float(stats.ttest_1samp(gaps, 0.0).pvalue) if error else 0.0
    return Difference(len(gaps), float(gaps.mean()), float(gaps.mean()) - half, float(gaps.mean()) + half, p)


def holm(p_values: list[float]) -> list[float]:
    """Returns the p-values corrected by Holm's method, in their order; nan stays nan, and counts as a comparison."""
    order = sorted(range(len(p_values)), key=lambda i: (math.isnan(p_values[i]), p_values[i]))
    corrected, worst = [math.nan] * len(p_values), 0.0
    for rank, index in enumerate(order):
        if not math.isnan(p_values[index]):
            worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[index]))
            corrected[index] = worst
    return corrected


def pairs(rows: list[Row], key: dict[str, str], arm: str, other: str, value: Callable[[Row], float]):
    """(one arm, the other) for each seed that both have in a cell, and that are reported."""
    cell = [r for r in rows if all(r[name] == wanted for name, wanted in key.items()) and int(r["seed"]) in REPORTED]
    by_arm = {
        name: {r["seed"]: value(r) for r in cell if r["arm"] == name and r["starts_at"] == "0"} for name in (arm, other)
    }
    return [(by_arm[arm][seed], by_arm[other][seed]) for seed in sorted(by_arm[arm].keys() & by_arm[other].keys())]


def strength(rows: list[Row]) -> None:
    """Criterion 1: how many of the shares lie within a factor of 2 of the one asked for."""
    print("| method | width | looks | within a factor of 2 | smallest | largest |\n|---|--:|--:|--:|--:|--:|")
    for method in METHODS:
        for width in WIDTHS:
            found = [
                float(share) / SHARE
                for r in rows
                if (r["arm"], r["method"], r["width"], r["starts_at"]) == ("balanced", method, str(width), "0")
                for name in SHARES
                for share in r[f"share_x0_{name}"].split()
            ]
            if found:
                within = sum(0.5 <= ratio <= 2.0 for ratio in found)
                low, high = (f"{SHARE * end(found):.3f}" for end in (min, max))
                print(f"| {method} | {width} | {len(found)} | {within} ({within / len(found):.0%}) | {low} | {high} |")


def widths(rows: list[Row]) -> None:
    """Criterion 2, family A: the loss over that of `none`."""
    table = []
    for method in ("simmim", "mae"):
        for width in WIDTHS:
            key = {"method": method, "width": str(width), "data": "photographs", "rate": "1"}
            key["steps"] = "150" if width == 768 else "300"
            for arm in ("text", "as_printed", "cosine", "balanced"):
                found = difference(pairs(rows, key, arm, "none", lambda r: math.log(float(r["loss"]))))
                knn = difference(pairs(rows, key, arm, "none", lambda r: 100 * float(r["knn"])))
                table.append(
                    (method, width, arm, found, knn, [r for r in rows if r["arm"] == arm and key.items() <= r.items()])
                )
    corrected = holm([found.p if found else math.nan for *_, found, _, _ in table])
    columns = (
        "method, width, arm, seeds, loss to none, 95 %, p (Holm), verdict, kNN − none, rank of X⁰, cosine of masked"
    )
    print(f"\n| {columns.replace(', ', ' | ')} |")
    print("|---|--:|---|--:|--:|---|--:|---|--:|--:|--:|")
    for (method, width, arm, found, knn, cell), p in zip(table, corrected, strict=True):
        if found is None or knn is None:
            print(f"| {method} | {width} | {arm} | 0 |  |  |  | not run |  |  |  |")
            continue
        complete = found.seeds >= (2 if width == 768 else 3)
        verdict = "open" if complete else "incomplete"
        if complete and found.low > HARM:
            verdict = "**harm**"
        elif complete and found.high < HARM:
            verdict = "no harm"
        ends = f"{math.exp(found.low):.3f} to {math.exp(found.high):.3f}" if found.seeds > 1 else ""
        rank, cosine = (np.mean([float(r[name]) for r in cell]) for name in ("rank_x0", "masked_cosine"))
        print(
            f"| {method} | {width} | {arm} | {found.seeds} | {math.exp(found.mean):.3f} | {ends} | "
            f"{'' if math.isnan(p) else f'{p:.3f}'} | {verdict} | {knn.mean:+.1f} | {rank:.1f} | {cosine:.3f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, nargs="+")
    rows = [row for table in parser.parse_args().table for row in csv.DictReader(table.open(newline=""))]
    print(f"{len(rows)} runs, {sum(int(r['cpu_s']) for r in rows) / 3600:.2f} core-hours\n")
    strength(rows)
    widths(rows)


if __name__ == "__main__":
    main()
