"""RandAugment's rotations, shears and shifts as numbers: what of them comes last is left to the device.

Pillow's bicubic resampling of a whole image is two thirds of RandAugment's time. A worker notes such moves as long as
nothing else follows, since what follows wants pixels, and hands over the image unmoved; `mto.data.device.warp`
moves it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

#: timm's names of the operations that move pixels.
MOVES = {"Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY", "TranslateXRel", "TranslateYRel"}
#: A move: where an output pixel comes from (Pillow's six numbers), and the colour of what comes from outside.
NUMBERS = 6 + 3


class View:
    """Stands in for an image in timm's operations: of those that move pixels, it notes how.

    Args:
        pixels: (H, W, 3) uint8.
    """

    def __init__(self, pixels: Tensor) -> None:
        self.pixels: Tensor = pixels
        self.moves: list[tuple[float, ...]] = []
        self.height, self.width, _ = pixels.shape
        self.size = self.width, self.height

    def transform(
        self,
        size: tuple[int, int],
        method: Image.Transform,
        data: Sequence[float],
        resample: Image.Resampling,
        fillcolor: tuple[int, int, int],
    ) -> "View":
        """Stands in for Pillow's `Image.transform`; a bicubic affine transform to the same size is only noted."""
        if (size, method, resample) == (self.size, Image.Transform.AFFINE, Image.Resampling.BICUBIC):
            self.moves.append((*data, *fillcolor))
        else:
            self.apply(lambda image: image.transform(size, method, data, resample, fillcolor=fillcolor))
        return self

    rotate: Any = Image.Image.rotate  # arithmetic, and a call of `transform` or, by whole quarters, of one of these

    def copy(self) -> "View":
        return self

    def transpose(self, method: Image.Transpose) -> "View":
        return self.apply(lambda image: image.transpose(method))

    def apply(self, operation: Callable[[Image.Image], Image.Image]) -> "View":
        """Carries out the moves noted, and then an operation on pixels."""
        image = Image.fromarray(self.pixels.numpy())
        for move in self.moves:
            matrix, colour = move[:6], tuple(map(int, move[6:]))
            image = image.transform(
                self.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=colour
            )
        self.moves = []
        self.pixels = torch.from_numpy(np.array(operation(image)))
        return self

    def noted(self) -> Tensor:
        """Returns the moves noted, (moves, NUMBERS) float64, in their order."""
        return torch.tensor(self.moves, dtype=torch.float64).view(len(self.moves), NUMBERS)


def on_views(ops: Sequence[Any]) -> np.ndarray:
    """Returns timm's operations (`AugmentOp`), now for a `View`; as an array, which NumPy would make at each draw."""
    for op in ops:
        if op.name not in MOVES:
            op.aug_fn = OnPixels(op.aug_fn)
    return np.array(ops, dtype=object)


class OnPixels:
    """An operation of timm's on pixels, for a `View`.

    It is a class, since it travels to loader workers that are started afresh.
    """

    def __init__(self, operation: Callable[..., Image.Image]) -> None:
        self.operation = operation

    def __call__(self, view: View, *args: Any, **kwargs: Any) -> View:
        return view.apply(lambda image: self.operation(image, *args, **kwargs))


def by_turns(noted: Sequence[Tensor]) -> list[Tensor]:
    """Sorts a batch's moves: the first ones of all images that have one, then the second ones, and so on.

    Args:
        noted: `View.noted` of each image.

    Returns:
        (images, 1 + NUMBERS) float64 each: an image's place in the batch, then its move.
    """
    lists = [moves.tolist() for moves in noted]
    return [
        torch.tensor(
            [[place, *moves[turn]] for place, moves in enumerate(lists) if len(moves) > turn], dtype=torch.float64
        )
        for turn in range(max(map(len, lists)))
    ]
