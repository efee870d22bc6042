"""Image files: read one, or say in a few words what is wrong with it. Without torch.

Ordinary JPEGs are decoded by OpenCV, at twice Pillow's rate: both call libjpeg-turbo with the same settings, and the
pixels are the same to the last bit. Whatever is not ordinary is Pillow's: other formats, other colours than grey and
three channels, 16 bits, files that do not end as a JPEG does.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from PIL import Image

from mto.errors import StorageError, UserError
from mto.storage import again, passing

#: The last bytes of a whole file. What ends otherwise may still be whole: it is decoded to find out.
ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
ORIENTATION = 0x0112  # EXIF; from 5 on, width and height change places when the image is shown


def read(path: str | Path) -> np.ndarray:
    """Reads an image as (H, W, 3) uint8, RGB; 16-bit grey by its upper 8 bits, where Pillow would clip it to white.

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
    """Decodes a file's bytes, with the pixels of `read`.

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
    """Yields the segments of a JPEG's head, in order: a marker, where its segment begins, and where it ends."""
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
    """Returns whether the markers are those of a whole JPEG of 8-bit grey or three-channel pixels."""
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
    """Says what is wrong with an image file; None if nothing is.

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
            if size is not None and size not in _sizes(image):
                return f"is {by(image.size)}, not {by(size)}"
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
    """Returns (width, height) by the file's head; None if it has none."""

    def read() -> tuple[int, int] | None:
        try:
            with _quiet(), Image.open(_file(path)) as image:
                return image.size
        except Exception as error:
            if passing(error):
                raise
            return None

    return again(read, _name(path))


def read_for(path: str | Path, size: tuple[int, int]) -> np.ndarray:
    """Returns the image as annotations of ``size`` see it: as it is stored, or turned by its EXIF if only so it fits.

    Where both fit, nobody can tell, and it is as stored; `may_be_turned` tells of these. Pixels as `read`.

    Raises:
        UserError: the file is no whole image, or of another size.
    """
    data = contents(path)
    pixels = decode(data, path)
    stored = (pixels.shape[1], pixels.shape[0])
    if size == stored:
        return pixels
    orientation = _opened(io.BytesIO(data), _orientation)
    if orientation >= 5 and size == stored[::-1]:
        return np.ascontiguousarray(TURNS[orientation](pixels))
    raise UserError(f"{path}: is {by(stored)}, not {by(size)}; copy it again from the dataset")


#: What shows an image that is stored as EXIF's orientation says; those below 5 keep its size.
TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: np.rot90(pixels, 2).swapaxes(0, 1),
    8: np.rot90,
}


def sizes_of(image: str | Path | Stored) -> list[tuple[int, int]]:
    """Returns (width, height) as stored, and as shown by its EXIF where that differs; none if it is no image."""
    try:
        return again(lambda: _opened(_file(image), _sizes), _name(image))
    except StorageError:
        raise
    except Exception:
        return []


def may_be_turned(image: str | Path | Stored, size: tuple[int, int]) -> bool:
    """Returns whether annotations of that size may be of the image as stored, and as well as its EXIF shows it."""
    orientation = again(lambda: _opened(_file(image), _orientation), _name(image))
    return orientation > 1 and size == size_of(image) and (orientation < 5 or size[0] == size[1])


Answer = TypeVar("Answer")


def _opened(file: str | Path | io.BytesIO, ask: Callable[[Image.Image], Answer]) -> Answer:
    with _quiet(), Image.open(file) as image:
        return ask(image)


def _orientation(image: Image.Image) -> int:
    found = image.getexif().get(ORIENTATION, 1)
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _sizes(image: Image.Image) -> list[tuple[int, int]]:
    return [image.size, image.size[::-1]] if _orientation(image) >= 5 else [image.size]


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


def by(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]} pixels"


def _words(error: Exception) -> str:
    """Returns the error's first line, without the path that the caller names."""
    text = (str(error).splitlines() or [""])[0]
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return "no image format is known that begins so" if "cannot identify" in text else text or type(error).__name__


class _quiet(warnings.catch_warnings):
    """Silences Pillow, which warns of large images and of odd metadata: neither is a fault."""

    def __enter__(self) -> None:  # type: ignore[override]
        super().__enter__()
        warnings.simplefilter("ignore")
