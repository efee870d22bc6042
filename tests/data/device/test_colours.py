"""The draws of ConMIM's teacher view."""

import random

import pytest
import torch
from PIL import Image
from torchvision.transforms import ColorJitter

from mto.config.parts import TeacherView
from mto.config.typed import parse
from mto.data.device import colours
from mto.data.device.colours import NO_HUE, NUMBERS, TeacherColours, blurred, box_weights, by_place
from mto.data.rng import seeded
from teacher_view import teacher_view


def test_the_generators_go_on_where_the_official_code_leaves_them(teacher):
    """So do all later draws of a sample, and a sample has the bits it had when workers made the view."""
    photo = Image.new("RGB", (4, 4), (200, 40, 90))
    for jitter in (teacher["jitter"], [0.4, 0, 0.2, 0]):
        ours, official = (
            TeacherColours(parse(TeacherView, teacher | {"jitter": jitter})),
            teacher_view(teacher | {"jitter": jitter}),
        )
        for key in range(200):
            after = []
            for draw in (lambda: ours(), lambda: official(photo)):  # noqa: B023
                with seeded(key):
                    draw()
                    after.append((torch.rand(3).tolist(), random.random()))
            assert after[0] == after[1]


def test_the_jitters_order_and_factors_are_torchvisions(teacher):
    draw, jitter = (
        TeacherColours(parse(TeacherView, teacher | {"jitter_prob": 1.0})),
        ColorJitter(*teacher["jitter"]),
    )
    orders = set()
    for key in range(300):
        with seeded(key):
            numbers = draw().tolist()
        with seeded(key):
            torch.rand(())
            order, *factors, hue = jitter.get_params(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
        order = order.tolist()
        assert numbers[colours.PLACE] == order.index(colours.HUE)
        assert numbers[colours.OPERATIONS] == [operation for operation in order if operation != colours.HUE]
        assert numbers[colours.FACTORS] == [factors[operation] for operation in order if operation != colours.HUE]
        assert numbers[colours.TURN] == int(hue * 255) % 256
        orders.add(tuple(order))
    assert len(orders) == 24


def test_colours_come_as_often_and_as_strong_as_conmims(teacher):
    """ConMIM:datasets.py:22-54: jitter 0.8 of (0.4, 0.4, 0.2, 0.1), grey 0.2, blur 0.1, solarization 0.2."""
    draw, count = TeacherColours(parse(TeacherView, teacher)), 3000
    with seeded(0):
        numbers = torch.stack([draw() for _ in range(count)])
    assert numbers.shape == (count, NUMBERS)
    assert numbers.dtype == torch.float32
    jittered, grey, solarized = numbers[:, colours.PLACE] >= 0, numbers[:, colours.GREY], numbers[:, colours.SOLARIZED]
    shares = [share.float().mean().item() for share in (jittered, grey, solarized)]
    assert shares == pytest.approx([0.8, 0.2, 0.2], abs=0.03)
    assert len(blurred(numbers)) / count == pytest.approx(0.1, abs=0.02)
    operations, factors = numbers[jittered, colours.OPERATIONS], numbers[jittered, colours.FACTORS]
    strength = {colours.BRIGHTNESS: 0.4, colours.CONTRAST: 0.4, colours.SATURATION: 0.2}
    for operation, most in strength.items():
        drawn = factors[operations == operation]
        assert 0.99 * most < (drawn - 1).abs().max() <= most + 1e-6
    turn = numbers[jittered, colours.TURN]
    assert {((turn + 128) % 256 - 128).min().item(), ((turn + 128) % 256 - 128).max().item()} == {-25, 25}


def test_without_probabilities_nothing_is_changed(teacher):
    with seeded(0):
        numbers = TeacherColours(parse(TeacherView, dict.fromkeys(teacher, 0.0) | {"jitter": teacher["jitter"]}))()
    assert numbers[colours.PLACE] == -1
    assert numbers[colours.GREY :].count_nonzero() == 0


def test_a_box_holds_one_pixel_in_all():
    """Up to the rounding of its weights; the widest reaches as far as it may."""
    for step in range(191):
        centre, *sides = box_weights(0.1 + step / 100)
        assert 0 <= 2**24 - centre - 2 * sum(sides) <= 1
    assert box_weights(0.1)[-1] == 0
    assert box_weights(2.0)[-1] > 0
    with pytest.raises(ValueError, match="further than 2 pixels"):
        box_weights(3.0)


def test_the_jittered_are_known_by_their_places(teacher):
    numbers = torch.zeros(6, NUMBERS)
    numbers[:, colours.PLACE] = torch.tensor([3, -1, 0, NO_HUE, 3, 1])
    assert [which.tolist() for which in by_place(numbers)] == [[2], [5], [], [0, 4], [3]]
    with seeded(0):
        without_hue = TeacherColours(parse(TeacherView, teacher | {"jitter": [0.4, 0.4, 0.2, 0], "jitter_prob": 1.0}))()
    assert without_hue[colours.PLACE] == NO_HUE


def test_the_blurred_are_known_by_their_places():
    numbers = torch.zeros(5, NUMBERS)
    assert blurred(numbers).tolist() == []
    numbers[[1, 4], colours.WEIGHTS.start] = 1000.0
    assert blurred(numbers).tolist() == [1, 4]
