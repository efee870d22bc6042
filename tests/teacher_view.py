"""ConMIM's teacher view as its code makes it, by torchvision and Pillow (ConMIM:datasets.py:22-54): the reference."""

import random
from collections.abc import Callable
from typing import Any

from PIL import Image, ImageFilter
from torchvision import transforms


class GaussianBlur:
    """Blur with probability ``p``, its radius (Pillow's sigma, in pixels) uniform in ``radius``."""

    def __init__(self, p: float, radius: tuple[float, float] = (0.1, 2.0)) -> None:
        self.p, self.radius = p, radius

    def __call__(self, image: Image.Image) -> Image.Image:
        if random.random() >= self.p:
            return image
        return image.filter(ImageFilter.GaussianBlur(random.uniform(*self.radius)))


def teacher_view(teacher: dict[str, Any]) -> Callable[[Image.Image], Image.Image]:
    return transforms.Compose(
        [
            transforms.RandomApply([transforms.ColorJitter(*teacher["jitter"])], p=teacher["jitter_prob"]),
            transforms.RandomGrayscale(teacher["gray_prob"]),
            GaussianBlur(teacher["blur_prob"]),
            transforms.RandomSolarize(128, teacher["solarize_prob"]),
        ]
    )
