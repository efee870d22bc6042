"""A GPU that is not there: torch's fake tensors know their device and have no values."""

from typing import Any

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from mto.data.device.pixels import Pixels
from mto.data.device.recolour import Tables, hue_tables


def fake(mode: FakeTensorMode, value: Any) -> Any:
    """A batch as fake tensors, where it is."""
    if isinstance(value, Tensor):
        return mode.from_tensor(value)
    if isinstance(value, dict):
        return {name: fake(mode, each) for name, each in value.items()}
    return [fake(mode, each) for each in value] if isinstance(value, list) else value


def on_fake_gpu(mode: FakeTensorMode, pixels: Pixels) -> Pixels:
    """With what it keeps on the device already there, as after a first batch."""

    def moved(tensor: Tensor) -> Tensor:
        here = mode.from_tensor(tensor)
        with mode:
            return here.to("cuda")

    pixels.mean, pixels.scale = moved(pixels.mean), moved(pixels.scale)
    pixels.recolour.tables = Tables(*map(moved, hue_tables()))
    return pixels
