"""Image transforms of every stage, from a job: PIL image in, normalised float tensor (3, H, W) out.

Crops run on uint8 tensors, by torchvision's functions: its antialiased resize gives Pillow's pixels (one grey level
of 255 apart at most in bilinear crops of photographs; bicubic ones are 2 to 7 apart in 3 of 100,000) at twice the
images/s of a PIL crop. What the official code does in PIL colour arithmetic stays in PIL: timm's RandAugment and
ConMIM's teacher view. All draws come from the global generators, so ``mto.data.rng.seeded`` governs them.
"""

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torchvision import transforms as pil_transforms
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms.v2 import functional as F

Transform = Callable[[Image.Image], Tensor]
RATIO = (3 / 4, 4 / 3)  # aspect ratios of a random resized crop, the same in all four repositories
INCEPTION_CROP = (0.08, 1.0)  # areas, for fine-tuning and linear probes


def _image_size(job: dict[str, Any]) -> int:
    return job["method" if "method" in job else "encoder"]["img_size"]


def to_pixels(image: Image.Image) -> Tensor:
    """RGB image -> (3, H, W) uint8."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


class Normalize:
    """(3, H, W) uint8 -> float32: (pixels / 255 - mean) / std, in one step (a quarter of the library's time)."""

    def __init__(self, mean: list[float], std: list[float]) -> None:
        self.mean = torch.tensor(mean).view(3, 1, 1) * 255
        self.scale = 1 / (torch.tensor(std).view(3, 1, 1) * 255)

    def __call__(self, pixels: Tensor) -> Tensor:
        return (pixels.float() - self.mean).mul_(self.scale).contiguous()


Box = tuple[int, int, int, int]


def no_retry_box(pixels: Tensor, scale: tuple[float, float], ratio: tuple[float, float]) -> Box:
    """One draw of area and aspect ratio, the sides clamped to the image: no second try, no fall-back to the centre.

    MAE probes linearly with this sampler (MAE:util/crop.py:15-42), after BYOL's. Returns top, left, height, width.
    """
    height, width = pixels.shape[-2:]
    area = height * width * random.uniform(*scale)
    aspect = math.exp(random.uniform(*map(math.log, ratio)))
    w = min(round(math.sqrt(area * aspect)), width)
    h = min(round(math.sqrt(area / aspect)), height)
    return random.randint(0, height - h), random.randint(0, width - w), h, w


class CropAndFlip:
    """PIL image -> (3, size, size) uint8: random resized crop, horizontal flip.

    Args:
        data: ``crop_scale`` (smallest and largest area), ``interpolation``, ``hflip`` (probability), and for linear
            probes ``crop``: "no_retry" draws by `no_retry_box`, else torchvision does (ten tries, then the centre).
        size: side of the output in pixels.
    """

    def __init__(self, data: dict[str, Any], size: int) -> None:
        self.size = [size, size]
        self.scale = tuple(data["crop_scale"])
        self.interpolation = InterpolationMode(data["interpolation"])
        self.hflip = data["hflip"]
        self.draw_box: Callable[..., Box]
        self.draw_box = no_retry_box if data.get("crop") == "no_retry" else RandomResizedCrop.get_params

    def __call__(self, image: Image.Image) -> Tensor:
        pixels = to_pixels(image)
        box = self.draw_box(pixels, self.scale, RATIO)
        crop = F.resized_crop_image(pixels, *box, self.size, self.interpolation, antialias=True)
        return crop.flip(-1) if torch.rand(()) < self.hflip else crop


class PILGaussianBlur:
    """Blur with probability ``p``, its radius (Pillow's sigma, in pixels) uniform in ``radius``."""

    def __init__(self, p: float, radius: tuple[float, float] = (0.1, 2.0)) -> None:
        self.p, self.radius = p, radius

    def __call__(self, image: Image.Image) -> Image.Image:
        if random.random() >= self.p:
            return image
        return image.filter(ImageFilter.GaussianBlur(random.uniform(*self.radius)))


class PretrainTransform:
    """PIL image -> ``{"image"}``, and ``{"teacher_image"}`` where the job's data has ``teacher``: both (3, H, W).

    The teacher sees the same crop and flip in other colours (ConMIM:datasets.py:22-54). ConMIM flips before it crops;
    the distribution of crops is the same either way, and flipping the crop costs less.
    """

    def __init__(self, data: dict[str, Any], size: int) -> None:
        self.crop = CropAndFlip(data, size)
        self.normalize = Normalize(data["mean"], data["std"])
        self.colours = teacher_colours(data["teacher"]) if data.get("teacher") else None

    def __call__(self, image: Image.Image) -> dict[str, Tensor]:
        crop = self.crop(image)
        views = {"image": self.normalize(crop)}
        if self.colours is not None:
            view = self.colours(Image.fromarray(crop.permute(1, 2, 0).numpy()))
            views["teacher_image"] = self.normalize(to_pixels(view))
        return views


def teacher_colours(teacher: dict[str, Any]) -> Callable[[Image.Image], Image.Image]:
    """The colour change of ConMIM's teacher view.

    Args:
        teacher: ``jitter`` (brightness, contrast, saturation, hue), ``jitter_prob``, ``gray_prob``, ``blur_prob``,
            ``solarize_prob`` (threshold 128).
    """
    return pil_transforms.Compose(
        [
            pil_transforms.RandomApply([pil_transforms.ColorJitter(*teacher["jitter"])], p=teacher["jitter_prob"]),
            pil_transforms.RandomGrayscale(teacher["gray_prob"]),
            PILGaussianBlur(teacher["blur_prob"]),
            pil_transforms.RandomSolarize(128, teacher["solarize_prob"]),
        ]
    )


def pretrain_transform(job: dict[str, Any]) -> PretrainTransform:
    """Random resized crop and flip, and ConMIM's teacher view: see `PretrainTransform`."""
    return PretrainTransform(job["data"], _image_size(job))


def finetune_train_transform(job: dict[str, Any]) -> Transform:
    """timm's factory: crop, flip, RandAugment (or colour jitter without it), normalise, random erasing with noise.

    Mixup and CutMix work on batches: they are the training step's.
    """
    from timm.data import create_transform

    data, augment = job["data"], job["data"]["augment"]
    transform = create_transform(
        input_size=_image_size(job),
        is_training=True,
        scale=tuple(augment.get("crop_scale", INCEPTION_CROP)),
        ratio=RATIO,
        hflip=augment["hflip"],
        color_jitter=augment["color_jitter"],
        auto_augment=augment["rand_augment"],
        interpolation=augment["interpolation"],
        re_prob=augment["reprob"],
        re_mode="pixel",
        re_count=1,
        mean=data["mean"],
        std=data["std"],
    )
    for step in transform.transforms:
        for op in getattr(step, "ops", []):
            if op.name.startswith("Posterize"):
                op.aug_fn = posterize
    return transform


def posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    """Keep the ``bits`` highest bits of each value; with none the image is black.

    RandAugment at magnitude 9 ± 0.5 asks for 0 bits now and then (2 % of its posterizations). Older Pillows made those
    black; Pillow 13 raises, which timm 1.0.31 does not expect.
    """
    mask = 256 - 2 ** (8 - bits)
    return image.point([value & mask for value in range(256)] * len(image.getbands()))


def linear_train_transform(job: dict[str, Any]) -> Transform:
    """Crop and flip; ``crop: no_retry`` takes MAE's crop sampler."""
    data = job["data"]
    return pil_transforms.Compose([CropAndFlip(data, _image_size(job)), Normalize(data["mean"], data["std"])])


class ResizeAndCenterCrop:
    """PIL image -> (3, crop, crop) uint8: the shorter side resized to ``resize``, then the centre."""

    def __init__(self, resize: int, crop: int, interpolation: str) -> None:
        self.resize, self.crop, self.interpolation = [resize], [crop, crop], InterpolationMode(interpolation)

    def __call__(self, image: Image.Image) -> Tensor:
        pixels = F.resize_image(to_pixels(image), self.resize, self.interpolation, antialias=True)
        return F.center_crop_image(pixels, self.crop)


def eval_transform(job: dict[str, Any]) -> Transform:
    """The view that accuracy is measured on: ``data.eval`` = {resize, crop, interpolation}."""
    data = job["data"]
    return pil_transforms.Compose([ResizeAndCenterCrop(**data["eval"]), Normalize(data["mean"], data["std"])])
