"""Rotations, shears and shifts on the device, byte for byte those that Pillow gives.

In double precision and in the order of Pillow's Geometry.c, each operation a kernel of its own: this is never to be
compiled.
"""

import torch
from torch import Tensor

#: Images at a time: one plane of them is 40 MB at 224 x 224 pixels, and some twenty are needed.
AT_ONCE = 32


def warp(images: Tensor, turns: list[Tensor]) -> Tensor:
    """Moves those images of a batch that have moves, (B, H, W, 3) uint8, and returns all of them.

    Args:
        turns: of `mto.data.device.moves.by_turns`.
    """
    images = images.clone()
    for turn in turns:
        for moves in turn.split(AT_ONCE):
            which = moves[:, 0].long()
            images[which] = warped(images[which], moves[:, 1:])
    return images


def warped(images: Tensor, moves: Tensor) -> Tensor:
    """Applies Pillow's ``Image.transform``: an affine matrix, bicubic, and a colour for what comes from outside.

    Args:
        images: (n, H, W, 3) uint8.
        moves: (n, 9) float64: an output pixel's centre (x, y, 1) times the first and the second three numbers is its
            place in the image; the last three are the colour.
    """
    n, height, width, _ = images.shape
    a, b, c, d, e, f, *_ = moves[:, :, None, None].unbind(1)
    across = torch.arange(width, dtype=torch.float64, device=images.device) + 0.5
    down = torch.arange(height, dtype=torch.float64, device=images.device)[:, None] + 0.5
    x, y = a * across + b * down + c, d * across + e * down + f
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    x, y = x - 0.5, y - 0.5
    left, top = x.floor(), y.floor()
    right_of, below = (x - left).view(n, 1, -1), (y - top).view(n, 1, -1)
    planes = images.permute(0, 3, 1, 2).reshape(n, 3, -1)
    columns = [(left.long() + step).clamp_(0, width - 1) for step in (-1, 0, 1, 2)]
    rows = []
    for step in (-1, 0, 1, 2):
        row = (top.long() + step).clamp_(0, height - 1) * width
        rows.append(cubic([at(planes, row + column) for column in columns], right_of))
    values = cubic(rows, below).clamp_(0, 255).to(torch.uint8).view(n, 3, height, width)
    colour = moves[:, 6:, None, None].to(torch.uint8)
    return torch.where(inside[:, None], values, colour).permute(0, 2, 3, 1)


def at(planes: Tensor, places: Tensor) -> Tensor:
    """Gathers (n, 3, H * W) uint8 at (n, H, W) places: (n, 3, H * W) int16, which holds their differences."""
    return planes.gather(2, places.view(len(places), 1, -1).expand_as(planes)).short()


def cubic(values: list[Tensor], distance: Tensor) -> Tensor:
    """Interpolates between the middle two of four values, at a distance of 0 to 1 from the second; float64."""
    first, second, third, fourth = values
    linear = third - first
    square = (first - second).mul_(2).add_(third).sub_(fourth)
    cube = (second - first).sub_(third).add_(fourth)
    return (distance * cube).add_(square).mul_(distance).add_(linear).mul_(distance).add_(second)
