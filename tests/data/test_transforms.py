import copy

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.auto_augment import RandAugment
from timm.data.random_erasing import RandomErasing
from torchvision import transforms as pil_transforms
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import pil_to_tensor

from mto.data import transforms
from mto.data.rng import seeded


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    """60 x 100, smooth, coloured, nowhere symmetric."""
    noise = np.random.default_rng(0).integers(0, 256, (5, 8, 3), dtype="uint8")
    return Image.fromarray(noise).resize((100, 60), Image.Resampling.BICUBIC)


def identity_pixels(job):
    """Mean 0 and std 1: the transform then returns values in [0, 1]."""
    job = copy.deepcopy(job)
    job["data"].update(mean=[0.0, 0.0, 0.0], std=[1.0, 1.0, 1.0])
    return job


BUILDERS = {
    "pretrain": (transforms.pretrain_transform, "pretrain_job"),
    "finetune": (transforms.finetune_train_transform, "finetune_job"),
    "linear": (transforms.linear_train_transform, "linear_job"),
    "eval": (transforms.eval_transform, "finetune_job"),
}


@pytest.mark.parametrize("stage", BUILDERS)
def test_a_transform_gives_a_plain_normalised_tensor_decided_by_the_seed(stage, request, photo):
    build, job = BUILDERS[stage]
    transform = build(request.getfixturevalue(job))

    def draw(*key):
        with seeded(*key):
            out = transform(photo)
        return out["image"] if isinstance(out, dict) else out

    image = draw(0)
    assert type(image) is torch.Tensor
    assert (image.shape, image.dtype) == ((3, 24, 24), torch.float32)
    assert torch.equal(draw(0), image)
    assert torch.equal(draw(1), image) == (stage == "eval")


def test_all_randomness_of_fine_tuning_is_governed(finetune_job, photo):
    """RandAugment draws from Python and NumPy, crops from Python, erasing noise from torch."""
    transform = transforms.finetune_train_transform(finetune_job)
    once = [draw_seeded(transform, photo, k) for k in range(60)]
    torch.rand(7), np.random.random(3)  # noqa: NPY002
    assert all(torch.equal(draw_seeded(transform, photo, k), image) for k, image in enumerate(once))


def draw_seeded(transform, image, *key):
    with seeded(*key):
        return transform(image)


def test_fine_tuning_is_the_sheets_augmentation(finetune_job):
    """SimMIM:data/data_finetune.py:77-93, MAE:util/datasets.py:35-49."""
    crop, flip, augment, _, normalise, erase = transforms.finetune_train_transform(finetune_job).transforms
    assert crop.scale == (0.08, 1.0)
    assert crop.ratio == (3 / 4, 4 / 3)
    assert crop.interpolation == InterpolationMode.BICUBIC
    assert flip.p == 0.5
    assert isinstance(augment, RandAugment)
    assert (augment.num_layers, {op.magnitude for op in augment.ops}, {op.magnitude_std for op in augment.ops}) == (
        2,
        {9},
        {0.5},
    )
    assert "PosterizeIncreasing" in {op.name for op in augment.ops}
    assert normalise.mean.tolist() == pytest.approx(finetune_job["data"]["mean"])
    assert normalise.std.tolist() == pytest.approx(finetune_job["data"]["std"])
    assert isinstance(erase, RandomErasing)
    assert (erase.probability, erase.per_pixel, erase.max_count) == (0.25, True, 1)


def test_colour_jitter_works_where_rand_augment_is_off(finetune_job):
    finetune_job["data"]["augment"].update(rand_augment=None, reprob=0.0)
    steps = transforms.finetune_train_transform(finetune_job).transforms
    assert [type(step).__name__ for step in steps][2] == "ColorJitter"
    assert len(steps) == 5


def test_posterizing_to_no_bits_is_black_and_never_an_error(finetune_job, photo):
    """Pillow 13 refuses 0 bits, which RandAugment asks for at the highest magnitude."""
    assert transforms.posterize(photo, 0).getextrema() == ((0, 0),) * 3
    for bits in (1, 4, 8):
        expected = np.asarray(photo) >> (8 - bits) << (8 - bits)
        assert np.array_equal(np.asarray(transforms.posterize(photo, bits)), expected)
    augment = transforms.finetune_train_transform(finetune_job).transforms[2]
    for op in augment.ops:
        op.prob, op.magnitude, op.magnitude_std = 1.0, 10, 0.0
        assert op(photo).size == photo.size


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_crops_are_pillows_to_one_grey_level(interpolation, pretrain_job, photo):
    pretrain_job = identity_pixels(pretrain_job)
    pretrain_job["data"].update(interpolation=interpolation, hflip=0.0)
    crop = transforms.pretrain_transform(pretrain_job).crop
    with seeded(4):
        box = crop.draw_box(pil_to_tensor(photo), crop.scale, transforms.RATIO)
    with seeded(4):
        ours = transforms.pretrain_transform(pretrain_job)(photo)["image"] * 255
    mode = InterpolationMode(interpolation)
    theirs = pil_transforms.functional.resized_crop(photo, *box, [24, 24], mode)
    assert (ours - pil_to_tensor(theirs)).abs().max() < 1.001


@pytest.mark.parametrize(
    ("scale", "interpolation"), [([0.67, 1.0], "bilinear"), ([0.2, 1.0], "bicubic"), ([0.08, 1.0], "bicubic")]
)
def test_pre_training_crops_as_the_job_says(scale, interpolation, pretrain_job, photo):
    pretrain_job["data"].update(crop_scale=scale, interpolation=interpolation)
    crop = transforms.pretrain_transform(pretrain_job).crop
    assert crop.interpolation == InterpolationMode(interpolation)
    pixels = transforms.to_pixels(photo)
    with seeded(0):
        boxes = np.array([crop.draw_box(pixels, crop.scale, transforms.RATIO) for _ in range(400)])
    areas, aspects = boxes[:, 2] * boxes[:, 3] / 6000, boxes[:, 3] / boxes[:, 2]
    assert scale[0] * 0.95 < areas.min() < scale[0] + 0.1
    assert 0.7 < areas.max() <= 1
    assert aspects.min() > 0.7
    assert aspects.max() < 1.4


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_the_flip_has_the_jobs_probability(p, pretrain_job, photo):
    pretrain_job = identity_pixels(pretrain_job)
    pretrain_job["data"]["hflip"] = 0.0
    plain = draw_seeded(transforms.pretrain_transform(pretrain_job), photo, 9)["image"]
    pretrain_job["data"]["hflip"] = p
    flipped = draw_seeded(transforms.pretrain_transform(pretrain_job), photo, 9)["image"]
    assert torch.equal(flipped, plain.flip(-1) if p else plain)


def test_the_teacher_sees_the_students_crop(pretrain_job, teacher, photo):
    pretrain_job = identity_pixels(pretrain_job)
    student = draw_seeded(transforms.pretrain_transform(pretrain_job), photo, 1)["image"]
    off = dict.fromkeys(teacher, 0.0) | {"jitter": teacher["jitter"]}
    pretrain_job["data"]["teacher"] = off
    views = draw_seeded(transforms.pretrain_transform(pretrain_job), photo, 1)
    assert torch.equal(views["image"], student)
    assert torch.equal(views["teacher_image"], student)
    pretrain_job["data"]["teacher"] = off | {"solarize_prob": 1.0}
    views = draw_seeded(transforms.pretrain_transform(pretrain_job), photo, 1)
    assert torch.equal(views["image"], student)
    inverted = torch.where(student * 255 >= 127.5, 1 - student, student)
    assert torch.allclose(views["teacher_image"], inverted, atol=1e-6)


def test_the_teachers_colours_are_conmims(teacher):
    """ConMIM:datasets.py:22-54."""
    jitter, gray, blur, solarise = transforms.teacher_colours(teacher).transforms
    (colour,) = jitter.transforms
    assert jitter.p == 0.8
    assert colour.brightness == colour.contrast == (0.6, 1.4)
    assert colour.saturation == (0.8, 1.2)
    assert colour.hue == (-0.1, 0.1)
    assert (gray.p, blur.p, blur.radius, solarise.p, solarise.threshold) == (0.2, 0.1, (0.1, 2.0), 0.2, 128)


def test_blur_happens_as_often_as_it_should(photo):
    blur = transforms.PILGaussianBlur(0.1)
    with seeded(0):
        changed = sum(blur(photo) is not photo for _ in range(2000))
    assert 150 < changed < 250


def test_maes_crop_draws_once_and_stays_inside(linear_job):
    """No retry: an area and an aspect ratio that do not fit are clamped (MAE:util/crop.py:15-42)."""
    crop = transforms.linear_train_transform(linear_job).transforms[0]
    assert crop.scale == (0.08, 1.0)
    wide = torch.zeros(3, 20, 200, dtype=torch.uint8)
    with seeded(0):
        boxes = np.array([crop.draw_box(wide, crop.scale, transforms.RATIO) for _ in range(500)])
    top, left, height, width = boxes.T
    assert (boxes >= [0, 0, 1, 1]).all()
    assert (top + height <= 20).all()
    assert (left + width <= 200).all()
    # Nearly every area asks for more than 20 rows; clamped, it lies anywhere. torchvision would take the centre.
    assert (height == 20).mean() > 0.8
    assert len(set(width[height == 20])) > 30
    assert len(set(left[height == 20])) > 100
    linear_job["data"]["crop"] = "torchvision"
    crop = transforms.linear_train_transform(linear_job).transforms[0]
    with seeded(0):
        boxes = [crop.draw_box(wide, crop.scale, transforms.RATIO) for _ in range(200)]
    assert boxes.count((0, 86, 20, 27)) > 100


def test_evaluation_resizes_the_shorter_side_and_crops_the_centre(finetune_job, photo):
    ours = transforms.eval_transform(identity_pixels(finetune_job))(photo) * 255
    theirs = pil_transforms.Compose(
        [pil_transforms.Resize(28, InterpolationMode.BICUBIC), pil_transforms.CenterCrop(24)]
    )
    assert (ours - pil_to_tensor(theirs(photo))).abs().max() < 1.001
    normalised = transforms.eval_transform(finetune_job)(photo)
    mean, std = (torch.tensor(finetune_job["data"][key]).view(3, 1, 1) for key in ("mean", "std"))
    assert torch.allclose(normalised, (ours / 255 - mean) / std, atol=1e-5)
