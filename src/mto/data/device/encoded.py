"""Training images that the device decodes, `datasets.imagenet.decode: device`: their files, and what is to be cut out.

A worker reads a file, takes its size from its head, and draws the box and the flip that it would draw of its pixels.
`mto.data.device.decode` makes the view. What a GPU's decoder may not know, or may understand in another way than
libjpeg, is decoded and cut by the worker and travels as a finished view: other formats, and JPEGs but for baseline and
progressive ones of grey or YCbCr, with chroma at full or half size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mto.data.images import decode, is_ordinary_jpeg, segments

#: Of a file on average, ImageNet-1K's. One has up to 15 MB, a micro-batch of 64 differs by a few per cent.
FILE_BYTES = 108_000

BASELINE, PROGRESSIVE, SCAN = 0xC0, 0xC2, 0xDA
FRAMES = range(0xC0, 0xD0)
JFIF, ADOBE = 0xE0, 0xEE  # they say what the channels are
TABLES = {0xC4, 0xDB, 0xDD}  # Huffman codes, quantisation, restart interval
#: Horizontal and vertical sampling of Y, in half bytes, where that of Cb and Cr is 1 and 1.
LUMA = {0x11, 0x21, 0x12, 0x22}


class Jpeg(NamedTuple):
    """A file that the device decodes.

    Attributes:
        data: (bytes,) uint8, without what no decoder of pixels needs.
        height, width: in pixels, by its head.
    """

    path: str
    data: np.ndarray
    height: int
    width: int


class Cut(NamedTuple):
    """A view that is yet to be made, or is finished.

    Attributes:
        data: (bytes,) uint8, of a JPEG; or of the finished view.
        numbers: the image's height and width; top, left, height and width of the box; 1 if the view is flipped, else 0.
            None: the view is finished.
        path: for messages.
    """

    data: Tensor
    numbers: Sequence[int] | None
    path: str


class Cuts(NamedTuple):
    """The cuts of a batch; the bytes are joined end to end, so that they are one piece of shared or pinned memory."""

    data: Tensor
    lengths: list[int]
    numbers: list[Sequence[int] | None]
    paths: list[str]


def join(cuts: Sequence[Cut]) -> Cuts:
    """Joins the cuts of a batch's samples."""
    data, numbers, paths = zip(*cuts, strict=True)
    return Cuts(torch.cat(data), [len(each) for each in data], list(numbers), list(paths))


def read(data: bytes, path: str) -> Jpeg | np.ndarray:
    """Returns a file's bytes for the device, or else its pixels (`mto.data.images.decode`).

    Raises:
        UserError: it is not for the device, and no whole image.
    """
    return parse(data, path) or decode(data, path)


def parse(data: bytes, path: str) -> Jpeg | None:
    """Returns a file's bytes as a JPEG for the device; None if they are none that it should decode.

    All but what decoding takes is left out of it, EXIF above all: the device's decoder would turn the image by it, as
    no other reader here does.
    """
    if not is_ordinary_jpeg(data):
        return None
    kept, frames, usual = [slice(0, 2)], [], True
    for marker, place, end in segments(data):
        if marker == SCAN:
            kept.append(slice(place, None))
            break
        if marker in TABLES or marker == JFIF:
            kept.append(slice(place, end))
        elif marker == ADOBE:
            kept.append(slice(place, end))
            usual &= data[place + 4 : place + 9] == b"Adobe" and data[place + 15 : place + 16] == b"\x01"  # YCbCr
        elif marker in FRAMES:
            kept.append(slice(place, end))
            frames.append(place)
    else:
        return None
    if len(frames) != 1 or not usual:
        return None
    (frame,) = frames
    height, width = (int.from_bytes(data[frame + at : frame + at + 2], "big") for at in (5, 7))
    channels = data[frame + 10 : frame + 10 + 3 * data[frame + 9]]
    whole = data[place + 4] == data[frame + 9]  # all channels in one scan
    known = data[frame + 1] == PROGRESSIVE or (data[frame + 1] == BASELINE and whole)
    if not (known and height and width and _is_grey_or_ycbcr(channels)):
        return None
    array = np.frombuffer(data, np.uint8)
    return Jpeg(path, np.concatenate([array[part] for part in kept]), height, width)


def _is_grey_or_ycbcr(channels: bytes) -> bool:
    """Returns whether channels are grey or YCbCr, by three bytes of each: its name, its sampling, its table."""
    names, sampling = channels[::3], channels[1::3]
    if len(names) == 1:
        return sampling == b"\x11"
    return names != b"RGB" and sampling[0] in LUMA and sampling[1:] == b"\x11\x11"
