"""From a loader's bytes to a model's input, on the device: floats would be four times as much to make and to move."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mto.config.job import Job
from mto.data.device.decode import Decode
from mto.data.device.recolour import Recolour
from mto.data.device.warp import warp

IMAGES = ("image", "teacher_image")


class Pixels(nn.Module):
    """Moves a batch to the device; images, (B, H, W, 3) uint8, become (B, 3, H, W) float32, normalised by channel.

    What workers leave to the device is done here (`mto.data.imagenet.collate`): ``encoded``, the files that become
    ``image`` (their bytes stay on the host, where the decoder reads them); ``moves`` of the images; ``colours``,
    which become ``teacher_image``, the image in those colours; ``noise`` and ``box`` (`mto.data.transforms.Erasing`),
    where the noise replaces the normalised pixels of each image's box. Images that are floats already are left as they
    are.

    Args:
        mean, std: of the channels, in units of 255 grey levels.
        decode: of ``encoded``.
    """

    def __init__(
        self,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
        decode: Decode | None = None,
    ) -> None:
        super().__init__()
        # Not buffers: those are a model's state, and a probe's are averaged over ranks.
        self.mean = torch.tensor(mean).view(3, 1, 1) * 255
        self.scale = 1 / (torch.tensor(std).view(3, 1, 1) * 255)
        self.recolour = Recolour()
        self.decode = decode

    @classmethod
    def of(cls, job: Job) -> "Pixels":
        """Builds it from the job's ``data``: ``mean``, ``std``, maybe ``decode``."""
        return cls(job.data.mean, job.data.std, Decode.of(job))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Pixels":
        self.mean, self.scale = fn(self.mean), fn(self.scale)  # they move with the model
        return super()._apply(fn, recurse)

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        batch: Any = {name: self._moved(value) for name, value in data.items() if name != "encoded"}
        if self.decode is not None and "encoded" in data:
            batch["image"] = self.decode(data["encoded"], self.mean.device)
        if "moves" in batch:
            batch["image"] = warp(batch["image"], batch.pop("moves"))
        if "colours" in batch:
            colours = {name: batch.pop(name) for name in ("colours", "jittered", "blurred")}
            batch["teacher_image"] = self.recolour(batch["image"], **colours)
        for name in IMAGES:
            if name in batch and batch[name].dtype == torch.uint8:
                batch[name] = self.normalize(batch[name])
        if "noise" in batch:
            erase_(batch["image"], batch.pop("box"), batch.pop("noise"))
        return batch

    def _moved(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._moved(part) for part in value]
        return value.to(self.mean.device, non_blocking=True) if isinstance(value, Tensor) else value

    def normalize(self, pixels: Tensor) -> Tensor:
        """Normalises (B, H, W, 3) uint8 to (B, 3, H, W) float32: (pixels / 255 - mean) / std, in two operations."""
        planes = pixels.permute(0, 3, 1, 2)
        out = torch.empty(planes.shape, dtype=torch.float32, device=pixels.device)
        return torch.sub(planes, self.mean, out=out).mul_(self.scale)


def erase_(images: Tensor, boxes: Tensor, noise: Tensor) -> None:
    """Writes noise over a box of each image, in place, as one operation that needs no value of the device on the host.

    Args:
        images: (B, 3, H, W).
        boxes: (B, 4), top, left, height and width; a height of 0 is no box.
        noise: (3 * the boxes' pixels,), of image after image, in each channel by channel.
    """
    top, left, height, width = boxes.T[..., None]
    rows = torch.arange(images.shape[2], device=images.device)
    columns = torch.arange(images.shape[3], device=images.device)
    inside_rows = (rows >= top) & (rows < top + height)
    inside_columns = (columns >= left) & (columns < left + width)
    images.masked_scatter_((inside_rows[:, :, None] & inside_columns[:, None, :])[:, None], noise)
