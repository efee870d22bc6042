"""What the runs of `width_study.py` say of the registered comparisons: markdown, from their CSV alone.

    python benchmarks/width_study_table.py docs/width-study.csv

Families, intervals, the correction and the words are those of docs/width-study.md. A comparison that lacks seeds is
`incomplete`, whatever its numbers are.
"""

import argparse
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats
from width_study import METHODS, REPORTED, WIDTHS, best_rates, rows_of
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
                and (r["data"], r["seed"]) == ("photographs", str(REPORTED[0]))
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


#: Family B in each cell, first arm against second; "none, tuned" is `none` at its best rate.
COMPARISONS = (
    *((subset, "none") for subset in ("spa", "e", "r", "spa+e", "spa+r", "e+r", "balanced")),
    ("balanced", "covariance"), ("spa", "covariance"), ("spa", "spa, visible columns"),
    ("e+r", "e+r, visible detached"), ("balanced", "none, tuned"), ("balanced", "spa"),
)  # fmt: skip


def terms(rows: list[Row], rates: dict[tuple[str, str], float]) -> None:
    """Criterion 3, family B: kNN, in points; and of each cell whether it is the masked token."""
    table = []
    for data in ("photographs", "fashion"):
        for method in METHODS[:3]:
            cell = _of_cell(rows, data, method, rates.get((data, method)))
            for arm, other in COMPARISONS:
                table.append((data, method, arm, other, difference(pairs(cell, {}, arm, other, _points))))
    corrected = holm([found.p if found else math.nan for *_, found in table])
    print("\n| data | method | arm | against | seeds | kNN, points | 95 % | p (Holm) | |")
    print("|---|---|---|---|--:|--:|---|--:|---|")
    won: dict[tuple[str, str], dict[tuple[str, str], Difference]] = {}
    for (data, method, arm, other, found), p in zip(table, corrected, strict=True):
        if found is None:
            continue
        complete = found.seeds == len(REPORTED)
        if complete and p < 0.05 and found.mean > 0:
            won.setdefault((data, method), {})[arm, other] = found
        word = "incomplete" if not complete else "open" if not p < 0.05 else "better" if found.mean > 0 else "worse"
        ends = f"{found.low:+.1f} to {found.high:+.1f}" if found.seeds > 1 else ""
        shown = "" if math.isnan(p) else f"{p:.3f}"
        print(
            f"| {data} | {method} | {arm} | {other} | {found.seeds} | {found.mean:+.1f} | {ends} | {shown} | {word} |"
        )
    print()
    for data in ("photographs", "fashion"):
        for method in METHODS[:3]:
            cell = _of_cell(rows, data, method, rates.get((data, method)))
            print(f"- {data}, {method}: {_masked_token(cell, won.get((data, method), {}))}")


def _masked_token(cell: list[Row], won: dict[tuple[str, str], Difference]) -> str:
    """What the registration says of a cell, by the comparisons that `balanced` or another arm has won in it."""
    gap = difference(pairs(cell, {}, "balanced", "covariance", _points))
    if gap is None or gap.seeds < len(REPORTED):
        return "incomplete"
    if all(("balanced", other) in won for other in ("covariance", "none, tuned", "spa")):
        return "**it is the masked token**"
    alike = difference(pairs(cell, {}, "covariance", "none", _points))
    if ("balanced", "none") in won and alike and alike.low > 0 and gap.low >= -2 and gap.high <= 2:
        return "**it is not the masked token**"
    return "open"


def _of_cell(rows: list[Row], data: str, method: str, rate: float | None) -> list[Row]:
    """A cell's rows: each arm at the method's own rate, and `none` at its best one, once that is known, as an arm."""
    of_it = [r for r in rows if (r["data"], r["method"], r["width"], r["steps"]) == (data, method, "48", "300")]
    own = [r for r in of_it if float(r["rate"]) == 1.0]
    best = [r | {"arm": "none, tuned"} for r in of_it if r["arm"] == "none" and float(r["rate"]) == rate]
    return own + best


def _points(row: Row) -> float:
    return 100 * float(row["knn"])


def warm(rows: list[Row]) -> None:
    """Criterion 4: from a trained state, the loss over the same schedule's without MTO, and the signs of a collapse."""
    columns = "method, arm, seeds, loss, to none, to a constant, cosine of masked, rank of X⁰, kNN − none, collapse"
    print(f"\n| {columns.replace(', ', ' | ')} |")
    print("|---|---|--:|--:|--:|--:|--:|--:|--:|---|")
    cells = [r for r in rows if r["data"] == "fashion" and r["steps"] == "450" and int(r["seed"]) in REPORTED[:3]]
    for method in ("simmim", "conmim", "mae"):
        none = {r["seed"]: r for r in cells if r["method"] == method and r["arm"] == "none"}
        for arm in ("text", "balanced"):
            own = [r for r in cells if (r["method"], r["arm"]) == (method, arm) and r["seed"] in none]
            if not own:
                print(f"| {method} | {arm} | 0 |  |  |  |  |  |  | not run |")
                continue
            ratios = [float(r["loss"]) / float(none[r["seed"]]["loss"]) for r in own]
            constant = [float(r["loss"]) / float(r["constant"]) for r in own]
            cosine = [float(r["masked_cosine"]) for r in own]
            signs = [c > 0.99 and (k > 0.98 or q > 1.5) for c, k, q in zip(cosine, constant, ratios, strict=True)]
            word = f"{sum(signs)} of {len(signs)}" + ("" if len(own) == 3 else ", incomplete")
            gain = np.mean([_points(r) - _points(none[r["seed"]]) for r in own])
            loss, rank = (np.mean([float(r[name]) for r in own]) for name in ("loss", "rank_x0"))
            print(
                f"| {method} | {arm} | {len(own)} | {loss:.3f} | {np.mean(ratios):.2f} | {np.mean(constant):.2f} | "
                f"{np.mean(cosine):.3f} | {rank:.1f} | {gain:+.1f} | {word} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, nargs="+")
    tables = parser.parse_args().table
    rows = list(rows_of(tables))
    print(f"{len(rows)} runs, {sum(int(r['cpu_s']) for r in rows) / 3600:.2f} core-hours\n")
    strength(rows)
    widths(rows)
    terms(rows, best_rates(tables))
    warm(rows)


if __name__ == "__main__":
    main()
