"""Image files: read one, or say in a few words what is wrong with it. Without torch.

Ordinary JPEGs are decoded by OpenCV, at twice Pillow's rate: both call libjpeg-turbo with the same settings, and the
pixels are the same to the last bit. Whatever is not ordinary is Pillow's: other formats, other colours than grey and
three channels, 16 bits, files that do not end as a JPEG does.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from mto.errors import UserError
from mto.storage import again, passing

#: The last bytes of a whole file. What ends otherwise may still be whole: it is decoded to find out.
ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
ORIENTATION = 0x0112  # EXIF; from 5 on, width and height change places when the image is shown


def read(path: str | Path) -> np.ndarray:
    """The image as (H, W, 3) uint8, RGB; 16-bit grey by its upper 8 bits, where Pillow would clip it to white.

    Raises:
        UserError: the file is no whole image.
    """
    return decode(contents(path), path)


def contents(path: str | Path, offset: int = 0, size: int | None = None, shown: str | Path = "") -> bytes:
    """Returns a file's bytes, or ``size`` of them from ``offset`` on.

    Raises:
        UserError: there is no such file, it may not be read, or ends before; it names ``shown``, where that is given.
        StorageError: the storage failed, again and again.
    """

    def read() -> bytes:
        with open(path, "rb", buffering=0) as file:
            if size is None:
                return file.read()
            file.seek(offset)
            return file.read(size)

    with _readable(shown or path):
        data = again(read, path)
        if size is not None and len(data) < size:
            raise ValueError("the file ends before it")
        return data


def decode(data: bytes, path: str | Path) -> np.ndarray:
    """`read`, of a file's bytes.

    Raises:
        UserError: they are no whole image; it names ``path``.
    """
    with _readable(path):
        pixels = _decode_jpeg(data) if is_ordinary_jpeg(data) else None
        return _decode_with_pillow(data) if pixels is None else pixels


@contextmanager
def _readable(path: str | Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # Pillow's plugins raise nearly anything on damaged files
        if passing(error):
            raise
        raise UserError(
            f"{path}: not readable as an image ({_words(error)}); copy it again from the dataset"
        ) from error


#: Frames of 8 bits that Huffman codes hold, at once or in steps; libjpeg's others are 12-bit, lossless or arithmetic.
FRAMES = {0xC0, 0xC1, 0xC2}
NO_LENGTH = {0x01, *range(0xD0, 0xD8)}


def segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Of a JPEG's head, in order: a marker, where its segment begins, and where it ends."""
    place = 2
    while place + 10 < len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:  # a filling byte
            place += 1
            continue
        end = place + 2
        if marker not in NO_LENGTH:
            end += int.from_bytes(data[place + 2 : place + 4], "big")
        yield marker, place, end
        place = end


def is_ordinary_jpeg(data: bytes) -> bool:
    """A JPEG of 8-bit grey or three-channel pixels with its end in place, by its markers."""
    if not (data.startswith(b"\xff\xd8\xff") and data.endswith(ENDS["JPEG"])):
        return False
    for marker, place, _ in segments(data):
        if marker in FRAMES:
            return data[place + 4] == 8 and data[place + 9] in (1, 3)  # bits, channels
    return False


def _decode_jpeg(data: bytes) -> np.ndarray | None:
    import cv2  # here: a tenth of a second that datasets of other formats need not spend

    # Pillow does not turn images by their EXIF either.
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)


def _decode_with_pillow(data: bytes) -> np.ndarray:
    with _quiet(), Image.open(io.BytesIO(data)) as image:
        if image.mode.startswith("I;16"):
            return np.array(Image.fromarray((np.asarray(image) >> 8).astype("uint8")).convert("RGB"))
        return np.array(image.convert("RGB"))


class Stored(Protocol):
    """An image that need not be a file of its own (`mto.data.forms.form.Member`)."""

    def read(self) -> bytes: ...


def fault(
    path: str | Path | Stored, *, decode: bool, size: tuple[int, int] | None = None, label: bool = False
) -> str | None:
    """What is wrong with an image file, or None.

    Args:
        decode: read every pixel; else the head and the end.
        size: (width, height) that it must have.
        label: it is an annotation: one channel of 8 bits.

    Raises:
        StorageError: the storage failed, again and again, so that nothing is known of the file.
    """
    return again(lambda: _fault(path, decode, size, label), _name(path))


def _fault(path: str | Path | Stored, decode: bool, size: tuple[int, int] | None, label: bool) -> str | None:
    try:
        file = _file(path)
        with _quiet(), Image.open(file) as image:
            if label and image.mode not in ("L", "P"):
                return f"an annotation has one channel of 8 bits, this has mode {image.mode}"
            if size is not None and image.size != size:
                turned = image.getexif().get(ORIENTATION, 1) >= 5 and image.size[::-1] == size
                if not turned:
                    return f"is {_by(image.size)}, not {_by(size)}"
            end = ENDS.get(image.format or "")
            if decode or end is None or not _ends_with(file, end):
                image.load()
    except UserError as error:  # it names the image
        return str(error).rpartition(": ")[2]
    except Exception as error:
        if passing(error):
            raise
        return f"not readable as an image ({_words(error)})"
    return None


def size_of(path: str | Path | Stored) -> tuple[int, int] | None:
    """(width, height) by the file's head; None if it has none."""

    def read() -> tuple[int, int] | None:
        try:
            with _quiet(), Image.open(_file(path)) as image:
                return image.size
        except Exception as error:
            if passing(error):
                raise
            return None

    return again(read, _name(path))


def _name(image: str | Path | Stored) -> str:
    return str(getattr(image, "path", image))


def _file(image: str | Path | Stored) -> str | Path | io.BytesIO:
    return image if isinstance(image, str | Path) else io.BytesIO(image.read())


def _ends_with(image: str | Path | io.BytesIO, end: bytes) -> bool:
    if isinstance(image, io.BytesIO):
        return image.getvalue().endswith(end)
    with open(image, "rb") as file:
        file.seek(-min(len(end), os.fstat(file.fileno()).st_size), os.SEEK_END)
        return file.read() == end


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]} pixels"


def _words(error: Exception) -> str:
    """The error's first line, without the path that the caller names."""
    text = (str(error).splitlines() or [""])[0]
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return "no image format is known that begins so" if "cannot identify" in text else text or type(error).__name__


class _quiet(warnings.catch_warnings):
    """Pillow warns of large images and of odd metadata: neither is a fault."""

    def __enter__(self) -> None:  # type: ignore[override]
        super().__enter__()
        warnings.simplefilter("ignore")
