"""The pilot's price: by hand from round numbers, what is left of it, and its line below the plan."""

import json
from pathlib import Path

import pytest
from round_numbers import count

from mto.cost import cli
from mto.cost.amounts import FULL
from mto.cost.estimate import once
from mto.cost.measured import Measured
from mto.cost.pilot import PilotStudy, pilot_costs


@pytest.fixture(autouse=True)
def _round_numbers(monkeypatch):
    monkeypatch.setattr("mto.bench.counting.count", count)


def of(study):
    return pilot_costs(study, Measured(study, study.config.plan.card), once(count))


def test_it_is_the_first_epochs_of_each_method_without_and_with_mto(study):
    plan = study()
    found = of(plan)
    assert sorted({step.run for step in found}) == sorted(
        f"{name}-vitb{mto}" for name in ("simmim", "mae", "bootmae", "conmim") for mto in ("", "-mto")
    )
    cost = next(cost for step, cost in found.items() if step.run == "mae-vitb")
    images = 48 * (FULL["imagenet"].train // 4096) * 4096
    seconds = images * 60e9 / (8 * 312e12 * 0.30)  # 60 GFLOP an image, on eight A100s
    assert cost.gpu_hours == pytest.approx(8 * (seconds / 3600 + 3 / 60))
    row = cli.plan(plan).pilot
    assert row["gpu_hours"] == pytest.approx(sum(cost.gpu_hours for cost in found.values()))
    assert row["cost"] == pytest.approx(1.79 * row["gpu_hours"])


def test_it_costs_what_its_share_of_the_schedule_does(study, costs):
    """Of a run with one segment: 48 of 800 epochs, but for the start."""
    keys = {"startup_minutes": 0}
    whole = costs(study(plan=keys))
    chain = sum(cost.gpu_hours for step, cost in whole.items() if (step.task, step.run) == ("pretrain", "mae-vitb-mto"))
    found = of(study(plan=keys))
    assert next(c.gpu_hours for s, c in found.items() if s.run == "mae-vitb-mto") == pytest.approx(chain * 48 / 800)


def test_it_has_its_line_and_what_is_done_is_not_left(study, capsys):
    plan = study()
    done = next(step for step in PilotStudy(plan.config).segments() if step.run == "mae-vitb")
    folder = Path(PilotStudy(plan.config).folder(done))
    assert str(folder) in plan.pilot_folders()
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(
        json.dumps({"provenance": {"gpu_hours": 5.0, "gpus": 8, "device": "NVIDIA A100"}})
    )
    (folder / "job.json").write_text(json.dumps({"job": plan.pilot_job(done.run, done.seed, done.epoch).plain()}))
    row = cli.plan(plan).pilot
    assert (row["jobs"], row["jobs_left"]) == (8, 7)
    assert row["gpu_hours"] - row["gpu_hours_left"] == pytest.approx(5.0)
    cli.main(["--config", '{"scale": "paper"}'])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "`snakemake pilot`" in line]
    assert line.endswith(f"comes on top: 8 jobs, {row['gpu_hours']:.0f} GPU-hours, {row['cost']:,.0f} USD.")


def test_another_pilot_has_another_price(study):
    def hours(**pilot):
        return cli.plan(study(pilot=pilot)).pilot["gpu_hours"]

    assert hours(epochs=96) > 1.9 * hours()
    assert hours(presets=["cosine", "text"]) > 1.4 * hours()  # of three runs a method, where there were two
    assert hours(baselines=["mae-vitb"]) < hours()
