"""What a loader's bytes become on the device."""

import pytest
import torch
from timm.data.random_erasing import RandomErasing
from torch._subclasses.fake_tensor import FakeTensorMode

from fake_gpu import fake, on_fake_gpu
from mto.config.parts import TeacherView
from mto.config.typed import parse
from mto.data.device.colours import TeacherColours
from mto.data.device.pixels import Pixels
from mto.data.imagenet import collate
from mto.data.rng import seeded
from mto.data.transforms import Erasing

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
TEACHER = {"jitter": [0.4, 0.4, 0.2, 0.1], "jitter_prob": 0.8, "gray_prob": 0.2, "blur_prob": 0.5, "solarize_prob": 0.2}


def every_level(count: int = 2) -> torch.Tensor:
    """(count, 16, 16, 3): all 256 levels in each channel, in another order for each image."""
    levels = torch.arange(256, dtype=torch.uint8)
    return torch.stack([torch.stack([levels.roll(n + c) for c in range(3)], -1).view(16, 16, 3) for n in range(count)])


def test_every_level_is_normalised_by_its_channel():
    out = Pixels(MEAN, STD)({"image": every_level(), "label": torch.tensor([3, 4])})
    planes = every_level().permute(0, 3, 1, 2).double()
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (MEAN, STD))
    assert out["image"].dtype == torch.float32
    assert out["image"].is_contiguous()
    torch.testing.assert_close(out["image"].double(), (planes / 255 - mean) / std, rtol=0, atol=1e-6)
    assert out["label"].tolist() == [3, 4]


def test_a_batch_has_the_bits_of_its_images():
    pixels = Pixels(MEAN, STD)
    batch = pixels({"image": every_level(3), "teacher_image": every_level(3).flip(0)})
    assert torch.equal(batch["image"], batch["teacher_image"].flip(0))
    for place in range(3):
        assert torch.equal(pixels({"image": every_level(3)[place : place + 1]})["image"][0], batch["image"][place])


def test_floats_are_left_as_they_are():
    images = torch.randn(2, 3, 4, 4)
    assert torch.equal(Pixels(MEAN, STD)({"image": images})["image"], images)


def test_nothing_of_it_is_a_models_state():
    assert Pixels(MEAN, STD).state_dict() == {}
    assert list(Pixels(MEAN, STD).buffers()) == []


@pytest.mark.parametrize("prob", [0.0, 0.5, 1.0])
def test_erasing_a_batch_is_timms_of_each_image(prob):
    images, side = every_level(12), 16
    samples, expected = [], []
    for key, image in enumerate(images):
        with seeded(key):
            samples.append({"image": image, **Erasing(prob, side)()})
        with seeded(key):
            normalised = Pixels(MEAN, STD)({"image": image[None]})["image"][0]
            expected.append(RandomErasing(prob, mode="pixel", max_count=1, device="cpu")(normalised))
    batch = collate(samples)
    assert batch["noise"].numel() == sum(3 * s["box"][2] * s["box"][3] for s in samples)
    out = Pixels(MEAN, STD)(batch)
    assert out.keys() == {"image"}
    assert torch.equal(out["image"], torch.stack(expected))


@pytest.mark.filterwarnings("ignore:.*CUDA is not available")
@pytest.mark.parametrize("what", ["erasing", "colours", "moves"])
def test_it_stays_on_the_device_and_waits_for_nothing(what):
    """On a GPU that is not there: a tensor left on the CPU, or a value asked for, would be an error."""
    mode = FakeTensorMode()
    pixels = on_fake_gpu(mode, Pixels(MEAN, STD))
    draws = {
        "erasing": Erasing(1.0, 16),
        "colours": lambda: {"colours": TeacherColours(parse(TeacherView, TEACHER))()},
        "moves": lambda: {"moves": torch.rand(2, 9, dtype=torch.float64)},
    }[what]
    samples = [{"image": image, **draws()} for image in every_level(4)]
    batch = fake(mode, collate(samples))
    with mode:
        out = pixels(batch)
    assert out.keys() == {"image"} | ({"teacher_image"} if what == "colours" else set())
    for images in out.values():
        assert images.device.type == "cuda"
        assert images.shape == (4, 3, 16, 16)
