"""The masked and visible tokens of a batch, and the blocks of an affinity that they cut out."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Cut(NamedTuple):
    """Masked rows and visible columns of each image's affinity, M x V of T x T, and where each token is found there.

    Attributes:
        rows, cols: (B, M) and (B, V) patches.
        place: (B, N) of each patch, in the rows and then the columns.
        shape: (B, M, V).
        entries: the block's B * M * V places in the flattened matrices (B, T, T).
        places: the matrices' B * T * T places in the flattened block, to which a first row and a first column were
            added for what is not in it.
    """

    rows: Tensor
    cols: Tensor
    place: Tensor
    shape: tuple[int, int, int]
    entries: Tensor
    places: Tensor


class Block(NamedTuple):
    """Rows and columns of an affinity that go together.

    Attributes:
        skip: tokens T - N that come before the patches in the matrices it is taken from.
        cut: what is cut out of them; None: all N patches, both ways.
        blocked: (1 | B, N, N) bool, columns that must not count; or None.
        emptied: whether that may leave a row without a column.
    """

    skip: int
    cut: Cut | None
    blocked: Tensor | None
    emptied: bool

    def at(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the rows' (L, B, R) and the columns' (L, B, C) of the patches' values (L, B, N)."""
        if self.cut is None:
            return values, values
        rows, cols = (index.expand(len(values), -1, -1) for index in self.cut[:2])
        return values.gather(-1, rows), values.gather(-1, cols)

    def to_patches(self, by_row: Tensor, by_col: Tensor | None) -> Tensor:
        """Returns (L, B, N): what each patch has in rows (L, B, R) and in columns (L, B, C), added."""
        if self.cut is None:
            return by_row if by_col is None else by_row + by_col
        if by_col is None:
            by_col = by_row.new_zeros(*by_row.shape[:-1], self.cut.cols.shape[1])
        place = self.cut.place.expand(len(by_row), -1, -1)
        return torch.cat([by_row, by_col], dim=-1).gather(-1, place)


class Partition:
    """The masked and visible tokens of a batch, without synchronising a GPU.

    With a known, equal count, masked rows and visible columns are cut out of an affinity, a quarter of it at most. All
    else is the whole N x N affinity: unwanted columns are blocked, and unwanted rows given weight 0.
    """

    def __init__(self, mask: Tensor, num_masked: int | None):
        self.mask, self.visible, self.num_masked = mask, ~mask, num_masked
        self.num_tokens = mask.shape[1]
        self._cuts: dict[int, Cut] = {}

    def block(self, rows: str, cols: str, exclude_self: bool = False, skip: int = 0) -> Block:
        """Returns the block of an affinity with these rows and columns.

        Args:
            rows: "masked" or "visible".
            cols: "visible" or "all".
            exclude_self: leave out the column of the row's own token.
            skip: tokens that come before the patches in the matrices it is taken from.
        """
        if self.num_masked is not None and (rows, cols) == ("masked", "visible"):
            if skip not in self._cuts:
                self._cuts[skip] = self._cut(self.num_masked, skip)
            return Block(skip, self._cuts[skip], None, False)
        blocked = self.mask[:, None, :] if cols == "visible" else None
        if exclude_self:
            own = torch.eye(self.num_tokens, dtype=torch.bool, device=self.mask.device)[None]
            blocked = own if blocked is None else blocked | own
        return Block(skip, None, blocked, exclude_self and cols == "visible")

    def _cut(self, count: int, skip: int) -> Cut:
        order = self.mask.byte().argsort(dim=1, descending=True, stable=True)  # masked first
        rows, cols = order[:, :count], order[:, count:]
        shape = (len(rows), rows.shape[1], cols.shape[1])
        width = skip + self.num_tokens
        entries = _flat(rows, cols, width, width * width, skip * (width + 1))
        row, col = (chosen.cumsum(1, dtype=torch.int32) * chosen for chosen in (self.mask, self.visible))
        places = _flat(row, col, shape[2] + 1, (shape[1] + 1) * (shape[2] + 1), 0)
        if skip:  # the first place of all is one that was added, too
            places = F.pad(places.unflatten(0, (len(rows), -1, self.num_tokens)), (skip, 0, skip, 0)).flatten()
        return Cut(rows, cols, order.argsort(dim=1), shape, entries, places)

    def total(self, values: Tensor, rows: str) -> Tensor:
        """Returns the sum (..., B) of values (..., B, R) over the given rows; R = N are the values of all rows."""
        if values.shape[-1] == self.num_tokens:
            values = values * (self.mask if rows == "masked" else self.visible)
        return values.sum(-1)

    def mean(self, values: Tensor, rows: str) -> Tensor:
        """Returns the mean (..., B) of values (..., B, R) over the given rows; R = N are the values of all rows."""
        if values.shape[-1] < self.num_tokens:
            return values.mean(-1)
        if self.num_masked is None:
            return self.total(values, rows) / (self.mask if rows == "masked" else self.visible).sum(1)
        return self.total(values, rows) / (self.num_masked if rows == "masked" else self.num_tokens - self.num_masked)

    def log_visible(self) -> Tensor | float:
        """Returns ln V, a number when the count is known, else (B,)."""
        if self.num_masked is not None:
            return math.log(self.num_tokens - self.num_masked)
        return self.visible.sum(1).log()


def _flat(rows: Tensor, cols: Tensor, width: int, size: int, start: int) -> Tensor:
    """Returns the flat places of rows (B, R) x columns (B, C) in B flattened matrices of ``size`` and ``width``."""
    first = torch.arange(start, start + len(rows) * size, size, dtype=rows.dtype, device=rows.device)[:, None]
    return (torch.add(first, rows, alpha=width)[:, :, None] + cols[:, None, :]).flatten()
