"""One verdict on a baseline: the first table of the page, Table 1, Figure 4 and Figure S1 say the same of it."""

import json

import pytest

from mto.names import Step
from mto.report.figures import fig4_epochs, figS1_architectures
from mto.report.metrics import Report
from mto.report.page.findings import Findings
from mto.report.tables import table1_rauc
from mto.report.verdict import Measured, judge

BASE = {0: 40.0, 1: 50.0, 2: 60.0, 4: 70.0, 8: 80.0}
BETTER = {1: 55.0, 2: 65.0, 4: 75.0, 8: 85.0}
WORSE = {1: 40.0, 2: 50.0, 4: 60.0, 8: 70.0}
LOST = {**BASE, 0: 93.0}
AT_ONCE = {1: 80.0, 2: 81.0, 4: 82.0, 8: 83.0}
#: The curves without and with MTO of two seeds; what every place shows, and what the figure says above the panel.
CASES = {
    "yes": ([(BASE, BETTER)] * 2, ("6.0 ± 0.0", "2.0 ± 0.0", "25.0 ± 0.0"), "25.0 ± 0.0 % fewer epochs"),
    "bound": ([(BASE, AT_ONCE)] * 2, ("≤ 1.0 ± 0.0", "≥ 7.0 ± 0.0", "≥ 87.5 ± 0.0"), "≥ 87.5 ± 0.0 % fewer epochs"),
    "mixed": (
        *([(BASE, BETTER), (BASE, WORSE)], ("not reached in 1 of 2 seeds", "—", "—")),
        "not reached in 1 of 2 seeds",
    ),
    "no": ([(BASE, WORSE)] * 2, ("not reached in 2 of 2 seeds", "—", "—"), "not reached in 2 of 2 seeds"),
    "void": ([(LOST, AT_ONCE)] * 2, ("—", "—", "—"), "no better than from scratch"),
}


def texts(figure):
    return " ".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))


def job(name, plan):
    cells = [("mae-vitb", 0), *((run, epoch) for run in ("mae-vitb", "mae-vitb-mto") for epoch in (1, 2, 4, 8))]
    as_dicts = [{"task": "finetune", "run": run, "epoch": epoch, "metric": "top1"} for run, epoch in cells]
    return {
        **{"name": name, "scale": "demo", "recipe": "paper", "seeds": [0, 1], "pretrain_epochs": 8, "plan": plan},
        **{"size": {"images": "digits", "networks": {"vitb": [32, 4]}}},
        **{"cells": as_dicts[1:], "scratch": as_dicts[:1]},
    }


@pytest.mark.parametrize("case", CASES)
def test_every_place_has_the_same_verdict(case, tmp_path):
    seeds, shown, above = CASES[case]
    for seed, (base, mto) in enumerate(seeds):
        for run, curve in (("mae-vitb", base), ("mae-vitb-mto", mto)):
            for epoch, value in curve.items():
                step = Step("finetune", run, seed, epoch)
                out = tmp_path / step.folder
                out.mkdir(parents=True)
                (out / "metrics.json").write_text(
                    json.dumps({**step._asdict(), "scale": "demo", "metrics": {"top1": value}})
                )
    kind = {"bound": "yes"}.get(case, case)

    plan = job("fig4_epochs", {"baselines": ["mae-vitb"], "epochs": [1, 2, 4, 8]})
    cells = [(cell["task"], cell["run"], cell["epoch"]) for cell in (*plan["cells"], *plan["scratch"])]
    (answer,) = Findings({"seeds": [0, 1], "cells": {"fig4_epochs": cells}}, tmp_path).answers
    assert (answer.verdict, answer.to_match, answer.saved, answer.percent) == (kind, *shown)

    table = {"baselines": ["mae-vitb"], "saved": ["mae-vitb"], "windows": [[1, 8]], "epochs": [1, 2, 4, 8]}
    sheet = table1_rauc(Report(job("table1_rauc", table), tmp_path))
    (row,) = sheet.rows
    at = [column.name for column in sheet.columns].index("to match (of 8)")
    assert tuple(text.removesuffix("‡") for text in row[at : at + 3]) == shown
    saved = next(record for record in sheet.records if record["metric"] == "saved_percent")
    assert (saved["mean"] is None) == (shown[2] == "—")
    assert any("is no better than from scratch" in note for note in sheet.notes) == (kind == "void")

    for draw in (fig4_epochs.draw, figS1_architectures.draw):
        figure = draw(Report(plan, tmp_path))
        assert above in texts(figure)
        assert ("fewer epochs" in texts(figure)) == (kind == "yes")
        arrows = [text.arrow_patch for axes in figure.axes for text in axes.texts if getattr(text, "arrow_patch", None)]
        assert bool(arrows) == (kind == "yes")


def test_the_arrow_ends_at_the_mean_of_the_seeds():
    """The mean curves cross elsewhere: a figure drawn by them would disagree with the table."""
    steep = {1: 50.0, 2: 80.0, 4: 82.0, 8: 84.0}
    verdict = judge([Measured(BASE, BETTER), Measured(BASE, steep)], 8)
    assert verdict.share == pytest.approx((6 / 8 + 2 / 8) / 2)
    assert verdict.to_match.startswith("4.0 ± ")
