"""Moves on the device against Pillow's, byte for byte, alone and as the end of timm's RandAugment."""

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import auto_augment, create_transform
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch import Tensor

from mto.config.job import FinetunedData
from mto.config.typed import parse
from mto.data.device import warp as room
from mto.data.device.moves import View, by_turns
from mto.data.device.pixels import Pixels
from mto.data.device.warp import warp
from mto.data.imagenet import collate
from mto.data.rng import seeded
from mto.data.transforms import CropAndFlip, FinetuneTransform, posterize
from typed_jobs import AUGMENT, MIXING, PIXELS

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
COLOUR = (124, 116, 104)


def pictures(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    """(count, height, width, 3) uint8, by turns noise and something smooth."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    for image in noise[::2]:
        coarse = Image.fromarray(np.ascontiguousarray(image[:5, :5]))
        image[:] = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
    return torch.from_numpy(noise)


KINDS = {
    "rotate": (auto_augment.rotate, [0.001, 7.0, -30.0, 90.5, 179.0]),
    "shear_x": (auto_augment.shear_x, [0.0, 0.27, -0.3, 1.0]),
    "shear_y": (auto_augment.shear_y, [0.0, 0.27, -0.3, 1.0]),
    "translate_x": (auto_augment.translate_x_rel, [0.0, 0.405, -0.45, 0.123456, 1.5]),
    "translate_y": (auto_augment.translate_y_rel, [0.0, 0.405, -0.45, 0.123456, 1.5]),
}


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (24, 24), (31, 50)])
@pytest.mark.parametrize("kind", KINDS)
def test_timms_moves_are_pillows(kind, size):
    """Each is noted, nothing is done to the pixels, and the device's are what Pillow's would be."""
    move, levels = KINDS[kind]
    how = {"fillcolor": COLOUR, "resample": Image.Resampling.BICUBIC}
    images = pictures(4 * len(levels), *size)
    noted, expected = [], []
    for place, image in enumerate(images):
        view, level = View(image), levels[place // 4]
        assert move(view, level, **how).pixels is image
        noted.append(view.noted())
        expected.append(torch.from_numpy(np.array(move(Image.fromarray(image.numpy()), level, **how))))
    assert torch.equal(warp(images, by_turns(noted)), torch.stack(expected))


@pytest.mark.parametrize(
    ("move", "level", "resample"),
    [
        (auto_augment.rotate, 0.0, Image.Resampling.BICUBIC),
        (auto_augment.rotate, 90.0, Image.Resampling.BICUBIC),
        (auto_augment.rotate, 180.0, Image.Resampling.BICUBIC),
        (auto_augment.shear_x, 0.2, Image.Resampling.BILINEAR),
    ],
)
def test_quarters_of_a_circle_and_other_filters_are_pillows_at_once(move, level, resample):
    (image,) = pictures(1, 12, 12)
    view = move(View(image), level, fillcolor=COLOUR, resample=resample)
    expected = move(Image.fromarray(image.numpy()), level, fillcolor=COLOUR, resample=resample)
    assert len(view.noted()) == 0
    assert torch.equal(view.pixels, torch.from_numpy(np.array(expected)))


def test_what_is_noted_comes_before_an_operation_on_pixels():
    (image,) = pictures(1, 20, 30)
    how = {"fillcolor": COLOUR, "resample": Image.Resampling.BICUBIC}
    view = auto_augment.shear_x(View(image), 0.2, **how)
    view = view.apply(auto_augment.equalize)
    assert len(view.noted()) == 0
    sheared = auto_augment.shear_x(Image.fromarray(image.numpy()), 0.2, **how)
    assert torch.equal(view.pixels, torch.from_numpy(np.array(auto_augment.equalize(sheared))))


def test_turns_are_the_moves_in_their_order():
    noted = [torch.full((moves, 9), float(place), dtype=torch.float64) for place, moves in enumerate([0, 2, 1, 0, 2])]
    assert [turn[:, 0].tolist() for turn in by_turns(noted)] == [[1, 2, 4], [1, 4]]
    assert all(torch.equal(turn[:, 1], turn[:, 0]) for turn in by_turns(noted))
    assert by_turns([torch.empty(0, 9)] * 3) == []


@pytest.mark.parametrize("augment", ["rand-m9-mstd0.5-inc1", "rand-m5-n4-inc1", "rand-m10-p0.9"])
def test_randaugment_is_timms_of_the_same_draws(augment, monkeypatch):
    """From a photograph to normalised pixels, erasing included: nothing of a fine-tuning's bits is another."""
    monkeypatch.setattr(room, "AT_ONCE", 7)
    settings = AUGMENT | MIXING | {"crop_scale": [0.08, 1.0], "rand_augment": augment, "reprob": 0.25}
    evaluation = {"resize": 32, "crop": 32, "interpolation": "bicubic"}
    data = parse(FinetunedData, PIXELS | {"mean": list(MEAN), "augment": settings, "eval": evaluation})
    transform, pixels = FinetuneTransform(data, 32), Pixels(MEAN, STD)
    crop = CropAndFlip(data.augment, 32)
    crop.draw_box = RandomResizedCropAndInterpolation.get_params
    timms = create_transform(
        32, is_training=True, auto_augment=augment, interpolation="bicubic", mean=MEAN, normalize=False
    )
    plain = timms.transforms[2]
    assert isinstance(plain, auto_augment.RandAugment)
    for op in plain.ops:
        op.aug_fn = posterize if op.name.startswith("Posterize") else op.aug_fn
    samples, expected = [], []
    for key, photo in enumerate(pictures(120, 60, 80).numpy()):
        with seeded(key):
            samples.append(transform(photo))
        with seeded(key):
            view = plain(Image.fromarray(crop(photo).numpy()))
            image = pixels.normalize(torch.from_numpy(np.array(view))[None])[0]
            drawn = transform.erasing()
            top, left, height, width = drawn["box"].tolist()
            image[:, top : top + height, left : left + width] = drawn["noise"].view(3, height, width)
            expected.append(image)
    moves = [len(sample["moves"]) for sample in samples]
    assert {0, 1, 2} <= set(moves)
    batch = pixels(collate(samples))
    assert batch.keys() == {"image"}
    assert torch.equal(batch["image"], torch.stack(expected))
