"""A relative position bias that pre-trained BEiT tables load into, for any grid, without an N x N index."""

import torch
from torch import Tensor, nn

from mto.methods.position import CLASS_ROWS, relative_bias, resize_relative, stretch_relative

Grid = tuple[int, int]


class RelativePositionBias(nn.Module):
    """A learnable bias per head and displacement, zero until a pre-trained table is loaded.

    Args:
        grid: the largest grid (h, w) of tokens it serves. A smaller one uses the displacements that it has.
        heads: attention heads.
        class_token: whether a class token comes before the grid; it has three biases per head: class to token, token to
            class, class to class (BEiT's last three rows).
    """

    def __init__(self, grid: Grid, heads: int, *, class_token: bool) -> None:
        super().__init__()
        self.grid = grid
        self.class_token = class_token
        rows = (2 * grid[0] - 1) * (2 * grid[1] - 1) + CLASS_ROWS * class_token
        self.table = nn.Parameter(torch.zeros(rows, heads))

    def load(self, table: Tensor, *, stretch: bool = False) -> None:
        """Starts from a pre-trained table of a square grid, with its 3 class rows, dropped without a class token.

        Args:
            stretch: resize it like an image (MIMDet), not by BEiT's interpolation, which keeps near displacements.
        """
        table = (stretch_relative if stretch else resize_relative)(table, self.grid)
        self.table.data.copy_(table if self.class_token else table[:-CLASS_ROWS])

    def forward(self, grid: Grid) -> Tensor:
        """Returns the bias (heads, N, N) to add to logits of N = [1 +] h·w tokens; rows are queries, columns keys."""
        (h, w), (max_h, max_w) = grid, self.grid
        if h > max_h or w > max_w:
            raise ValueError(
                f"a grid of {h}x{w} tokens does not fit the relative positions of {max_h}x{max_w}; raise image_size"
            )
        return relative_bias(self.table, self.grid, grid)
