"""Ordinary JPEGs are decoded by OpenCV, with Pillow's pixels; all else is Pillow's."""

import io

import numpy as np
import pytest
from PIL import Image

from mto.data import images
from mto.errors import UserError


def picture(height: int = 61, width: int = 83) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype="uint8")
    smooth = np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)).astype(float)
    grain = np.random.default_rng(1).normal(0, 20, (height, width, 3))
    return Image.fromarray((smooth + grain).clip(0, 255).astype("uint8"))


def encoded(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def turned(image: Image.Image) -> dict:
    exif = image.getexif()
    exif[images.ORIENTATION] = 6
    return {"exif": exif}


ORDINARY = {
    "4:2:0": encoded(picture(), quality=90, subsampling=2),
    "4:2:2": encoded(picture(), quality=90, subsampling=1),
    "4:4:4": encoded(picture(), quality=90, subsampling=0),
    "coarse": encoded(picture(), quality=5),
    "finest": encoded(picture(), quality=100, subsampling=2),
    "progressive": encoded(picture(), quality=90, progressive=True),
    "optimised": encoded(picture(), quality=90, optimize=True),
    "restarts": encoded(picture(), quality=90, restart_marker_blocks=3),
    "grey": encoded(picture().convert("L"), quality=90),
    "RGB inside": encoded(picture(), quality=90, keep_rgb=True),
    "turned by its EXIF": encoded(picture(), quality=90, **turned(picture())),
    "profile and comment": encoded(picture(), quality=90, icc_profile=b"x" * 70000, comment=b"hello"),
    "one pixel": encoded(picture(1, 1), quality=90),
    "one row": encoded(picture(1, 33), quality=90),
    "tall": encoded(picture(500, 7), quality=90, subsampling=2),
}
OTHERS = {
    "CMYK": encoded(picture().convert("CMYK"), quality=90),
    "PNG": encoded(picture(), "PNG"),
    "PNG, 16 bits": encoded(Image.fromarray(np.arange(6000, dtype="uint16").reshape(60, 100) * 10), "PNG"),
    "PNG, palette": encoded(picture().convert("P"), "PNG"),
    "WebP": encoded(picture(), "WEBP"),
    "bytes after its end": encoded(picture(), quality=90) + b"\0\0",
}


@pytest.mark.parametrize("name", ORDINARY)
def test_an_ordinary_jpeg_has_pillows_pixels(name, tmp_path):
    data = ORDINARY[name]
    assert images.is_ordinary_jpeg(data)
    (tmp_path / "x.JPEG").write_bytes(data)
    pixels = images.read(tmp_path / "x.JPEG")
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    with Image.open(io.BytesIO(data)) as image:
        assert np.array_equal(pixels, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("name", OTHERS)
def test_all_else_is_pillows(name, tmp_path, monkeypatch):
    monkeypatch.setattr(images, "_decode_jpeg", None)
    (tmp_path / "x").write_bytes(OTHERS[name])
    pixels = images.read(tmp_path / "x")
    assert pixels.flags.writeable
    if "16" not in name:
        with Image.open(io.BytesIO(OTHERS[name])) as image:
            assert np.array_equal(pixels, np.asarray(image.convert("RGB")))


def test_no_cut_jpeg_is_taken_for_a_whole_one(tmp_path):
    """Wherever it was cut: where OpenCV would fill the rest with grey, Pillow's error is the answer."""
    whole = ORDINARY["4:2:0"]
    for length in range(0, len(whole) - 1, 7):
        (tmp_path / "x.JPEG").write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"x\.JPEG: not readable as an image"):
            images.read(tmp_path / "x.JPEG")


@pytest.mark.parametrize("seed", range(5))
def test_damage_inside_gives_pillows_pixels_or_pillows_error(seed, tmp_path, capfd):
    random = np.random.default_rng(seed)
    for _ in range(30):
        data = bytearray(ORDINARY["4:2:0"])
        data[random.integers(2, len(data) - 2)] = random.integers(256)
        (tmp_path / "x.JPEG").write_bytes(data)
        try:
            with Image.open(io.BytesIO(data)) as image:
                expected = np.asarray(image.convert("RGB"))
        except Exception:
            with pytest.raises(UserError, match="not readable as an image"):
                images.read(tmp_path / "x.JPEG")
        else:
            assert np.array_equal(images.read(tmp_path / "x.JPEG"), expected)
