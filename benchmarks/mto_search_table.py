"""The table of `mto_search.py`: mean ± standard deviation over seeds, and which criteria of the note a preset meets.

    python benchmarks/mto_search_table.py docs/mto-search.csv --seeds 20 21 22

Prints Markdown. The criteria, 1 and 2, are those of docs/mto-collapse.md.
A preset is compared with the runs without MTO of the same method, data, size and seeds.
"""

import argparse
import csv
import json
import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import mean, stdev

#: Criterion 1: the loss may be this much larger; the spread of the masked tokens this much smaller.
LOSS, SPREAD = 1.02, 0.1
#: Criterion 2: H may rise by this share of ln V from one layer to the next.
RISE = 0.01
#: Masked patches of 49, as the samplers of `mto_search.py` draw them.
VISIBLE = {"simmim": 19, "mae": 12, "bootmae": 12, "conmim": 12}

Row = dict[str, str]


def values(rows: Sequence[Row], column: str) -> list[float]:
    return [float(row[column]) for row in rows]


def profile(rows: Sequence[Row], column: str) -> list[float]:
    """Mean over seeds of H per layer."""
    return [mean(layer) for layer in zip(*(map(float, row[column].split()) for row in rows), strict=True)]


def harmless(rows: Sequence[Row], baseline: Sequence[Row]) -> bool:
    """Criterion 1 for one method on one data set. A run that did not end with a finite loss does harm."""
    loss = mean(values(rows, "loss"))
    spread, reference = (1 - mean(values(r, "cos_masked")) for r in (rows, baseline))
    return loss <= LOSS * mean(values(baseline, "loss")) and spread > SPREAD * reference


def pictured(h: Sequence[float], reference: Sequence[float], log_visible: float) -> bool:
    """Criterion 2: H per layer with MTO, and without it by the same affinity."""
    falls = all(after - before <= RISE * log_visible for before, after in pairwise(h))
    return falls and h[0] == max(h) and h[0] - h[-1] > reference[0] - reference[-1]


def reading_column(row: Row) -> str | None:
    """The column that holds H by this preset's affinity of every run, also without MTO; None: not measured."""
    reading = {"affinity": "dot", "tokens": "raw", "temperature": 1.0} | json.loads(row["switches"])
    measured = {
        ("dot", "raw", 1.0): "h_dot",
        ("cosine", "raw", 0.1): "h_cosine",
        ("cosine", "layernorm", 1 / 48): "h_normed",
    }
    return measured.get((reading["affinity"], reading["tokens"], reading["temperature"]))


def spread(rows: Sequence[Row], column: str, scale: float = 1.0, digits: int = 3) -> str:
    x = [scale * value for value in values(rows, column) if math.isfinite(value)]
    text = f"{mean(x):.{digits}f}" if x else "-"
    return f"{text} ± {stdev(x):.{digits}f}" if len(x) > 1 else text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--seeds", nargs="+", default=["20", "21", "22"])
    args = parser.parse_args()
    groups: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    with args.table.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["seed"] in args.seeds:
                groups[row["data"], row["method"], row["width"], row["steps"], row["preset"]].append(row)
    numbers = "runs | loss | to none | kNN | probe | cosine | share | rank | norm | gradient"
    print(f"| data | method | preset | {numbers} | 1 | 2 |")
    print("|---|---|---" + "|--:" * 10 + "|---|---|")
    for (data, method, *size, preset), rows in sorted(groups.items()):
        seeds = {row["seed"] for row in rows}
        baseline = [row for row in groups.get((data, method, *size, "none"), []) if row["seed"] in seeds]
        verdicts = ["", ""]
        ratio = ""
        if preset != "none" and len(baseline) == len(rows):
            ratio = f"{mean(values(rows, 'loss')) / mean(values(baseline, 'loss')):.3f}"
            verdicts[0] = "yes" if harmless(rows, baseline) else "**no**"
            if column := reading_column(rows[0]):
                picture = pictured(profile(rows, column), profile(baseline, column), math.log(VISIBLE[method]))
                verdicts[1] = "yes" if picture else "**no**"
        gradient = " ".join(f"{value:.2g}" for value in profile(rows, "grad_ratio"))
        cells = [data, method, preset if size == ["48", "450"] else f"{preset} ({' x '.join(size)})", len(rows)]
        cells += [spread(rows, "loss"), ratio, spread(rows, "knn", 100, 1), spread(rows, "probe", 100, 1)]
        cells += [spread(rows, "cos_masked"), spread(rows, "modal_share", 1, 2), spread(rows, "rank_x0", 1, 1)]
        cells += [spread(rows, "norm_x0", 1, 1), gradient, *verdicts]
        print("| " + " | ".join(map(str, cells)) + " |")


if __name__ == "__main__":
    main()
