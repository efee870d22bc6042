"""Days on a number of GPUs: whole jobs at a time, and a plain word where not one fits."""

import math
from pathlib import Path

import pytest
from round_numbers import count

from mto.cost import cli
from mto.cost.parts import parts, row


@pytest.fixture(autouse=True)
def _round_numbers(monkeypatch):
    monkeypatch.setattr("mto.bench.counting.count", count)


def days(study, costs, gpus):
    plan = study()
    return row(parts(plan)[-1], costs(plan), gpus, 1.0)["days_left"]


def test_gpus_between_two_multiples_of_a_job_help_no_more_than_the_lower(study, costs):
    """Jobs take eight GPUs, but for four analyses that take one."""
    eight, twelve, sixteen = (days(study, costs, gpus) for gpus in (8, 12, 16))
    assert twelve == pytest.approx(eight, rel=1e-3)
    assert sixteen == pytest.approx(eight / 2, rel=1e-3)
    plan = study()
    hours = sum(cost.gpu_hours for cost in costs(plan).values())
    assert eight == pytest.approx(hours / 8 / 24)


def test_too_few_gpus_for_a_job_are_told_in_one_line(study, capsys):
    for gpus in (4, 12):
        plan = cli.plan(study(plan={"gpus": gpus}))
        plan.show(_made(plan))
    few, between = capsys.readouterr().out.split("# The plan of scale paper, on 12 x a100")
    (line,) = [line for line in few.splitlines() if line.startswith("- Days:")]
    assert "plan.gpus is 4, and a job of pretrain, finetune, linear, ade20k, coco takes up to 8 GPUs" in line
    stages = {row["part"]: row["days_left"] for row in cli.plan(study(plan={"gpus": 4})).rows}
    assert math.isinf(stages["pretrain"])
    assert math.isinf(stages["the study"])
    assert math.isfinite(stages["heterogeneity"])  # one GPU each
    (whole,) = [line for line in few.splitlines() if line.startswith("| the study |")]
    assert [cell.strip() for cell in whole.split("|")][7] == "—"
    assert "- Days: on 12 GPUs at once, whole jobs at a time, so that some stand idle, and never less" in between


def _made(plan):
    folder = Path(plan.study.results)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
