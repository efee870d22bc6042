"""What is random about ConMIM's teacher view: the other colours of a crop, as numbers.

ConMIM changes colours by torchvision on PIL images (ConMIM:datasets.py:22-54): in four cases of five brightness,
contrast, saturation and hue in random order, then now and then grey, a blur, and solarization. A worker draws the same
numbers from the same generators in the same order, and hands over one crop instead of two; `mto.data.device.recolour`
makes the other one.
"""

import math
import random

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import ColorJitter

from mto.config.parts import TeacherView

#: torchvision's numbers of a jitter's four operations (`ColorJitter.get_params`).
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
#: Sigma of a blur, in pixels.
SIGMAS = (0.1, 2.0)
#: How far a box of that blur reaches, in pixels; its weights are those of the centre and of each distance.
REACH = 2

# Where what is in the numbers of an image.
OPERATIONS = slice(0, 3)  # a jitter's, in their order, without the hue
FACTORS = slice(3, 6)  # of these; 1 changes no pixel
PLACE = 6  # the hue comes before the operation of this place, 3: after all, or `NO_HUE`; -1: no jitter
TURN = 7  # of the hue, in steps of 1/256 of the circle
GREY = 8  # 1 or 0
SOLARIZED = 9  # 1 or 0
WEIGHTS = slice(10, 11 + REACH)  # of the blur's box, in 2^-24; zeros: no blur
NUMBERS = WEIGHTS.stop
NO_HUE = 4


class TeacherColours:
    """Draws the colours of a teacher view: (NUMBERS,) float32, laid out as above; all of them are exact in float32.

    Args:
        teacher: its jitter is of brightness, contrast, saturation and hue; solarization has the threshold 128.
    """

    def __init__(self, teacher: TeacherView) -> None:
        self.jitter = ColorJitter(*teacher.jitter)
        self.jitter_prob, self.gray_prob = teacher.jitter_prob, teacher.gray_prob
        self.blur_prob, self.solarize_prob = teacher.blur_prob, teacher.solarize_prob

    def __call__(self) -> Tensor:
        # torchvision compares float32 draws with each probability; a draw that equals it goes the way it goes there.
        jittered = not torch.rand(()) > self.jitter_prob
        jitter = self._jitter() if jittered else [0, 0, 0, 1.0, 1.0, 1.0, -1, 0]
        grey = torch.rand(()) < self.gray_prob
        weights = box_weights(random.uniform(*SIGMAS)) if random.random() < self.blur_prob else [0] * (REACH + 1)
        solarized = torch.rand(()).item() < self.solarize_prob
        return torch.tensor([*jitter, float(grey), float(solarized), *weights])

    def _jitter(self) -> list[float]:
        """Draws a jitter's numbers: the operations, their factors, the hue's place, and `TURN`."""
        jitter = self.jitter
        order, *drawn, turn = jitter.get_params(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
        operations = order.tolist()
        place = operations.index(HUE)
        operations.remove(HUE)
        factors = [1.0 if drawn[operation] is None else drawn[operation] for operation in operations]
        if turn is None:
            return [*operations, *factors, NO_HUE, 0]
        return [*operations, *factors, place, int(turn * 255) % 256]


def box_weights(sigma: float) -> list[int]:
    """Returns the weights of Pillow's Gaussian blur's boxes at distances of 0, 1, ... REACH pixels, in 2^-24.

    Pillow blurs by three boxes each way, after Gwosdek et al., "Theoretical Foundations of Gaussian Convolution by
    Extended Box Filtering"; here in the single precision of its BoxBlur.c.

    Args:
        sigma: of the Gaussian, in pixels.

    Raises:
        ValueError: its boxes reach further.
    """
    variance = np.float32(sigma) * np.float32(sigma) / np.float32(3)
    length = float(np.float32(math.sqrt(12 * float(variance) + 1)))
    whole = math.floor((length - 1) / 2)
    bend = np.float32(2 * whole + 1) * (np.float32(whole * (whole + 1)) - 3 * variance)
    radius = np.float32(whole) + bend / (6 * (variance - np.float32((whole + 1) ** 2)))
    inside = int(np.float32(2**24) / (radius * 2 + 1))
    edge = (2**24 - (2 * whole + 1) * inside) // 2
    weights = [inside] * (whole + 1) + [edge]
    if len(weights) > REACH + 1:
        raise ValueError(f"a blur of sigma {sigma} reaches further than {REACH} pixels")
    return weights + [0] * (REACH + 1 - len(weights))


def by_place(colours: Tensor) -> list[Tensor]:
    """Returns which images of a batch of (B, NUMBERS) have their hue turned at which place.

    Before the first operation, the second, the third, after them, or not at all: of each kind the places in the batch,
    int64. It is on the CPU, since a GPU would be waited for.
    """
    return [(colours[:, PLACE] == place).nonzero().flatten() for place in range(NO_HUE + 1)]


def blurred(colours: Tensor) -> Tensor:
    """Returns which images of a batch of (B, NUMBERS) are blurred: their places in it, int64, on the CPU."""
    return colours[:, WEIGHTS.start].nonzero().flatten()
