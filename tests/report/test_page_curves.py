"""Training curves of the report page: histories joined and thinned, and what is drawn of them."""

from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mto.report.page import charts, histories
from mto.report.page.charts import Line, Scale, draw
from mto.report.page.histories import History, read, read_all, thin


def segment(results: Path, epoch: int, rows: list[dict], *, done: bool = True, run: str = "mae-vitb") -> Path:
    """A segment's folder: finished, or with its history still in progress/."""
    folder = results / f"pretrain/{run}/seed0/epoch{epoch:04d}"
    path = folder / "history.jsonl" if done else folder / "progress/history.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if done:
        (folder / "metrics.json").write_text("{}")
    return path


def row(step: int, **scalars: float) -> dict:
    return {"step": step, "epoch": step / 10, **scalars}


# ---------------------------------------------------------------------------------------------------------- histories
def test_a_chain_is_one_curve(tmp_path):
    segment(tmp_path, 2, [row(10, loss=3.0), row(20, loss=2.0)])
    segment(tmp_path, 4, [row(30, loss=1.5), row(40, loss=1.0)])
    (history,) = read_all(tmp_path, epochs=4)
    assert (history.run, history.seed, history.epochs) == ("mae-vitb", 0, 4.0)
    assert history.series("loss") == [(1.0, 3.0), (2.0, 2.0), (3.0, 1.5), (4.0, 1.0)]


def test_a_segment_in_progress_counts_as_far_as_it_is(tmp_path):
    segment(tmp_path, 2, [row(20, loss=2.0)])
    segment(tmp_path, 4, [row(30, loss=1.5)], done=False)
    (history,) = read_all(tmp_path, epochs=4)
    assert history.series("loss") == [(2.0, 2.0), (3.0, 1.5)]
    assert history.epochs == 3.0


def test_a_line_cut_short_and_values_that_are_not_finite_are_left_out(tmp_path):
    path = segment(tmp_path, 4, [row(10, loss=1.0), row(20, loss=math.nan), row(30, loss=math.inf), row(40, loss=2.0)])
    path.write_text(path.read_text() + '{"step": 50, "epo')
    (history,) = read_all(tmp_path, epochs=4)
    assert history.series("loss") == [(1.0, 1.0), (4.0, 2.0)]
    assert read(tmp_path / "nowhere.jsonl") == []


def test_an_imported_run_has_no_curve(tmp_path):
    path = segment(tmp_path, 4, [])
    path.with_name("imported.json").write_text("{}")
    path.unlink()
    (history,) = read_all(tmp_path, epochs=4)
    assert history.imported
    assert history.rows == []
    assert read_all(tmp_path / "nowhere", epochs=4) == []


def test_losses_terms_and_layers_are_told_apart(tmp_path):
    scalars = {"loss": 5.0, "loss_pixel": 1.0, "loss_feature": 2.0, "loss_spa": 0.1, "loss_r": 0.2, "lr": 1.0}
    layers = {f"pixel/heterogeneity_{n}": 2.0 - 0.1 * n for n in (10, 9, 0, 1)}
    more = {"feature/heterogeneity_0": 1.0, "pixel/heterogeneity_ratio": 0.5, "pixel/saturated_3": 0.75}
    segment(tmp_path, 4, [row(40, **scalars, **layers, **more)])
    (history,) = read_all(tmp_path, epochs=4)
    assert history.losses == ["loss_pixel", "loss_feature"]
    assert history.terms == ["loss_spa", "loss_r"]
    assert history.layers == {
        "pixel": [f"pixel/heterogeneity_{n}" for n in (0, 1, 9, 10)],
        "feature": ["feature/heterogeneity_0"],
    }
    assert history.ceiling("pixel") == 4.0
    assert history.ceiling("feature") is None
    assert history.saturated("pixel") == 0.75
    assert History("mae-vitb", 0, [{"loss": 1.0}]).losses == ["loss"]


def test_signs_of_a_collapse_and_gradients_are_told_apart(tmp_path):
    signs = {"pixel/masked_cosine": 0.9, "pixel/modal_share": 0.8, "feature/masked_cosine": 0.7, "constant_ratio": 1.0}
    layers = {"pixel/heterogeneity_0": 2.0, "feature/heterogeneity_0": 2.0}
    segment(tmp_path, 4, [row(40, **signs, **layers, gradient_method=1.0, gradient_mto=0.2, gradient_r=0.1)])
    (history,) = read_all(tmp_path, epochs=4)
    assert history.signs == {
        "pixel": {"cosine": "pixel/masked_cosine", "on one": "pixel/modal_share", "loss": "constant_ratio"},
        "feature": {"cosine": "feature/masked_cosine", "loss": "constant_ratio"},
    }
    assert history.pulls == {"method": "gradient_method", "L r": "gradient_r"}


def test_the_few_rows_that_compare_gradients_are_all_read(tmp_path):
    rows = [{"step": n, "epoch": n / 100} | ({"gradient_r": 1.0} if n % 10 == 3 else {}) for n in range(1, 25_001)]
    kept = read(segment(tmp_path, 250, rows))
    assert sum("gradient_r" in row for row in kept) == 2500
    assert kept[-1]["step"] == 25_000


def test_a_long_history_is_thinned_to_means_and_keeps_its_end(tmp_path):
    rows = [{"step": n, "epoch": n / 100, "loss": float(n)} for n in range(1, 80_001)]
    path = segment(tmp_path, 800, rows)
    kept = read(path)
    assert histories.ROWS <= len(kept) < 2 * histories.ROWS
    assert kept[-1]["step"] == 80_000
    (history,) = read_all(tmp_path, epochs=800)
    assert len(history.rows) == histories.POINTS
    assert all(y == pytest.approx(100 * x) for x, y in history.series("loss"))  # means of both


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0.01, 800.0), min_size=1, max_size=400), st.integers(1, 800))
def test_thinning_keeps_order_range_and_mean(epochs, length):
    rows = [{"step": float(n), "epoch": epoch} for n, epoch in enumerate(sorted(min(e, length) for e in epochs))]
    thinned = [point["epoch"] for point in thin(rows, length)]
    assert thinned == sorted(thinned)
    assert 0 < len(thinned) <= min(histories.POINTS + 1, len(rows))
    lowest, highest = rows[0]["epoch"], rows[-1]["epoch"]
    assert lowest - 1e-9 <= thinned[0]
    assert thinned[-1] <= highest + 1e-9


def test_ablations_come_after_the_pair():
    runs = ["simmim-vitb-mto_spa", "simmim-vitb-mto", "simmim-vitb-mto_e_r", "simmim-vitb"]
    assert sorted(runs, key=histories.order)[:2] == ["simmim-vitb", "simmim-vitb-mto"]
    assert [histories.is_ablation(run) for run in runs] == [True, False, True, False]
    assert histories.is_ablation("mae-vitb-mto-depth2")
    assert histories.is_ablation("mae-vitb-mto@benign")


# ------------------------------------------------------------------------------------------------------------- charts
def paths(svg: str) -> dict[str, list[tuple[float, float]]]:
    """The title of each line of a chart to its points, in the drawing's units."""
    found = {}
    for path in ET.fromstring(svg).iter("path"):
        if len(path):
            start, _, steps = path.attrib["d"][1:].partition("l")
            x, y = map(float, start.split("h")[0].split())
            points = [(x, y)]
            numbers = list(map(float, steps.split()))
            for dx, dy in zip(numbers[::2], numbers[1::2], strict=True):
                x, y = x + dx, y + dy
                points.append((x, y))
            found[path[0].text or ""] = points
    return found


def test_a_line_is_drawn_where_its_values_are():
    svg = draw("t", [Line("a", [(0, 0.0), (5, 1.0), (10, 0.5)], "own0", "a")], Scale(0.0, 1.0), 10, [0, 5, 10])
    ((title, points),) = paths(svg).items()
    assert title == "a: 0 at first, 0.5 at last"
    left, right, top, bottom = charts.LEFT, charts.RIGHT, charts.TOP, charts.BOTTOM
    assert points == [(left, bottom), ((left + right) / 2, top), (right, pytest.approx((top + bottom) / 2))]


def test_a_logarithmic_scale():
    lines = [Line("a", [(0, 0.01), (10, 1.0)], "own0")]
    scale = Scale.over(lines, log=True)
    assert scale.log
    assert scale.ticks() == pytest.approx([0.01, 0.1, 1.0])
    assert scale.height(0.1) == pytest.approx((charts.TOP + charts.BOTTOM) / 2)
    assert not Scale.over(lines).log
    assert not Scale.over([Line("a", [(0, 0.0), (10, 1.0)], "own0")], log=True).log


@settings(max_examples=100, deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(0, 1e6))
def test_ticks_are_few_and_inside(low, span):
    scale = Scale.over([Line("a", [(0, low), (1, low + span)], "own0")])
    ticks = scale.ticks()
    assert 1 <= len(ticks) <= 6
    slack = 1e-9 * max(abs(scale.low), abs(scale.high))
    assert all(scale.low - slack <= tick <= scale.high + slack for tick in ticks)
    assert charts.TOP <= scale.height(low) <= charts.BOTTOM


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_names_do_not_overlap(ends):
    lines = [Line(f"n{i}", [(0, 0.5), (10, end)], "own0", f"n{i}") for i, end in enumerate(ends)]
    svg = draw("t", lines, Scale(0.0, 1.0), 10, [0, 10], ceiling=1.0)
    heights = sorted(float(y) for y in re.findall(r'<text class="(?:own0|faint)" x="\d+" y="([\d.-]+)"', svg))
    assert len(heights) == len(ends) + 1
    assert all(b - a >= charts.LINE - 1 for a, b in pairwise(heights))
    assert heights[-1] <= charts.BOTTOM + 4


def test_odd_curves_do_not_break_the_drawing():
    for points in ([], [(5, 1.0)], [(0, 1.0), (1, 1.0)], [(0, -1e300), (10, 1e300)]):
        ET.fromstring(draw("a < b", [Line("x & y", points, 0.5, "<x>")], Scale.over([Line("", points, 0.5)]), 10, [10]))
