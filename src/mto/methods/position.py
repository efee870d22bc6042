"""Position: fixed 2-D sine-cosine tables, relative biases, and moving position tables to another grid.

A table with a class token has shape (1, 1 + h·w, D), patches in raster order. A relative bias table has shape
((2h−1)·(2w−1) + 3, heads): one row per displacement, then class→token, token→class, class→class (BEiT's layout).
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

CLASS_ROWS = 3  # class→token, token→class, class→class, at the end of a relative table


def sincos_2d(dim: int, grid: Sequence[int], *, row_first: bool) -> Tensor:
    """Builds a fixed sine-cosine table, (1, 1 + h·w, dim); the class token's position is zero.

    Half of the channels encode one axis, half the other; in a half all sines come before all cosines, with frequencies
    10000^(−k / (dim/4)).

    Args:
        dim: width, a multiple of 4.
        grid: patches as (rows, columns).
        row_first: True: the first half encodes the row (BootMAE:models/modeling_pretrain_bootmae.py:384);
            False: the column (MAE:util/pos_embed.py:26).

    Raises:
        ValueError: if dim is not a multiple of 4.
    """
    if dim % 4:
        raise ValueError(f"a 2-D sine-cosine position needs a width divisible by 4, got {dim}: change embed_dim")
    rows, columns = (torch.arange(n, dtype=torch.float64) for n in grid)
    frequencies = 10000.0 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))

    def encode(index: Tensor) -> Tensor:  # (n,) -> (n, dim / 2)
        angles = torch.outer(index, frequencies)
        return torch.cat([angles.sin(), angles.cos()], dim=1)

    by_row = encode(rows).repeat_interleave(len(columns), dim=0)
    by_column = encode(columns).repeat(len(rows), 1)
    patches = torch.cat([by_row, by_column] if row_first else [by_column, by_row], dim=1)
    return torch.cat([torch.zeros(1, dim, dtype=torch.float64), patches])[None].float()


def resize_absolute(table: Tensor, grid: Sequence[int]) -> Tensor:
    """Resizes a square grid's absolute table (1, 1 + s·s, D) to `grid`, bicubically; the class row is kept.

    MAE:util/pos_embed.py:76 (no anti-aliasing, corners not aligned).
    """
    side = _square_side(table.shape[1] - 1, "position table")
    if (side, side) == tuple(grid):
        return table
    return torch.cat([table[:, :1], _bicubic(table[0, 1:].unflatten(0, (side, side)), grid)[None]], dim=1)


def stretch_relative(table: Tensor, grid: Sequence[int]) -> Tensor:
    """Resizes a square grid's relative bias table to `grid`, bicubically, as if it were an image.

    It stretches near displacements like far ones (MIMDet:models/benchmarking.py:711), unlike `resize_relative`. The
    three class rows are kept.
    """
    side = _square_side(len(table) - CLASS_ROWS, "relative bias table")
    size = [2 * n - 1 for n in grid]
    if size == [side, side]:
        return table
    return torch.cat([_bicubic(table[:-CLASS_ROWS].unflatten(0, (side, side)), size), table[-CLASS_ROWS:]])


def _bicubic(image: Tensor, size: Sequence[int]) -> Tensor:
    """Resizes (h, w, C) bicubically to (size[0]·size[1], C)."""
    channels_first = image.permute(2, 0, 1)[None].float()
    resized = F.interpolate(channels_first, size=tuple(size), mode="bicubic", align_corners=False)
    return resized[0].flatten(1).T.to(image.dtype)


def resize_relative(table: Tensor, grid: Sequence[int], *, source_grid: Sequence[int] | None = None) -> Tensor:
    """Moves a relative bias table to another grid as BEiT does (the same routine is in SimMIM:utils.py:217).

    The source rows are put at geometrically growing displacements whose last one is the edge of the new grid, and read
    at the new integer displacements by cubic-spline interpolation: near displacements stay put, far ones are stretched.
    The three class rows are kept.

    Args:
        table: ((2h−1)·(2w−1) + 3, heads).
        grid: the new (rows, columns).
        source_grid: (h, w); a square is assumed without it.
    """
    if source_grid is None:
        source_grid = ((_square_side(len(table) - CLASS_ROWS, "relative bias table") + 1) // 2,) * 2
    if tuple(source_grid) == tuple(grid):
        return table
    heads = table.shape[1]
    old = [2 * n - 1 for n in source_grid]
    new = [2 * n - 1 for n in grid]
    image = table[:-CLASS_ROWS].double().reshape(*old, heads)
    for axis in (0, 1):
        if old[axis] != new[axis]:
            weights = torch.from_numpy(_geometric_spline(old[axis], new[axis])).to(image)
            image = torch.movedim(torch.tensordot(weights, image, dims=([1], [axis])), 0, axis)
    return torch.cat([image.reshape(-1, heads).to(table.dtype), table[-CLASS_ROWS:]])


def _geometric_spline(source: int, target: int) -> np.ndarray:
    """Returns the (target, source) weights of BEiT's interpolation along one axis; both lengths are odd."""
    from scipy.interpolate import make_interp_spline  # a heavy import that only a change of grid needs

    half, edge = source // 2, target // 2
    low, high = 1.01, 1.5  # the growth ratio is bisected in this interval (SimMIM:utils.py:241)
    while high - low > 1e-6:
        ratio = (low + high) / 2
        if (1 - ratio**half) / (1 - ratio) > edge:
            high = ratio
        else:
            low = ratio
    steps = np.cumsum(ratio ** np.arange(half))
    knots = np.concatenate([-steps[::-1], [0.0], steps])
    spline = make_interp_spline(knots, np.eye(source), k=min(3, source - 1))
    # Displacements past the last knot take its value, as FITPACK's evaluation does.
    return spline(np.clip(np.arange(-edge, edge + 1, dtype=float), knots[0], knots[-1]))


def relative_bias(table: Tensor, grid: Sequence[int], part: Sequence[int] | None = None) -> Tensor:
    """Returns what a relative bias table adds to attention's logits: (heads, T, T), rows are queries, columns keys.

    timm's Beit looks every entry up by its index, and the gradient of that adds T² rows one by one. Here all is views
    until the last copy, and the gradient sums whole windows.

    Args:
        table: ((2h−1)·(2w−1), heads), or 3 rows longer where a class token comes before the grid's.
        grid: (h, w), of the table.
        part: a smaller grid, of the T tokens; it uses the displacements that it has.
    """
    (rows, columns), (h, w) = (2 * n - 1 for n in grid), part or grid
    up, left = grid[0] - h, grid[1] - w
    places = table[: rows * columns].unflatten(0, (rows, columns))[up : rows - up, left : columns - left]
    # bias[r, c, r', c'] = places[r - r' + h - 1, c - c' + w - 1]: windows of the table, read backwards.
    bias = places.unfold(0, h, 1).unfold(1, w, 1).flip(-2, -1)
    bias = bias.permute(2, 0, 1, 3, 4).reshape(-1, h * w, h * w)
    if len(table) == rows * columns:
        return bias
    to_token, to_class, to_itself = (row.view(-1, 1, 1) for row in table[-CLASS_ROWS:].unbind())
    heads, n, _ = bias.shape
    top = torch.cat([to_itself, to_token.expand(heads, 1, n)], dim=2)
    return torch.cat([top, torch.cat([to_class.expand(heads, n, 1), bias], dim=2)], dim=1)


def _square_side(count: int, what: str) -> int:
    side = math.isqrt(count)
    if side * side != count:
        raise ValueError(f"the {what} has {count} places, which is no square: only square source grids can be resized")
    return side
