"""Files for a device's decoder: which ones go there, what of them, and the draws of a worker that decodes."""

import io

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchcodec.decoders import decode_jpeg

from mto.data import images
from mto.data.device import encoded
from mto.errors import UserError


def picture(width: int = 97, height: int = 71, seed: int = 0) -> Image.Image:
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 255, (9, 12, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def jpeg(image: Image.Image, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[images.ORIENTATION] = orientation
    return exif


def opencv(factor: int) -> bytes:
    sampling = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor]
    return cv2.imencode(".jpg", np.array(picture()), sampling)[1].tobytes()


def changed(data: bytes, at: int, value: int) -> bytes:
    return data[:at] + bytes([value]) + data[at + 1 :]


def frame_of(data: bytes) -> int:
    return next(place for marker, place, _ in images.segments(data) if marker in images.FRAMES)


def with_segment(data: bytes, marker: int, content: bytes) -> bytes:
    return data[:2] + bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content + data[2:]


def without_jfif(data: bytes) -> bytes:
    return data[:2] + data[2 + 2 + int.from_bytes(data[4:6], "big") :]


ADOBE = b"Adobe\x00\x64\x00\x00\x00\x00"
FOR_THE_DEVICE = {
    "4:4:4": jpeg(picture(), subsampling=0),
    "4:2:2": jpeg(picture(), subsampling=1),
    "4:2:0": jpeg(picture(), subsampling=2),
    "4:4:0": opencv(cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440),
    "progressive": jpeg(picture(), progressive=True),
    "grey": jpeg(picture().convert("L")),
    "grey, progressive": jpeg(picture().convert("L"), progressive=True),
    "restart markers": jpeg(picture(), restart_marker_blocks=3),
    "a comment": jpeg(picture(), comment="a comment"),
    "a colour profile": jpeg(picture(), icc_profile=b"profile" * 20000),
    "Adobe's YCbCr": without_jfif(with_segment(jpeg(picture()), 0xEE, ADOBE + b"\x01")),
    "no head but tables": without_jfif(jpeg(picture())),
    "filling bytes": b"\xff\xd8" + b"\xff" * 3 + jpeg(picture())[2:],
} | {f"EXIF, turned by {n}": jpeg(picture(), exif=turned(n)) for n in range(1, 9)}
RGB = jpeg(picture(), keep_rgb=True)
FOR_THE_WORKER = {
    "CMYK": jpeg(picture().convert("CMYK")),
    "RGB": RGB,
    "RGB by name": without_jfif(RGB) if b"JFIF" in RGB else RGB,
    "Adobe's RGB": with_segment(jpeg(picture()), 0xEE, ADOBE + b"\x00"),
    "4:1:1": opencv(cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411),
    "cut": jpeg(picture())[:-40],
    "PNG": (lambda file: (picture().save(file, "PNG"), file.getvalue())[1])(io.BytesIO()),
    "nothing": b"",
    "no scan": jpeg(picture())[: frame_of(jpeg(picture())) + 30] + b"\xff\xd9",
    "extended": changed(jpeg(picture()), frame_of(jpeg(picture())) + 1, 0xC1),
    "no height": changed(changed(jpeg(picture()), frame_of(jpeg(picture())) + 5, 0), frame_of(jpeg(picture())) + 6, 0),
    "grey at double sampling": changed(jpeg(picture().convert("L")), frame_of(jpeg(picture().convert("L"))) + 11, 0x22),
}


@pytest.mark.parametrize("kind", FOR_THE_DEVICE)
def test_a_file_for_the_device_has_the_workers_pixels(kind):
    """By the decoder's library on the CPU, which turns by EXIF what it is given whole."""
    data = FOR_THE_DEVICE[kind]
    found = encoded.parse(data, "x.JPEG")
    assert found is not None
    assert (found.height, found.width) == (71, 97)
    pixels = decode_jpeg(torch.from_numpy(found.data), mode="RGB").permute(1, 2, 0).numpy()
    assert np.array_equal(pixels, images.decode(data, "x.JPEG"))
    assert len(found.data) <= len(data)


def test_what_no_decoder_needs_stays_behind():
    plain = len(encoded.parse(jpeg(picture()), "x").data)
    for options in ({"exif": turned(6)}, {"comment": "x" * 5000}, {"icc_profile": b"x" * 70000}):
        assert len(encoded.parse(jpeg(picture(), **options), "x").data) == plain


@pytest.mark.parametrize("kind", FOR_THE_WORKER)
def test_the_rest_is_the_workers(kind):
    assert encoded.parse(FOR_THE_WORKER[kind], "x.JPEG") is None


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_damage_is_the_workers_or_leaves_a_head(data):
    """Bytes flipped or cut anywhere: no other exception, and a size that is not of nothing."""
    whole = bytearray(data.draw(st.sampled_from(list(FOR_THE_DEVICE.values()))))
    for _ in range(data.draw(st.integers(0, 4))):
        whole[data.draw(st.integers(0, min(len(whole) - 1, 700)))] = data.draw(st.integers(0, 255))
    whole = bytes(whole[: data.draw(st.integers(0, len(whole)))]) + data.draw(st.sampled_from([b"", b"\xff\xd9"]))
    found = encoded.parse(whole, "x")
    if found is not None:
        assert found.height > 0 < found.width
        assert found.data[:2].tobytes() == b"\xff\xd8"
        assert found.data[-2:].tobytes() == b"\xff\xd9"


def test_reading_decides(tmp_path):
    (tmp_path / "b.JPEG").write_bytes(FOR_THE_WORKER["CMYK"])
    assert isinstance(encoded.read(FOR_THE_DEVICE["4:2:0"], "a.JPEG"), encoded.Jpeg)
    assert np.array_equal(encoded.read(FOR_THE_WORKER["CMYK"], "b.JPEG"), images.read(tmp_path / "b.JPEG"))
    with pytest.raises(UserError, match=r"c\.JPEG: not readable as an image"):
        encoded.read(FOR_THE_WORKER["cut"], "c.JPEG")
