"""RAUC (Eq. 6) and epochs saved, against the sheet's worked numbers and their invariances."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mto.report.rauc import epochs_saved, gains, rauc

# The paper's Table 2 at 400 and 800 epochs: without and with MTO, and Eq. 6 worked by hand.
PRINTED = {
    "mae-vitl": ({400: 68.5, 800: 72.7}, {400: 72.8, 800: 74.1}, 2.357),
    "mae-vitb": ({400: 57.4, 800: 63.9}, {400: 63.6, 800: 64.8}, 2.092),
    "conmim-vitb": ({400: 32.2, 800: 39.2}, {400: 38.7, 800: 40.3}, 2.086),
}

tenths = st.integers(0, 1000).map(lambda n: n / 10)
epochs = st.lists(st.integers(1, 800), min_size=2, max_size=6, unique=True).map(sorted)
pairs = epochs.flatmap(
    lambda e: st.tuples(
        *[st.lists(tenths, min_size=len(e), max_size=len(e)).map(lambda v: dict(zip(e, v, strict=True)))] * 2
    )
)


@pytest.mark.parametrize(("base", "mto", "expected"), PRINTED.values(), ids=PRINTED)
def test_rauc_of_the_printed_points(base, mto, expected):
    assert rauc(base, mto) == pytest.approx(expected, abs=5e-4)


def test_rauc_uses_every_checkpoint_in_between():
    base, mto = {100: 0.0, 200: 6.0, 400: 8.0}, {100: 4.0, 200: 8.0, 400: 8.0}
    assert rauc(base, mto) == pytest.approx((600 + 1600) / (300 + 1400))


def test_an_earlier_baseline_epoch_lowers_the_level_but_not_the_range():
    base, mto = {100: 50.0, 400: 60.0, 800: 64.0}, {400: 63.0, 800: 65.0}
    assert rauc(base, mto) == pytest.approx(4.0 / 2.0)  # E1 = 400: the first epoch that both have
    assert rauc(base, mto, baseline_epoch=100) == pytest.approx(14.0 / 12.0)


@pytest.mark.parametrize("level", [16.70, 45.22])
def test_the_sheet_s_conjecture_about_the_printed_rauc(level):
    """Section 8.8: a lower constant level would give the printed 1.20 (ConMIM) and 1.23 (MAE ViT-B)."""
    name, printed = {16.70: ("conmim-vitb", 1.20), 45.22: ("mae-vitb", 1.23)}[level]
    base, mto, _ = PRINTED[name]
    assert rauc({100: level, **base}, mto, baseline_epoch=100) == pytest.approx(printed, abs=5e-4)


@given(pairs)
def test_a_curve_against_itself_is_one(pair):
    curve = pair[0]
    value = rauc(curve, curve)
    assert math.isnan(value) or value == pytest.approx(1.0)
    assert math.isnan(value) == (abs(gains(curve, curve)[0]) <= 1e-9 * max(curve.values()))


@given(pairs, st.integers(1, 8), st.integers(-50, 50))
def test_an_affine_change_of_accuracies_leaves_it(pair, factor, shift):
    base, mto = pair
    if abs(gains(base, mto)[0]) < 1e-6:
        return
    changed = [{epoch: factor * value + shift for epoch, value in curve.items()} for curve in pair]
    assert rauc(*changed) == pytest.approx(rauc(base, mto), rel=1e-6, abs=1e-6)


def test_a_flat_baseline_has_no_rauc():
    assert math.isnan(rauc({1: 90.0, 2: 90.0}, {1: 91.0, 2: 92.0}))


def test_rauc_says_what_is_missing():
    with pytest.raises(ValueError, match=r"two epochs that both curves have, not \[400\]"):
        rauc({400: 1.0, 800: 2.0}, {400: 1.0})
    with pytest.raises(ValueError, match=r"baseline_epoch 100, only at \[400, 800\]"):
        rauc({400: 1.0, 800: 2.0}, {400: 1.0, 800: 2.0}, baseline_epoch=100)


def test_epochs_saved_is_interpolated():
    saving = epochs_saved({100: 80.0, 800: 83.0}, {100: 82.0, 300: 82.5, 400: 83.5, 800: 84.0})
    assert (saving.epoch, saving.epochs, saving.percent) == pytest.approx((350.0, 450.0, 56.25))
    assert not saving.at_first


def test_epochs_saved_at_the_first_checkpoint_is_a_bound():
    saving = epochs_saved({4: 80.0, 8: 83.0}, {4: 84.0, 8: 82.0})
    assert (saving.epoch, saving.percent, saving.at_first) == (4.0, 50.0, True)


def test_epochs_saved_not_reached():
    saving = epochs_saved({4: 80.0, 8: 83.0}, {4: 81.0, 8: 82.9})
    assert saving.epoch is None
    assert math.isnan(saving.percent)


@given(pairs)
def test_epochs_saved_lies_on_the_curve(pair):
    base, mto = pair
    saving = epochs_saved(base, mto)
    target = base[max(base)]
    if saving.epoch is None:
        assert max(mto.values()) < target
    else:
        assert min(mto) <= saving.epoch <= max(mto)
        assert all(value < target for epoch, value in mto.items() if epoch < saving.epoch)
