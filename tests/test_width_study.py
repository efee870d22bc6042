"""The registered study's bookkeeping: what is run, what is skipped, how a comparison is judged."""

import math
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from width_study import METHODS, PLANS, Run, append, compact, finished
from width_study_arms import ARMS, SHARE, Arm, covariance
from width_study_table import difference, holm


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
