"""Training images decoded and shrunk once, for those whose cores are few: `datasets.imagenet.cache` in config.yaml.

Decoding is more than half of what a training image costs a core. The dataset's job can do it beforehand: an image whose
shorter side is longer than ``side`` is shrunk to it, any other stays as it is, and both are kept as bytes. Pixels of
shrunk images are then resampled twice, so that a cache is a part of every job that trains on it. Evaluation reads the
images themselves.

A cache is a folder of shards, each of 1,024 images in the listing's order: heights and widths first, then the pixels.
A killed job keeps the shards that it had finished.
"""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mto.config.parts import Cache as CacheSettings
from mto.data.bad_files import limits
from mto.data.forms.form import File, Member, Piece
from mto.data.images import decode, size_of
from mto.data.listing import Images, Listing
from mto.data.progress import over_processes
from mto.errors import UserError
from mto.files import read_json, replacing, write_json
from mto.storage import again

SHARD = 1024
#: How many images are asked for their bytes.
SIZES = 64
#: What the cache holds; written last.
RECORD = "cache.json"
MAKING = "making.json"
AGAIN = "remove this cache and the dataset's manifest.json, and run again"


def folder_of(scale: str, cache: CacheSettings, beside: Path) -> Path:
    """Returns where the cache of a dataset's job lies: in the folder that the config names, else beside the manifest.

    Scales may name one folder, and differ in their images: each has its own in it, since `build` replaces another's.
    """
    return (Path(cache.folder) / scale if cache.folder else beside) / f"cache-{cache.side}"


class Cache:
    """The images of one cache: ``cache[index]`` is (H, W, 3) uint8 in RGB, or None for a file that could not be read.

    Args:
        folder: of the shards.
        root: of the images, as their listing has it.
        listing: of the images, as they are now.

    Raises:
        UserError: there is no whole cache of just these images.
    """

    def __init__(self, folder: Path, root: Path, listing: Listing) -> None:
        self.folder = folder
        found = read_json(folder / RECORD)
        if found is None:
            raise UserError(f"{folder}: no whole cache of images; {AGAIN}")
        if difference := _difference(found["images"], _identity(root, listing)):
            raise UserError(f"{folder}: {difference}; {AGAIN}")
        self.count = len(listing.names)
        starts = range(0, self.count, SHARD)
        sizes = [self._numbers(start, "<i4", 2 * self._images(start), 0).reshape(-1, 2) for start in starts]
        self.sizes = np.concatenate(sizes)
        #: Where each image begins: bytes from the beginning of its shard.
        self.offsets = np.concatenate([_offsets(each) for each in sizes])

    def __getitem__(self, index: int) -> np.ndarray | None:
        height, width = self.sizes[index].tolist()
        if not height:  # could not be read
            return None
        pixels = self._numbers(index - index % SHARD, "u1", 3 * height * width, int(self.offsets[index]))
        return pixels.reshape(height, width, 3)

    def _images(self, start: int) -> int:
        return min(SHARD, self.count - start)

    def _numbers(self, start: int, kind: str, count: int, offset: int) -> np.ndarray:
        """Reads numbers of type ``kind`` from byte ``offset`` on of the shard that begins with image ``start``.

        The file is opened every time, so that the loader's workers need not be handed one.
        """
        path = f"{self.folder}/{_name(start)}"
        found = np.empty(count, kind)
        try:
            read = again(lambda: _fill(found, path, offset), path)
        except OSError as error:
            raise UserError(f"{path}: {error.strerror or error}; {AGAIN}") from error
        if read != found.nbytes:
            raise UserError(f"{path}: damaged, cut off; {AGAIN}")
        return found


def build(folder: Path, side: int, root: Path, listing: Listing, workers: int) -> None:
    """Makes the cache of the images below ``root``, or what is missing of it.

    Raises:
        UserError: an image cannot be read and the config passes over none; the disk is too small.
    """
    wanted = {"images": _identity(root, listing), "side": side}
    if _is_of(read_json(folder / RECORD), wanted):
        return
    if not _is_of(read_json(folder / MAKING), wanted):
        shutil.rmtree(folder, ignore_errors=True)
        write_json(folder / MAKING, wanted)
    images = Images(root, listing)
    missing = [start for start in range(0, len(images), SHARD) if not _shard(folder, start).exists()]
    _check_disk(folder, side, images, missing)
    parts = [
        (_shard(folder, start), [images[place] for place in range(start, min(start + SHARD, len(images)))])
        for start in missing
    ]
    work = partial(_write, side=side, spare=limits().get("imagenet", 0) > 0)
    for _ in over_processes(f"cache of {side} pixels", work, parts, [len(part) for _, part in parts], workers):
        pass
    (folder / MAKING).replace(folder / RECORD)


def _is_of(found: dict[str, Any] | None, wanted: dict[str, Any]) -> bool:
    return found is not None and found["side"] == wanted["side"] and not _difference(found["images"], wanted["images"])


def _write(part: tuple[Path, list[Member]], side: int, spare: bool) -> None:
    """Writes one shard. An image that cannot be read has no pixels in it, if ``spare``."""
    import torch
    from torchvision.transforms import InterpolationMode

    from mto.data.transforms import resize

    torch.set_num_threads(1)
    target, members = part
    sizes = np.zeros((len(members), 2), "<i4")
    with replacing(target) as temporary, temporary.open("wb") as file:
        sizes.tofile(file)
        for place, member in enumerate(members):
            try:
                pixels = decode(member.read(), member.path)
            except UserError:
                if not spare:
                    raise
                continue
            height, width = pixels.shape[:2]
            if min(height, width) > side:
                size = [max(side, round(length * side / min(height, width))) for length in (height, width)]
                pixels = resize(torch.from_numpy(pixels), size, InterpolationMode.BICUBIC).numpy()
            sizes[place] = pixels.shape[:2]
            np.ascontiguousarray(pixels).tofile(file)
        file.seek(0)
        sizes.tofile(file)


def _check_disk(folder: Path, side: int, images: Images, missing: list[int]) -> None:
    """Estimates the bytes of the missing shards from the sizes of some two hundred images.

    Raises:
        UserError: the disk is too small for the shards that are missing.
    """
    places = range(0, len(images), max(len(images) // 200, 1))
    some = [size for place in places if (size := size_of(images[place]))]
    areas = [width * height * min(1.0, side / min(width, height)) ** 2 for width, height in some]
    count = min(SHARD * len(missing), len(images))
    needed = 3 * count * sum(areas) / max(len(areas), 1) / 1e9
    free = shutil.disk_usage(folder).free / 1e9
    if needed > free:
        raise UserError(
            f"{folder}: the cache of {count} images takes some {needed:,.0f} GB, and {free:,.0f} GB are free; name a "
            "folder on another disk, datasets.imagenet.cache.folder in config.yaml, or a smaller side"
        )


def _fill(array: np.ndarray, path: str, offset: int) -> int:
    """Reads a file from ``offset`` on into ``array``, and returns the bytes that it had. NumPy's own hides an error."""
    with open(path, "rb") as file:
        file.seek(offset)
        return file.readinto(array.data.cast("B"))


def _shard(folder: Path, start: int) -> Path:
    return folder / _name(start)


def _name(start: int) -> str:
    return f"{start:08d}.bin"


def _offsets(sizes: np.ndarray) -> np.ndarray:
    """Returns where each image of a shard begins: heights and widths come first, 8 bytes an image, then all pixels."""
    bytes_each = 3 * sizes.astype(np.int64).prod(axis=1)
    return 8 * len(sizes) + bytes_each.cumsum() - bytes_each


def _identity(folder: Path, listing: Listing) -> dict[str, Any]:
    """Identifies the images: by a digest of their names, their number, and the bytes of some of them.

    A copy of a dataset has other times of change, and may be of another form: its images are the same. Bytes are asked
    for where that takes no reading of them; of a row of parquet there are none.
    """
    images = Images(folder, listing)
    some = [images[place] for place in range(0, len(images), max(len(images) // SIZES, 1))]
    return {"names": listing.content, "count": len(images), "bytes": [_bytes(member) for member in some]}


def _bytes(member: Member) -> int | None:
    if isinstance(member, File):
        return again(Path(member.path).stat, member.path).st_size
    return member.size if isinstance(member, Piece) else None


def _difference(made: Any, now: dict[str, Any]) -> str | None:
    """Says in what a cache's images differ from those of now; None if in nothing."""
    if not isinstance(made, dict) or made.keys() != now.keys():
        return "made by another version"
    if made["count"] != now["count"]:
        return f"made of {made['count']:,} images, but there are {now['count']:,} now"
    if made["names"] != now["names"]:
        return "made of images of other names than those that are there now"
    if any(a != b for a, b in zip(made["bytes"], now["bytes"], strict=True) if None not in (a, b)):
        return "made of images of the same names, but of other sizes than now"
    return None
