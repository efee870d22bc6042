import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from timm.data.auto_augment import RandAugment
from timm.data.random_erasing import RandomErasing
from torchvision import transforms as pil_transforms
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.functional import pil_to_tensor

from mto.data import transforms
from mto.data.device.moves import View
from mto.data.rng import seeded
from typed_jobs import typed


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """60 x 100, smooth, coloured, nowhere symmetric."""
    noise = np.random.default_rng(0).integers(0, 256, (5, 8, 3), dtype="uint8")
    return np.array(Image.fromarray(noise).resize((100, 60), Image.Resampling.BICUBIC))


BUILDERS = {
    "pretrain": (transforms.pretrain_transform, "pretrain_job"),
    "finetune": (transforms.finetune_train_transform, "finetune_job"),
    "linear": (transforms.linear_train_transform, "linear_job"),
    "eval": (transforms.eval_transform, "finetune_job"),
}


@pytest.mark.parametrize("stage", BUILDERS)
def test_a_transform_gives_plain_bytes_decided_by_the_seed(stage, request, photo):
    build, job = BUILDERS[stage]
    transform = build(typed(request.getfixturevalue(job)))
    image = draw_seeded(transform, photo, 0)["image"]
    assert type(image) is torch.Tensor
    assert (image.shape, image.dtype) == ((24, 24, 3), torch.uint8)
    assert torch.equal(draw_seeded(transform, photo, 0)["image"], image)
    assert torch.equal(draw_seeded(transform, photo, 1)["image"], image) == (stage == "eval")


def test_all_randomness_of_fine_tuning_is_governed(finetune_job, photo):
    """RandAugment draws from Python and NumPy, crops from Python, erasing noise from torch."""
    transform = transforms.finetune_train_transform(typed(finetune_job))
    once = [draw_seeded(transform, photo, k) for k in range(60)]
    torch.rand(7), np.random.random(3)  # noqa: NPY002
    again = [draw_seeded(transform, photo, k) for k in range(60)]
    assert all(torch.equal(a[name], b[name]) for a, b in zip(once, again, strict=True) for name in a)
    assert sum(len(sample["noise"]) > 0 for sample in once) in range(5, 26)


def draw_seeded(transform, image, *key):
    with seeded(*key):
        return transform(image)


def test_fine_tuning_is_the_sheets_augmentation(finetune_job):
    """SimMIM:data/data_finetune.py:77-93, MAE:util/datasets.py:35-49."""
    transform = transforms.finetune_train_transform(typed(finetune_job))
    crop, (augment,), erase = transform.crop, transform.colours, transform.erasing.erase
    assert crop.scale == (0.08, 1.0)
    assert crop.interpolation == InterpolationMode.BICUBIC
    assert crop.hflip == 0.5
    assert isinstance(augment, RandAugment)
    assert (augment.num_layers, {op.magnitude for op in augment.ops}, {op.magnitude_std for op in augment.ops}) == (
        2,
        {9},
        {0.5},
    )
    assert "PosterizeIncreasing" in {op.name for op in augment.ops}
    assert {op.kwargs["fillcolor"] for op in augment.ops} == {(124, 116, 104)}  # the mean colour
    assert isinstance(erase, RandomErasing)
    assert (erase.probability, erase.per_pixel, erase.max_count) == (0.25, True, 1)


def test_fine_tuning_crops_and_flips_where_timm_does(finetune_job, photo):
    """Of the same draws, timm's own crop and flip of a PIL image differ by rounding alone."""
    finetune_job["data"]["augment"].update(rand_augment=None, color_jitter=None, reprob=0.0)
    theirs = create_transform(24, is_training=True, color_jitter=None, interpolation="bicubic", normalize=False)
    ours = transforms.finetune_train_transform(typed(finetune_job))
    assert ours.colours == []
    for key in range(40):
        expected = draw_seeded(theirs, Image.fromarray(photo), key)
        view = draw_seeded(ours, photo, key)["image"].permute(2, 0, 1)
        difference = (view.int() - expected.int()).abs()
        assert difference.max() <= 2
        assert difference.float().mean() < 0.1


def test_colour_jitter_works_where_rand_augment_is_off(finetune_job):
    finetune_job["data"]["augment"].update(rand_augment=None, reprob=0.0)
    transform = transforms.finetune_train_transform(typed(finetune_job))
    assert [type(step).__name__ for step in transform.colours] == ["ColorJitter"]
    assert transform.erasing is None


def test_posterizing_to_no_bits_is_black_and_never_an_error(finetune_job, photo):
    """Pillow 13 refuses 0 bits, which RandAugment asks for at the highest magnitude."""
    image = Image.fromarray(photo)
    assert transforms.posterize(image, 0).getextrema() == ((0, 0),) * 3
    for bits in (1, 4, 8):
        expected = photo >> (8 - bits) << (8 - bits)
        assert np.array_equal(np.asarray(transforms.posterize(image, bits)), expected)
    augment = transforms.finetune_train_transform(typed(finetune_job)).colours[0]
    for op in augment.ops:
        op.prob, op.magnitude, op.magnitude_std = 1.0, 10, 0.0
        assert op(View(torch.from_numpy(photo))).size == image.size


def test_erasing_is_timms(finetune_job):
    """The same boxes with the same noise as timm writes into an image, of the same draws."""
    size = 24
    erasing = transforms.Erasing(0.25, size)
    written = RandomErasing(0.25, mode="pixel", max_count=1, device="cpu")
    boxes = 0
    for key in range(80):
        drawn = draw_seeded(lambda _: erasing(), None, key)
        theirs = draw_seeded(written, torch.full((3, size, size), 7.0), key)
        top, left, height, width = drawn["box"].tolist()
        ours = torch.full((3, size, size), 7.0)
        ours[:, top : top + height, left : left + width] = drawn["noise"].view(3, height, width)
        assert torch.equal(ours, theirs)
        boxes += height > 0
    assert 10 < boxes < 35


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_crops_are_pillows_to_one_grey_level(interpolation, pretrain_job, photo):
    pretrain_job["data"].update(interpolation=interpolation, hflip=0.0)
    transform = transforms.pretrain_transform(typed(pretrain_job))
    planes = torch.from_numpy(photo).permute(2, 0, 1)
    with seeded(4):
        box = transform.crop.draw_box(planes, transform.crop.scale, transforms.RATIO)
    ours = draw_seeded(transform, photo, 4)["image"].permute(2, 0, 1)
    mode = InterpolationMode(interpolation)
    theirs = pil_transforms.functional.resized_crop(Image.fromarray(photo), *box, [24, 24], mode)
    assert (ours.int() - pil_to_tensor(theirs)).abs().max() <= 1
    torchvisions = v2.functional.resized_crop(planes, *box, [24, 24], mode, antialias=True)
    assert torch.equal(ours, torchvisions)


@pytest.mark.parametrize(
    ("scale", "interpolation"), [([0.67, 1.0], "bilinear"), ([0.2, 1.0], "bicubic"), ([0.08, 1.0], "bicubic")]
)
def test_pre_training_crops_as_the_job_says(scale, interpolation, pretrain_job, photo):
    pretrain_job["data"].update(crop_scale=scale, interpolation=interpolation)
    crop = transforms.pretrain_transform(typed(pretrain_job)).crop
    assert crop.interpolation == InterpolationMode(interpolation)
    planes = torch.from_numpy(photo).permute(2, 0, 1)
    with seeded(0):
        boxes = np.array([crop.draw_box(planes, crop.scale, transforms.RATIO) for _ in range(400)])
    areas, aspects = boxes[:, 2] * boxes[:, 3] / 6000, boxes[:, 3] / boxes[:, 2]
    assert scale[0] * 0.95 < areas.min() < scale[0] + 0.1
    assert 0.7 < areas.max() <= 1
    assert aspects.min() > 0.7
    assert aspects.max() < 1.4


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_the_flip_has_the_jobs_probability(p, pretrain_job, photo):
    pretrain_job["data"]["hflip"] = 0.0
    plain = draw_seeded(transforms.pretrain_transform(typed(pretrain_job)), photo, 9)["image"]
    pretrain_job["data"]["hflip"] = p
    flipped = draw_seeded(transforms.pretrain_transform(typed(pretrain_job)), photo, 9)["image"]
    assert torch.equal(flipped, plain.flip(1) if p else plain)


def test_the_teachers_colours_leave_the_students_crop_alone(pretrain_job, teacher, photo):
    """They are drawn after it, from the same generators."""
    student = draw_seeded(transforms.pretrain_transform(typed(pretrain_job)), photo, 1)
    assert student.keys() == {"image"}
    pretrain_job["data"]["teacher"] = teacher
    both = draw_seeded(transforms.pretrain_transform(typed(pretrain_job)), photo, 1)
    assert both.keys() == {"image", "colours"}
    assert torch.equal(both["image"], student["image"])
    assert not torch.equal(
        both["colours"], draw_seeded(transforms.pretrain_transform(typed(pretrain_job)), photo, 2)["colours"]
    )


def test_maes_crop_draws_once_and_stays_inside(linear_job):
    """No retry: an area and an aspect ratio that do not fit are clamped (MAE:util/crop.py:15-42)."""
    crop = transforms.linear_train_transform(typed(linear_job)).crop
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
    crop = transforms.linear_train_transform(typed(linear_job)).crop
    with seeded(0):
        boxes = [crop.draw_box(wide, crop.scale, transforms.RATIO) for _ in range(200)]
    assert boxes.count((0, 86, 20, 27)) > 100


def test_evaluation_resizes_the_shorter_side_and_crops_the_centre(finetune_job, photo):
    mode = InterpolationMode.BICUBIC
    theirs = v2.Compose([v2.Resize(28, mode), v2.CenterCrop(24)])
    for image in (photo, np.ascontiguousarray(photo.swapaxes(0, 1))):
        ours = transforms.eval_transform(typed(finetune_job))(image)["image"].permute(2, 0, 1)
        assert (ours.int() - pil_to_tensor(theirs(Image.fromarray(image)))).abs().max() <= 1
        assert torch.equal(ours, theirs(torch.from_numpy(image).permute(2, 0, 1)))
