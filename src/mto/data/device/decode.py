"""Decoding on the device: the other half of `mto.data.device.encoded`.

TorchCodec decodes: on a GPU by nvJPEG, on a CPU by libjpeg-turbo, with the bits of `mto.data.images`. nvJPEG's pixels
are not libjpeg's to the last bit, nor is a GPU's resizing a CPU's: so this is a part of every job that trains on it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms import InterpolationMode

from mto.config.job import CroppedData, Job
from mto.data import images
from mto.data.device.encoded import Cuts
from mto.data.transforms import resize
from mto.errors import UserError

Batch = dict[str, Any]


class Decode:
    """Makes views of a batch of files: decoded, cut, resized and flipped on the device.

    Args:
        size: side of the views in pixels.
        interpolation: of resizing.
    """

    def __init__(self, size: int, interpolation: str) -> None:
        self.size = [size, size]
        self.interpolation = InterpolationMode(interpolation)
        self._works: set[torch.device] = set()

    @classmethod
    def of(cls, job: Job) -> Decode | None:
        """Builds it as the job's ``data`` says; None where workers decode."""
        data = job.data
        return (
            cls(job.img_size, data.interpolation) if isinstance(data, CroppedData) and data.decode == "device" else None
        )

    def __call__(self, cuts: Cuts, device: torch.device) -> Tensor:
        """Returns the views, (B, size, size, 3) uint8 on the device.

        Raises:
            UserError: TorchCodec is not there, or does not decode on the device; a file is no whole image.
        """
        data = cuts.data.split(cuts.lengths)
        waiting = [place for place, numbers in enumerate(cuts.numbers) if numbers]
        decoded = self._decode([data[place] for place in waiting], [cuts.paths[place] for place in waiting], device)
        pixels = dict(zip(waiting, decoded, strict=True))
        views = []
        for place, numbers in enumerate(cuts.numbers):
            if numbers:
                views.append(self.view(pixels.pop(place), numbers, cuts.paths[place]))
            else:
                views.append(data[place].view(*self.size, 3).to(device, non_blocking=True))
        return torch.stack(views)

    def view(self, pixels: Tensor, numbers: Sequence[int], path: str) -> Tensor:
        """Makes the view (size, size, 3) uint8 of a decoded image, (3, H, W) uint8.

        ``numbers`` are those of `mto.data.device.encoded.Cut`.

        Raises:
            UserError: the image has another size than its head said, by which the box was drawn.
        """
        *whole, top, left, height, width, flipped = numbers
        if list(pixels.shape[1:]) != whole:
            here = "×".join(map(str, pixels.shape[1:]))
            raise UserError(
                f"{path}: decoded to {here} pixels, but its head says {whole[0]}×{whole[1]}; "
                "set datasets.imagenet.decode: workers"
            )
        box = pixels[:, top : top + height, left : left + width].permute(1, 2, 0)
        resized = resize if pixels.device.type == "cpu" else resize_in_floats
        view = resized(box, self.size, self.interpolation)
        return view.flip(1) if flipped else view

    def _decode(self, files: list[Tensor], paths: list[str], device: torch.device) -> list[Tensor]:
        """Returns (3, H, W) uint8 of each file.

        Who decodes a file depends on nothing but the file: where the device's decoder refuses some of a batch, it is
        asked for each by itself, and the host decodes those alone that it refuses again.
        """
        if not files:
            return []
        codec = self._codec(device)
        try:
            return codec(files, mode="RGB", device=device)
        except RuntimeError as error:
            _only_refusals(error)
            return [self._one(codec, file, path, device) for file, path in zip(files, paths, strict=True)]

    def _one(self, codec: Callable[..., Any], file: Tensor, path: str, device: torch.device) -> Tensor:
        try:
            return codec(file, mode="RGB", device=device)
        except RuntimeError as error:
            _only_refusals(error)
            pixels = images.decode(file.numpy().tobytes(), path)
            print(f"{path}: decoded by the CPU, since the device's decoder refused it ({_words(error)})", flush=True)
            return torch.from_numpy(pixels).permute(2, 0, 1).to(device)

    def _codec(self, device: torch.device) -> Callable[..., Any]:
        """Returns TorchCodec's ``decode_jpeg``, tried on a small image when a device is first asked for.

        Raises:
            UserError: it is not there, or does not decode on the device.
        """
        try:
            from torchcodec.decoders import decode_jpeg

            if device not in self._works:
                decode_jpeg([_small()], mode="RGB", device=device)
                self._works.add(device)
        except Exception as error:
            raise UserError(
                f"datasets.imagenet.decode: device needs TorchCodec, which does not decode here ({_words(error)}); "
                "install it as envs/requirements.txt has it, or set decode: workers"
            ) from error
        return decode_jpeg


def _small() -> Tensor:
    """Makes a grey JPEG of 16 × 16 pixels."""
    import cv2

    return torch.from_numpy(cv2.imencode(".jpg", np.full((16, 16, 3), 128, np.uint8))[1].ravel())


def _only_refusals(error: RuntimeError) -> None:
    """Raises what has nothing to do with a file: too little memory, which nvJPEG calls status 5."""
    if re.search(r"out of memory|: 5$", _words(error)):
        raise error


def _words(error: Exception) -> str:
    """Returns the error's first line, without the place in TorchCodec that it begins with."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return re.sub(r"^.*\.(cpp|h):\d+, ", "", line)


def resize_in_floats(pixels: Tensor, size: list[int], interpolation: InterpolationMode) -> Tensor:
    """Resizes as `mto.data.transforms.resize` where torch resizes no bytes: it rounds once, and not twice."""
    planes = pixels.permute(2, 0, 1)[None].float()
    view = interpolate(planes, size, mode=interpolation.value, align_corners=False, antialias=True)
    return view[0].permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8)


def batches(loader: Iterable[Batch], model: Any, device: torch.device) -> Iterator[Batch]:
    """Returns a loader's batches for a model; where a GPU decodes their images, it decodes the next one's meanwhile."""
    decode: Decode | None = getattr(model.data_preprocessor, "decode", None)
    if decode is None or device.type != "cuda":
        return iter(loader)
    return ahead(iter(loader), on_own_stream(decode, device))


def ahead(batches: Iterator[Batch], decode: Callable[[Cuts], Tensor]) -> Iterator[Batch]:
    """Yields the batches, each with ``image`` for ``encoded``: a thread decodes the next one while one is trained on.

    A thread is enough: decoding is a wait for the GPU, or work of a library without Python's lock. It draws nothing and
    takes no batch from the loader, so that nothing depends on its pace. What it raises is raised here, in its turn.
    """

    def decoded(batch: Batch) -> Batch:
        return {**batch, "image": decode(batch["encoded"])}

    def ready(batch: Batch) -> Batch:
        del batch["encoded"]
        if batch["image"].is_cuda:  # made on another stream than it is used on: until then its memory stays its own
            batch["image"].record_stream(torch.cuda.current_stream(batch["image"].device))
        return batch

    with ThreadPoolExecutor(1) as thread:
        coming: Future[Batch] | None = None
        for batch in batches:
            following = thread.submit(decoded, batch)
            if coming:
                yield ready(coming.result())
            coming = following
        if coming:
            yield ready(coming.result())


def on_own_stream(decode: Decode, device: torch.device) -> Callable[[Cuts], Tensor]:
    """Returns ``decode`` for a thread beside the training: on a stream of its own, and done when it returns."""
    stream = torch.cuda.Stream(device)

    def decoded(cuts: Cuts) -> Tensor:
        with torch.cuda.stream(stream):
            views = decode(cuts, device)
        stream.synchronize()
        return views

    return decoded
