"""Colours on the device against Pillow's, byte for byte: each operation alone, and ConMIM's teacher view as a whole."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageFilter
from torch import Tensor
from torchvision.transforms import functional

from mto.config.job import CroppedData
from mto.config.parts import TeacherView
from mto.config.typed import parse
from mto.data.device import recolour as room
from mto.data.device.colours import (
    BRIGHTNESS,
    CONTRAST,
    NUMBERS,
    PLACE,
    SATURATION,
    SOLARIZED,
    TeacherColours,
    blurred,
    box_weights,
    by_place,
)
from mto.data.device.pixels import Pixels
from mto.data.device.recolour import Recolour
from mto.data.imagenet import collate
from mto.data.rng import seeded
from mto.data.transforms import PretrainTransform
from teacher_view import teacher_view
from typed_jobs import PIXELS

CONMIM = {"jitter": [0.4, 0.4, 0.2, 0.1], "jitter_prob": 0.8, "gray_prob": 0.2, "blur_prob": 0.1, "solarize_prob": 0.2}
STRONG = {"jitter": [1.0, 1.0, 1.0, 0.5], "jitter_prob": 1.0, "gray_prob": 0.1, "blur_prob": 0.5, "solarize_prob": 0.5}
NO_HUE = STRONG | {"jitter": [0.4, 0, 0.9, 0]}
NOTHING = CONMIM | dict.fromkeys(("jitter_prob", "gray_prob", "blur_prob", "solarize_prob"), 0.0)


def pictures(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """(count, height, width, 3) uint8, by turns noise of all colours and something smooth, as photographs are."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    for image in noise[::2]:
        coarse = Image.fromarray(np.ascontiguousarray(image[:5, :5]))
        image[:] = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
    return noise


def planes(image: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 -> (1, 3, H, W) float32."""
    return torch.from_numpy(image).permute(2, 0, 1)[None].float().contiguous()


def of_image(image: Image.Image) -> Tensor:
    return planes(np.array(image))


# ------------------------------------------------------------------------------------------------- one operation alone
@pytest.mark.parametrize("eighth", range(8))
def test_every_colour_has_pillows_hue_saturation_and_grey_and_comes_back_as_pillows(eighth):
    """All 2^24, each way: the colours as RGB to HSV and to grey, and as HSV to RGB."""
    codes = np.arange(eighth << 21, (eighth + 1) << 21).reshape(2048, 1024)
    colours = np.stack([codes >> 16, codes >> 8 & 255, codes & 255], -1).astype(np.uint8)
    image, tables = Image.fromarray(colours), room.hue_tables()
    hue, saturation, value = room.to_hsv(planes(colours), tables)
    assert torch.equal(torch.stack([hue, saturation, value.int()], 1).float(), of_image(image.convert("HSV")))
    assert torch.equal(room.luma(planes(colours))[:, 0], torch.from_numpy(np.array(image.convert("L")))[None].float())
    hue, saturation, value = planes(colours).unbind(1)
    back = room.to_rgb(hue.int(), saturation.int(), value, tables)
    assert torch.equal(back, of_image(Image.frombytes("HSV", image.size, colours.tobytes()).convert("RGB")))


@pytest.mark.parametrize("turn", range(-127, 128))
def test_hues_turn_as_torchvision_turns_those_of_pil_images(turn):
    image = pictures(2, 64, 64, seed=turn % 256)[1]
    expected = functional.adjust_hue(Image.fromarray(image), (turn + 0.5 * np.sign(turn)) / 255)
    turned = room.turn_hue(planes(image), torch.full((1, 1, 1), turn % 256.0), room.hue_tables())
    assert torch.equal(turned, of_image(expected))


FACTORS = [0.0, 0.6, 0.8, 1.0, 1.2, 1.4, 2.0, *np.random.default_rng(0).uniform(0, 2, 60)]


def enhanced(image: np.ndarray, operation: int, factor: float) -> Tensor:
    out = planes(image)
    room.enhance_(out, torch.tensor([operation]), torch.tensor([factor], dtype=torch.float32))
    return out


@pytest.mark.parametrize("factor", FACTORS)
def test_brightness_contrast_and_saturation_are_pillows(factor):
    """Every level, from black; every level from each of many mean greys; 16,384 colours and their own grey."""
    colours = pictures(2, 128, 128, seed=int(1000 * factor))
    assert torch.equal(
        enhanced(colours[1], BRIGHTNESS, factor),
        of_image(ImageEnhance.Brightness(Image.fromarray(colours[1])).enhance(factor)),
    )
    for image in colours:
        expected = ImageEnhance.Color(Image.fromarray(image)).enhance(factor)
        assert torch.equal(enhanced(image, SATURATION, factor), of_image(expected))
    levels = np.arange(256, dtype=np.uint8)
    for mean in range(0, 256, 5):
        grey = np.concatenate([levels, np.full(256 * 30, mean, dtype=np.uint8)])
        image = np.repeat(grey.reshape(31, 256, 1), 3, axis=2)
        expected = ImageEnhance.Contrast(Image.fromarray(image)).enhance(factor)
        assert torch.equal(enhanced(image, CONTRAST, factor), of_image(expected))


@pytest.mark.parametrize("levels", [(10, 11), (11, 12), (0, 1), (254, 255), (3, 3), (0, 0, 1), (0, 1, 1)])
def test_a_mean_grey_is_rounded_half_up(levels):
    image = np.repeat(np.array([levels], dtype=np.uint8)[:, :, None], 3, axis=2)
    expected = ImageEnhance.Contrast(Image.fromarray(image)).enhance(0.0)
    assert torch.equal(enhanced(image, CONTRAST, 0.0), of_image(expected))


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (3, 2), (5, 5), (40, 23)])
def test_blurs_are_pillows_up_to_the_edge(size):
    images = pictures(2, *size)
    sigmas = [0.1 + 0.02 * step for step in range(96)]
    for image in images:
        weights = torch.tensor([box_weights(sigma) for sigma in sigmas], dtype=torch.float32)
        same = torch.from_numpy(image).permute(2, 0, 1).expand(len(sigmas), 3, *size)
        blurs = [Image.fromarray(image).filter(ImageFilter.GaussianBlur(sigma)) for sigma in sigmas]
        expected = torch.stack([torch.from_numpy(np.array(blur)).permute(2, 0, 1) for blur in blurs])
        assert torch.equal(room.blur(same, weights), expected)


def test_solarizing_turns_the_upper_levels_over():
    levels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(2, 16, 16, 3)
    numbers = torch.stack([untouched(), untouched()])
    numbers[1, SOLARIZED] = 1
    plain, solarized = recoloured(levels, numbers)
    assert torch.equal(plain, levels[0])
    assert torch.equal(solarized, torch.where(levels[0] < 128, levels[0], 255 - levels[0]))


def untouched() -> Tensor:
    numbers = torch.zeros(NUMBERS)
    numbers[PLACE] = -1.0
    return numbers


def recoloured(images: Tensor, numbers: Tensor) -> Tensor:
    return Recolour()(images, numbers, by_place(numbers), blurred(numbers))


# ------------------------------------------------------------------------------------------------------ the whole view
@pytest.mark.parametrize("size", [(31, 45), (56, 56), (1, 1)])
@pytest.mark.parametrize("teacher", [CONMIM, STRONG, NO_HUE, NOTHING], ids=["conmim", "strong", "no hue", "nothing"])
def test_a_teacher_view_is_pillows_of_the_same_draws(teacher, size, monkeypatch):
    monkeypatch.setattr(room, "AT_ONCE", 37)  # of 120: several parts, the last one smaller
    images = pictures(120, *size, seed=len(str(teacher)))
    ours, official = TeacherColours(parse(TeacherView, teacher)), teacher_view(teacher)
    colours, views = [], []
    for key, image in enumerate(images):
        with seeded("view", key):
            views.append(torch.from_numpy(np.array(official(Image.fromarray(image)))))
        with seeded("view", key):
            colours.append(ours())
    numbers, before = torch.stack(colours), torch.from_numpy(images.copy())
    out = recoloured(before, numbers)
    assert (out.dtype, out.shape) == (torch.uint8, before.shape)
    assert torch.equal(out, torch.stack(views))
    assert np.array_equal(before, images)


def test_a_batch_of_the_loader_has_the_officials_views(monkeypatch):
    """From a photograph to what the training step gets: the student's crop, and the teacher's of the same draws."""
    data = PIXELS | {"crop_scale": [0.2, 1.0], "interpolation": "bicubic", "hflip": 0.5}
    transform, plain, official = (
        PretrainTransform(parse(CroppedData, data | {"teacher": CONMIM}), 32),
        PretrainTransform(parse(CroppedData, data), 32),
        teacher_view(CONMIM),
    )
    samples, students, teachers = [], [], []
    for key, photo in enumerate(pictures(40, 60, 80)):
        with seeded(key):
            samples.append(transform(photo))
        with seeded(key):
            students.append(plain(photo)["image"])
            teachers.append(torch.from_numpy(np.array(official(Image.fromarray(students[-1].numpy())))))
    pixels = Pixels((0.5, 0.4, 0.3), (0.2, 0.3, 0.25))
    with torch.autocast("cpu", torch.bfloat16):  # as in a training step
        batch = pixels(collate(samples))
    assert batch.keys() == {"image", "teacher_image"}
    assert torch.equal(batch["image"], pixels.normalize(torch.stack(students)))
    assert torch.equal(batch["teacher_image"], pixels.normalize(torch.stack(teachers)))
    assert not torch.equal(batch["teacher_image"], batch["image"])
