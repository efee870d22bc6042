"""The registered study's bookkeeping: what is run, what is skipped, how a comparison is judged."""

import math
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from width_study import METHODS, PLANS, Run, append, best_rates, compact, finished, rows_of, tuned
from width_study_arms import ARMS, SHARE, Arm, covariance
from width_study_table import difference, holm, terms, warm


def test_a_run_that_a_table_holds_is_skipped(tmp_path):
    table = tmp_path / "table.csv"
    runs = [Run("none", "mae", "fashion", 30), Run("spa, visible columns", "mae", "fashion", 30, rate=0.5)]
    for run in runs:
        append(table, run._asdict() | {"loss": 0.25})
    assert finished([table, tmp_path / "absent.csv"]) == {tuple(map(compact, run)) for run in runs}


def test_every_plan_is_of_arms_and_methods_that_are_there():
    runs = [run for plan in PLANS.values() for run in plan()]
    assert {run.arm for run in runs} == ARMS.keys()
    assert {run.method for run in runs} == set(METHODS)
    registered = [(run.arm, run.method, run.width, run.seed) for run in PLANS["width"]()]
    assert len(registered) == len(set(registered)) == 2 * 5 * (3 * 3 + 2)


def test_every_arm_that_balances_asks_for_the_same_share():
    for name, switches in ARMS.items():
        arm = Arm(switches)
        if arm.balance is not None:
            x = torch.ones(1, 1, 2, requires_grad=True)
            arm.balance.measure(x.sum(), {term: x.sum() for term in arm.names}, [x])
            assert [float(arm.weight(term)) for term in arm.names] == pytest.approx([SHARE] * len(arm.names)), name


def test_the_covariance_term_is_the_sum_over_pairs_of_dimensions():
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    c = torch.cov(x.T)
    expected = sum(float(c[i, j]) ** 2 for i in range(4) for j in range(4) if i != j) / 4
    assert float(covariance(x)) == pytest.approx(expected)


def test_holm_is_the_textbooks():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    corrected = holm([0.02, math.nan, 0.5])  # a comparison that was not run counts all the same
    assert corrected[0] == pytest.approx(0.06)
    assert math.isnan(corrected[1])


def test_a_paired_interval_is_students_and_one_seed_has_none():
    found = difference([(1.0, 0.0), (2.0, 0.0), (3.0, 0.0)])
    assert found.mean == 2.0
    assert found.high - found.mean == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)  # t of 2 degrees of freedom
    assert math.isnan(difference([(1.0, 0.5)]).low)
    assert difference([]) is None


def made_up(tmp_path, knn, rate="1", **shared):
    """A table in which each arm has a kNN on each seed."""
    table = tmp_path / "table.csv"
    for (arm, seed), value in knn.items():
        row = {"arm": arm, "method": "mae", "data": "fashion", "seed": seed, "width": 48, "steps": 300, "starts_at": 0}
        append(table, row | {"rate": float(rate), "knn": value, "loss": 0.5} | shared)
    return table


def seeds_of(arms):
    """kNN of each arm on the five seeds, with a little noise that differs between arms."""
    return {
        (arm, seed): value + 0.001 * ((7 * number + 3 * seed) % 5)
        for number, (arm, value) in enumerate(arms.items())
        for seed in range(30, 35)
    }


EVERY = {"none": 0.5, "spa": 0.5, "e": 0.5, "r": 0.5, "spa+e": 0.5, "spa+r": 0.5, "e+r": 0.5}


@pytest.mark.parametrize(
    ("balanced", "covariance", "verdict"),
    [(0.8, 0.5, "**it is the masked token**"), (0.8, 0.8, "**it is not the masked token**"), (0.5, 0.5, "open")],
)
def test_whether_it_is_the_masked_token(tmp_path, capsys, balanced, covariance, verdict):
    table = made_up(tmp_path, seeds_of(EVERY | {"balanced": balanced, "covariance": covariance}))
    for rate, value in (("0.5", 0.5), ("1", 0.6), ("2", 0.5), ("4", 0.5)):
        made_up(tmp_path, {("none", seed): value for seed in (10, 11)}, rate)
    terms(list(rows_of([table])), best_rates([table]))
    printed = capsys.readouterr().out
    assert f"- fashion, mae: {verdict}" in printed
    assert "- photographs, mae: incomplete" in printed


def test_the_best_rate_is_run_on_the_reported_seeds(tmp_path):
    table = made_up(tmp_path, {("none", 10): 0.5, ("none", 11): 0.5}, "0.5")
    made_up(tmp_path, {("none", 10): 0.5, ("none", 11): 0.6}, "1")
    made_up(tmp_path, {("none", 10): 0.7, ("none", 11): 0.5}, "2")
    assert best_rates([table]) == {}  # one of the four is not there
    made_up(tmp_path, {("none", 10): 0.4, ("none", 11): 0.4}, "4")
    assert best_rates([table]) == {("fashion", "mae"): 2.0}
    assert [(run.seed, run.rate) for run in tuned([table])] == [(seed, 2.0) for seed in range(30, 35)]


def test_a_collapse_needs_both_signs(tmp_path, capsys):
    shared = {"steps": 450, "constant": 0.5}
    made_up(tmp_path, {("none", seed): 0.5 for seed in (30, 31, 32)}, **shared | {"loss": 0.3, "masked_cosine": 0.5})
    one = {("text", seed): 0.3 for seed in (30, 31)}
    made_up(tmp_path, one, **shared | {"loss": 0.499, "masked_cosine": 0.995, "rank_x0": 1.0})
    far = {("text", 32): 0.3}
    table = made_up(tmp_path, far, **shared | {"loss": 0.499, "masked_cosine": 0.9, "rank_x0": 1.0})
    warm(list(rows_of([table])))
    printed = capsys.readouterr().out
    assert "| mae | text | 3 | 0.499 | 1.66 | 1.00 | 0.963 | 1.0 | -20.0 | 2 of 3 |" in printed
    assert "| mae | balanced | 0 |" in printed
