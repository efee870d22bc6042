"""Image transforms of every stage, from a job: an image's bytes in, those of a view of it out.

An image is (H, W, 3) uint8 as it is decoded, and so is its view: bytes are a quarter of the floats to move, and
`mto.data.device.pixels.Pixels` normalises them on the device. Crops run on these bytes by torchvision's functions: its
antialiased resize gives Pillow's pixels (one grey level of 255 apart at most in bilinear crops of photographs; bicubic
ones are 2 to 7 apart in 3 of 100,000) at twice the images/s of a PIL crop. timm's RandAugment stays in PIL, but for its
last moves (`mto.data.device.moves`); of ConMIM's teacher view there are only the draws, for
`mto.data.device.recolour`. All draws come from the global generators, so ``mto.data.rng.seeded`` governs them.
"""

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms.v2 import functional as F

from mto.config.job import (
    CroppedData,
    EvaluatedJob,
    FinetunedData,
    FinetuneJob,
    HeterogeneityJob,
    LinearJob,
    PretrainJob,
    ProbedData,
)
from mto.config.parts import FinetuneAugment
from mto.data.device.colours import TeacherColours
from mto.data.device.encoded import Cut, Jpeg
from mto.data.device.moves import View, on_views

Sample = dict[str, Any]
Transform = Callable[[Any], Sample]
RATIO = (3 / 4, 4 / 3)  # aspect ratios of a random resized crop, the same in all four repositories
INCEPTION_CROP = (0.08, 1.0)  # areas, for fine-tuning and linear probes


def resize(pixels: Tensor, size: list[int], interpolation: InterpolationMode) -> Tensor:
    """Resizes (H, W, 3) uint8 to ``size`` [height, width], antialiased.

    In one piece, and with the strides of a batch of one, which say plainly that a pixel's channels lie side by side,
    torch neither repacks the pixels nor takes them apart: three quarters of the time.
    """
    pixels = torch.from_numpy(np.ascontiguousarray(pixels.numpy()))  # a third of the time of torch's own copy
    height, width, channels = pixels.shape
    planes = pixels.as_strided((1, channels, height, width), (pixels.numel(), 1, channels * width, channels))
    if size == [height, width]:
        return pixels
    view = interpolate(planes, size, mode=interpolation.value, align_corners=False, antialias=True)
    return view[0].permute(1, 2, 0)


Box = tuple[int, int, int, int]


def no_retry_box(planes: Tensor, scale: tuple[float, float], ratio: tuple[float, float]) -> Box:
    """Draws area and aspect ratio once, the sides clamped to the image: no second try, no fall-back to the centre.

    MAE probes linearly with this sampler (MAE:util/crop.py:15-42), after BYOL's. Returns top, left, height, width.
    """
    height, width = planes.shape[-2:]
    area = height * width * random.uniform(*scale)
    aspect = math.exp(random.uniform(*map(math.log, ratio)))
    w = min(max(round(math.sqrt(area * aspect)), 1), width)  # of a tiny image MAE's own sampler may take no row
    h = min(max(round(math.sqrt(area / aspect)), 1), height)
    return random.randint(0, height - h), random.randint(0, width - w), h, w


class CropAndFlip:
    """(H, W, 3) uint8 -> (size, size, 3) uint8: random resized crop, horizontal flip.

    Args:
        data: ``crop_scale`` (smallest and largest area), ``interpolation``, ``hflip`` (probability), and for linear
            probes ``crop``: "no_retry" draws by `no_retry_box`, else torchvision does (ten tries, then the centre).
        size: side of the output in pixels.
    """

    def __init__(self, data: CroppedData | FinetuneAugment, size: int) -> None:
        self.size = [size, size]
        self.scale: tuple[float, ...] = tuple(data.crop_scale)
        self.interpolation = InterpolationMode(data.interpolation)
        self.hflip = data.hflip
        no_retry = isinstance(data, ProbedData) and data.crop == "no_retry"
        self.draw_box: Callable[..., Box] = no_retry_box if no_retry else RandomResizedCrop.get_params

    def draw(self, height: int, width: int) -> tuple[Box, bool]:
        """Draws the box of an image of that size, and whether it is flipped."""
        if height == width and self.scale == (1.0, 1.0):
            box = 0, 0, height, width  # no other has this area and fits, as ten draws of each sampler would find
        else:
            of_that_size = torch.empty(1).expand(3, height, width)  # without pixels
            box = self.draw_box(of_that_size, self.scale, RATIO)
        return box, bool(torch.rand(()) < self.hflip)

    def __call__(self, image: np.ndarray) -> Tensor:
        pixels = torch.from_numpy(image)
        (top, left, height, width), flipped = self.draw(*image.shape[:2])
        crop = resize(pixels[top : top + height, left : left + width], self.size, self.interpolation)
        return crop.flip(1) if flipped else crop

    def cut(self, image: Jpeg | np.ndarray) -> Cut:
        """Makes the same view; of a `Jpeg` it draws the box and the flip, and leaves the rest to the device."""
        if not isinstance(image, Jpeg):
            return Cut(self(image).flatten(), None, "")
        box, flipped = self.draw(image.height, image.width)
        return Cut(torch.from_numpy(image.data), (image.height, image.width, *box, int(flipped)), image.path)


class PretrainTransform:
    """An image -> ``image`` (size, size, 3) uint8, and ``colours`` where the job's data has ``teacher``.

    Where the device decodes: an image or its file (`mto.data.device.encoded.Jpeg`) -> ``encoded`` instead of ``image``.

    The teacher sees the same crop and flip in other colours (ConMIM:datasets.py:22-54), which are drawn here and given
    to it on the device. ConMIM flips before it crops; the distribution of crops is the same either way, and flipping
    the crop costs less.
    """

    def __init__(self, data: CroppedData, size: int) -> None:
        self.crop = CropAndFlip(data, size)
        self.colours = TeacherColours(data.teacher) if data.teacher else None
        self.decodes = data.decode != "device"

    def __call__(self, image: Any) -> Sample:
        sample = {"image": self.crop(image)} if self.decodes else {"encoded": self.crop.cut(image)}
        return sample if self.colours is None else {**sample, "colours": self.colours()}


def pretrain_transform(job: PretrainJob) -> PretrainTransform:
    """Builds random resized crop, flip, and the colours of ConMIM's teacher view: see `PretrainTransform`."""
    return PretrainTransform(job.data, job.img_size)


class Erasing:
    """Random erasing as timm has it, as a draw: where it writes noise, and which.

    The noise is for normalised pixels, so that `mto.data.device.pixels.Pixels` writes it.

    Args:
        prob: of erasing one box of an image.
        size: side of the images in pixels.
    """

    def __init__(self, prob: float, size: int) -> None:
        from timm.data.random_erasing import RandomErasing

        self.erase = RandomErasing(prob, mode="pixel", max_count=1, device="cpu")
        self.size = size

    def __call__(self) -> Sample:
        """Draws ``box`` (4,) int64: top, left, height, width, or zeros; and ``noise`` (3 * height * width,) float32."""
        page = _Page(self.size)
        self.erase(page)
        return {"box": torch.tensor(page.box), "noise": page.noise}


class _Page:
    """Stands in for an image in timm's random erasing: it keeps what is written, and where."""

    dtype = torch.float32

    def __init__(self, side: int) -> None:
        self.side = side
        self.box = [0, 0, 0, 0]
        self.noise = torch.empty(0)

    def size(self) -> tuple[int, int, int]:
        return 3, self.side, self.side

    def __setitem__(self, place: tuple[slice, slice, slice], noise: Tensor) -> None:
        _, rows, columns = place
        self.box = [rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start]
        self.noise = noise.flatten()


class FinetuneTransform:
    """An image -> ``image`` (size, size, 3) uint8: crop, flip, and timm's RandAugment or colour jitter.

    With RandAugment there are also ``moves``, what of it is left to the device (`mto.data.device.moves`); with random
    erasing what it writes (`Erasing`).

    The box of the crop is timm's draw. timm crops by Pillow: the same pixels, but for rounding, as in pre-training.

    Mixup and CutMix work on batches: they are the training step's.
    """

    def __init__(self, data: FinetunedData, size: int) -> None:
        from timm.data import create_transform
        from timm.data.auto_augment import RandAugment
        from timm.data.transforms import RandomResizedCropAndInterpolation

        augment = data.augment
        self.crop = CropAndFlip(augment, size)
        self.crop.draw_box = RandomResizedCropAndInterpolation.get_params
        # After a crop and before a tensor, which are left to others here.
        _, *self.colours, _ = create_transform(
            input_size=size,
            is_training=True,
            hflip=0.0,
            color_jitter=augment.color_jitter,  # type: ignore[arg-type]
            auto_augment=augment.rand_augment,
            interpolation=augment.interpolation,
            mean=tuple(data.mean),  # fills what a rotation or a shift uncovers
            normalize=False,
        ).transforms
        self.erasing = Erasing(augment.reprob, size) if augment.reprob else None
        self.moves = bool(self.colours) and isinstance(self.colours[0], RandAugment)
        if self.moves:
            for op in self.colours[0].ops:
                if op.name.startswith("Posterize"):
                    op.aug_fn = posterize
            self.colours[0].ops = on_views(self.colours[0].ops)

    def __call__(self, image: np.ndarray) -> Sample:
        view: Any = View(self.crop(image))
        for step in self.colours:
            view = step(view) if self.moves else view.apply(step)
        sample = {"image": view.pixels} | ({"moves": view.noted()} if self.moves else {})
        return sample if self.erasing is None else {**sample, **self.erasing()}


def finetune_train_transform(job: FinetuneJob) -> FinetuneTransform:
    """Builds crop, flip, RandAugment and random erasing: see `FinetuneTransform`."""
    return FinetuneTransform(job.data, job.img_size)


def posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    """Keeps the ``bits`` highest bits of each value; with none the image is black.

    RandAugment at magnitude 9 ± 0.5 asks for 0 bits now and then (2 % of its posterizations). Older Pillows made those
    black; Pillow 13 raises, which timm 1.0.31 does not expect.
    """
    mask = 256 - 2 ** (8 - bits)
    return image.point([value & mask for value in range(256)] * len(image.getbands()))


def linear_train_transform(job: LinearJob) -> PretrainTransform:
    """Builds crop and flip; ``crop: no_retry`` takes MAE's crop sampler."""
    return PretrainTransform(job.data, job.img_size)


class EvalTransform:
    """An image -> ``image`` (crop, crop, 3) uint8: the shorter side resized to ``resize``, then the centre."""

    def __init__(self, resize: int, crop: int, interpolation: str) -> None:
        self.resize, self.crop, self.interpolation = resize, [crop, crop], InterpolationMode(interpolation)

    def __call__(self, image: np.ndarray) -> Sample:
        height, width = image.shape[:2]
        if width <= height:
            size = [int(self.resize * height / width), self.resize]
        else:
            size = [self.resize, int(self.resize * width / height)]
        view = resize(torch.from_numpy(image), size, self.interpolation)
        return {"image": F.center_crop_image(view.permute(2, 0, 1), self.crop).permute(1, 2, 0)}


def eval_transform(job: FinetuneJob | LinearJob | EvaluatedJob | HeterogeneityJob) -> EvalTransform:
    """Builds the view that accuracy is measured on: ``data.eval`` = {resize, crop, interpolation}."""
    return EvalTransform(**job.data.eval.written())
