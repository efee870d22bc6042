"""Learning rates at known epochs: the official schedules, and timm's own scheduler."""

import pytest
import torch
from timm.scheduler import CosineLRScheduler

from mto.config.job import Rates
from mto.config.typed import parse
from mto.training.schedule import Schedule

MAE = Schedule("cosine", total=800, warmup=40, scale_min_lr=True)
BOOTMAE = Schedule("cosine", total=801, warmup=40, min_lr=1e-4, warmup_inclusive=True, scale_min_lr=True)
CONMIM = Schedule("cosine", total=800, warmup=10, min_lr=1e-5, warmup_inclusive=True, scale_min_lr=True)
SIMMIM = Schedule("multistep", total=800, warmup=10, warmup_lr=2e-6, milestones=(700,))
SIMMIM_COSINE = Schedule("cosine", total=800, warmup=10, warmup_lr=2e-6, min_lr=2e-5, warmup_prefix=False)
SIMMIM_FINETUNE = Schedule("cosine", total=100, warmup=20, warmup_lr=1e-6, min_lr=1e-6, warmup_prefix=False)


@pytest.mark.parametrize(
    ("schedule", "peak", "epoch", "expected"),
    [
        (MAE, 2.4e-3, 0, 0.0),
        (MAE, 2.4e-3, 20, 1.2e-3),
        (MAE, 2.4e-3, 40, 2.4e-3),
        (MAE, 2.4e-3, 100, 2.363e-3),  # MAE:util/lr_sched.py:9-21
        (MAE, 2.4e-3, 200, 2.147e-3),
        (MAE, 2.4e-3, 400, 1.299e-3),
        (MAE, 2.4e-3, 800, 0.0),
        (BOOTMAE, 2.4e-3, 400, 1.347e-3),  # BootMAE:utils.py:417-434
        (BOOTMAE, 2.4e-3, 800, 1.0e-4),
        (CONMIM, 5e-4, 400, 2.60e-4),  # ConMIM:utils.py:376-393
        (SIMMIM, 4e-4, 0, 2e-6),  # SimMIM:lr_scheduler.py:136-141
        (SIMMIM, 4e-4, 400, 4e-4),
        (SIMMIM, 4e-4, 699.9, 4e-4),
        (SIMMIM, 4e-4, 700, 4e-5),
        (SIMMIM_COSINE, 4e-4, 400, 2.1e-4),
        (SIMMIM_FINETUNE, 5e-3, 20, 0.9045 * 5e-3),  # the jump at the end of warm-up
    ],
)
def test_rates_of_the_official_schedules(schedule, peak, epoch, expected):
    assert schedule.lr(epoch, peak, tick=1 / 312) == pytest.approx(expected, rel=6e-4, abs=1e-9)


def test_by_epoch_equals_a_scheduler_stepped_once_an_epoch():
    """BEiT's probe: torch's cosine, stepped after each epoch of 7 steps."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=4e-3)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    ours = Schedule("cosine", total=10, by_epoch=True)
    for epoch in range(10):
        for step in range(7):
            rate = ours.lr((7 * epoch + step) / 7, 4e-3, tick=1 / 7)
            assert rate == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        optimizer.step()
        theirs.step()


def test_poly_warms_up_as_mmcv_does():
    """A factor on the falling rate, from `warmup_ratio` of it to all of it."""
    schedule = Schedule("poly", total=100, warmup=10, warmup_lr=1e-3 * 0.1, warmup_prefix=False, scale_min_lr=True)
    for step in range(100):
        factor = 1 - (1 - step / 10) * (1 - 0.1) if step < 10 else 1
        assert schedule.lr(step, 1e-3, tick=1) == pytest.approx(1e-3 * (1 - step / 100) * factor)


def test_without_prefix_equals_timm():
    peaks = [5e-3, 5e-3 * 0.65**13]
    parameters = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": peak} for peak in peaks]
    optimizer = torch.optim.SGD(parameters)
    theirs = CosineLRScheduler(
        optimizer, t_initial=100, lr_min=1e-6, warmup_lr_init=1e-6, warmup_t=20, t_in_epochs=False, warmup_prefix=False
    )
    for step in range(100):
        theirs.step_update(step)
        for group, multiplier in zip(optimizer.param_groups, (1.0, 0.65**13), strict=True):
            ours = SIMMIM_FINETUNE.lr(step, 5e-3, multiplier, tick=1)
            assert ours == pytest.approx(group["lr"], rel=1e-12), step


def test_min_lr_scales_with_the_layer_only_if_asked():
    kwargs = {"kind": "cosine", "total": 50, "warmup": 5, "min_lr": 1e-6}
    assert Schedule(**kwargs, scale_min_lr=True).lr(50, 4e-3, 0.1) == pytest.approx(1e-7)
    assert Schedule(**kwargs, scale_min_lr=False).lr(50, 4e-3, 0.1) == pytest.approx(1e-6)


def test_inclusive_warmup_reaches_the_peak_on_its_last_step():
    steps = 10
    rates = [CONMIM.lr(step / steps, 5e-4, tick=1 / steps) for step in range(101)]
    assert rates[:2] == pytest.approx([0.0, 5e-4 / 99])
    assert rates[99] == pytest.approx(5e-4)
    assert rates[100] == pytest.approx(5e-4)
    assert MAE.lr(40 - 0.1, 2.4e-3, tick=0.1) < 2.4e-3 * 0.999


def test_poly():
    schedule = Schedule("poly", total=160_000, warmup=1500, warmup_lr=1e-10)
    assert schedule.lr(1500, 1e-4, tick=1) == pytest.approx(1e-4)
    assert schedule.lr(80_750, 1e-4, tick=1) == pytest.approx(5e-5)
    assert schedule.lr(160_000, 1e-4, tick=1) == pytest.approx(0.0, abs=1e-15)


def test_milestones_hold_at_the_exact_step_although_epochs_are_fractions():
    schedule = Schedule("multistep", total=10, milestones=(7,))
    for steps in (3, 7, 11, 313, 1251):
        assert schedule.lr(7 * steps / steps, 1.0, tick=1 / steps) == pytest.approx(0.1)
        assert schedule.lr((7 * steps - 1) / steps, 1.0, tick=1 / steps) == 1.0


def test_from_job():
    job = {
        "kind": "cosine",
        "warmup_epochs": 40,
        "warmup_lr": 0.0,
        "min_lr": 0.0,
        "milestones": [],
        "gamma": 0.1,
        "warmup_prefix": True,
        "scale_min_lr": True,
    }
    assert Schedule.from_job(parse(Rates, job), 800) == MAE
    assert Schedule.from_job(parse(Rates, job | {"warmup_epochs": 0.5}), 8).lr(0.25, 1.0) == pytest.approx(0.5)
