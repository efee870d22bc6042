"""ConMIM's teacher views on the device: crops in other colours, byte for byte those that Pillow gives.

Which image needs what is known on the host (`mto.data.imagenet.collate`), so that nothing waits for a value on the
device. Bytes are whole numbers in float32 planes, where what Pillow reckons in integers stays below 24 bits and is
exact; what it rounds in single precision is rounded here after the same operations. Each of these is a kernel of its
own, since one that multiplies and adds at once would round once less: this is never to be compiled. Pillow's bytes are
those of its x86-64 builds, which are compiled so as well.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mto.data.device.colours import CONTRAST, FACTORS, GREY, OPERATIONS, REACH, SATURATION, SOLARIZED, TURN, WEIGHTS

#: Images at a time, so that what is made meanwhile stays small: 40 MB each of a handful of planes at 224 x 224 pixels.
AT_ONCE = 64


class Recolour:
    """The colours of a batch; keeps its tables on the device."""

    def __init__(self) -> None:
        self.tables: Tables | None = None

    def __call__(self, images: Tensor, colours: Tensor, jittered: list[Tensor], blurred: Tensor) -> Tensor:
        """Returns the images in their colours, (B, H, W, 3) uint8.

        Args:
            images: (B, H, W, 3) uint8.
            colours: (B, NUMBERS), of `mto.data.device.colours.TeacherColours`.
            jittered: of `mto.data.device.colours.by_place`.
            blurred: of `mto.data.device.colours.blurred`.
        """
        if self.tables is None or self.tables.hue.device != images.device:
            self.tables = Tables(*(table.to(images.device) for table in hue_tables()))
        out = images.permute(0, 3, 1, 2).clone(memory_format=torch.contiguous_format)
        for place, kind in enumerate(jittered):
            for which in kind.split(AT_ONCE):
                out[which] = jitter(out[which].float(), colours[which], place, self.tables).to(torch.uint8)
        for part, numbers in zip(out.split(AT_ONCE), colours.split(AT_ONCE), strict=True):
            grey = numbers[:, GREY, None, None, None] > 0
            part.copy_(torch.where(grey, luma(part.float()).to(torch.uint8), part))
        for which in blurred.split(AT_ONCE):
            out[which] = blur(out[which], colours[which][:, WEIGHTS])
        solarized = colours[:, SOLARIZED, None, None, None] > 0
        return torch.where(solarized & (out >= 128), 255 - out, out).permute(0, 2, 3, 1)


def jitter(planes: Tensor, colours: Tensor, place: int, tables: Tables) -> Tensor:
    """Changes brightness, contrast and saturation in each image's own order, and the hue at one place among them.

    Args:
        planes: (B, 3, H, W) float32.
        place: 0 to 3; else there is no hue.
    """
    for slot, (operation, factor) in enumerate(zip(colours[:, OPERATIONS].T, colours[:, FACTORS].T, strict=True)):
        if slot == place:
            planes = turn_hue(planes, colours[:, TURN, None, None], tables)
        enhance_(planes, operation, factor)
    return turn_hue(planes, colours[:, TURN, None, None], tables) if place == 3 else planes


# --------------------------------------------------------------------------- brightness, contrast and saturation
def luma(planes: Tensor) -> Tensor:
    """Returns Pillow's grey, (B, 3, H, W) -> (B, 1, H, W): (19595 R + 38470 G + 7471 B + 2^15) >> 16."""
    red, green, blue = planes.split(1, dim=1)
    total = torch.rsub(red, 0.5, alpha=-19595 / 2**16)  # half and that part of red; all are whole in units of 2^-16
    return total.add_(green, alpha=38470 / 2**16).add_(blue, alpha=7471 / 2**16).floor_()


def enhance_(planes: Tensor, operation: Tensor, factor: Tensor) -> None:
    """Applies Pillow's ``ImageEnhance`` in place: ``factor`` times the way from black, mean or own grey to a pixel.

    Args:
        planes: (B, 3, H, W) float32.
        operation, factor: (B,), of each image; factor 1 leaves it as it is.
    """
    operation, factor = operation[:, None, None, None], factor[:, None, None, None]
    grey = luma(planes)
    pixels = planes.shape[2] * planes.shape[3]
    total = grey.sum((2, 3), keepdim=True, dtype=torch.int64)
    mean = (2 * total + pixels) // (2 * pixels)  # rounded, half up
    start = grey.mul_(operation == SATURATION).add_((operation == CONTRAST) * mean)
    planes.sub_(start).mul_(factor).add_(start).clamp_(0, 255).trunc_()


# ------------------------------------------------------------------------------------------------------------ hue
class Tables(NamedTuple):
    """Pillow's conversion to HSV and back.

    Its arithmetic is of single and double precision by turns, so that most of this is asked of Pillow itself.

    A pixel has a highest and a lowest channel; ``spread`` is their difference, ``value`` the highest.

    Attributes:
        hue: (256 x 1536) int32 by spread and place on the circle (`to_hsv`): 0 to 255.
        saturation: (256 x 256) int32 by value and spread: 0 to 255.
        lowest: (256 x 256) float32 by value and saturation: the lowest channel.
        middle: (256 x 256) float64 by hue and saturation: the middle channel as a part of the value.
        channels: (256, 3) int64 by hue: which of (value, middle, lowest) red, green and blue are.
    """

    hue: Tensor
    saturation: Tensor
    lowest: Tensor
    middle: Tensor
    channels: Tensor


def turn_hue(planes: Tensor, turn: Tensor, tables: Tables) -> Tensor:
    """Turns the hue by ``turn``, modulo 256: (B, 3, H, W) float32 -> the same.

    Args:
        turn: (B, 1, 1), of each image.
    """
    hue, saturation, value = to_hsv(planes, tables)
    return to_rgb((hue + turn.int()).bitwise_and_(255), saturation, value, tables)


def to_hsv(planes: Tensor, tables: Tables) -> tuple[Tensor, Tensor, Tensor]:
    """Returns hue, saturation (int32) and value (float32) of (B, 3, H, W) float32, each (B, H, W) of 0 to 255."""
    red, green, blue = planes.unbind(1)
    value = planes.amax(1)
    spread = value - planes.amin(1)
    # The difference of the two channels that are not the highest; of equally high ones the first counts.
    on_green_or_blue = torch.where(green == value, (blue - red).add_(512), (red - green).add_(1024))
    place = torch.where(red == value, green - blue, on_green_or_blue).add_(256)
    hue = look_up(tables.hue, (spread * 1536).add_(place).int())
    return hue, look_up(tables.saturation, (value * 256).add_(spread).int()), value


def to_rgb(hue: Tensor, saturation: Tensor, value: Tensor, tables: Tables) -> Tensor:
    """Inverts `to_hsv`, but for rounding."""
    lowest = look_up(tables.lowest, value.int().mul_(256).add_(saturation))
    # In 65025ths, which is odd: no half is ever met, nor is one within the reach of double precision.
    middle = look_up(tables.middle, (hue * 256).add_(saturation)).mul_(value).add_(0.5).floor_().float()
    channels = torch.stack([value, middle, lowest], -1).gather(-1, tables.channels[hue])
    return channels.permute(0, 3, 1, 2).contiguous()


def look_up(table: Tensor, places: Tensor) -> Tensor:
    """Returns the entries of a table (n,) at places of any shape, in that shape."""
    return table.index_select(0, places.view(-1)).view_as(places)


@cache
def hue_tables() -> Tables:
    """Builds the tables on the CPU, in some milliseconds."""
    first, second = (plane.astype(np.uint8) for plane in np.mgrid[:256, :256])
    greyer = np.maximum(first, second) - second  # no pixel has a spread larger than its value
    saturation = _by_pillow([first, greyer, greyer], "RGB", "HSV")[..., 1]
    lowest = _by_pillow([0 * first, second, first], "HSV", "RGB")[..., 2]
    # In the circle's first sixth red is the highest and blue the lowest; hue 255 begins the first again.
    channels = torch.tensor([[0, 1, 2], [1, 0, 2], [2, 0, 1], [2, 1, 0], [1, 2, 0], [0, 2, 1]])
    return Tables(
        torch.from_numpy(_hues()).flatten().int(),
        torch.from_numpy(saturation).flatten().int(),
        torch.from_numpy(lowest).flatten().float(),
        torch.from_numpy(_middles()).flatten(),
        channels[torch.arange(256) * 6 // 255 % 6],
    )


def _hues() -> np.ndarray:
    """Returns the hues (256, 1536) uint8 of pixels whose highest channel is 255: a hue depends on differences alone."""
    spread, difference = np.mgrid[:256, -256:256]
    # No pixel has a difference larger than its spread.
    second = np.minimum(255 - spread + np.maximum(difference, 0), 255)
    third = np.minimum(255 - spread + np.maximum(-difference, 0), 255)
    channels = [np.full_like(second, 255), second, third]
    thirds = [_by_pillow(channels[-first:] + channels[:-first], "RGB", "HSV")[..., 0] for first in range(3)]
    return np.concatenate(thirds, 1)


def _middles() -> np.ndarray:
    """Returns (256, 256) float64: q / v of Pillow's ``hsv2rgb`` in the circle's odd sixths, t / v in the others."""
    sixth, inside = np.divmod(np.arange(256)[:, None] * 6, 255)
    saturation = np.arange(256) / 255
    return 1 - saturation * np.where(sixth % 2 == 1, inside, 255 - inside) / 255


def _by_pillow(channels: list[np.ndarray], mode: str, other: str) -> np.ndarray:
    """Converts three (H, W) channels of one mode to (H, W, 3) uint8 of another."""
    height, width = channels[0].shape
    image = Image.frombytes(mode, (width, height), np.stack(channels, -1).astype(np.uint8).tobytes())
    return np.array(image.convert(other))


# ----------------------------------------------------------------------------------------------------------- blur
def blur(images: Tensor, weights: Tensor) -> Tensor:
    """Applies Pillow's ``GaussianBlur``: three boxes along the rows, then three along the columns, each rounded.

    Args:
        images: (n, 3, H, W) uint8.
        weights: (n, REACH + 1), of `mto.data.device.colours.box_weights`.
    """
    weights = weights.long()[:, :, None, None, None]
    images = images.int()
    for axis in (-1, -1, -1, -2, -2, -2):
        images = box(images, weights, axis)
    return images.to(torch.uint8)


def box(images: Tensor, weights: Tensor, axis: int) -> Tensor:
    """Applies one box along an axis; beyond the edge lies its last pixel."""
    side = images.shape[axis]
    places = torch.arange(-REACH, side + REACH, device=images.device).clamp_(0, side - 1)
    padded = images.index_select(axis, places)
    total = weights[:, 0] * images  # in 64 bits: up to 2^32
    for distance in range(1, REACH + 1):
        before = padded.narrow(axis, REACH - distance, side)
        after = padded.narrow(axis, REACH + distance, side)
        total += weights[:, distance] * (before + after)
    return total.add_(2**23).bitwise_right_shift_(24).int()
