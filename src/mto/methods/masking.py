"""Mask samplers: each call draws one image's mask, (N,) bool, True = masked, from a torch.Generator.

All counts are constant (`num_masked`) except the block sampler's, which stops after ten vain attempts as BEiT's does.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor


@dataclass(frozen=True)
class RandomMask:
    """Uniformly random patches, as many as MAE removes: N − ⌊N·(1 − ratio)⌋ (MAE:models_mae.py:130)."""

    grid: tuple[int, int]
    ratio: float

    @property
    def num_masked(self) -> int:
        patches = self.grid[0] * self.grid[1]
        return patches - int(patches * (1 - self.ratio))

    def __call__(self, generator: Generator) -> Tensor:
        patches = self.grid[0] * self.grid[1]
        mask = torch.zeros(patches, dtype=torch.bool)
        mask[torch.randperm(patches, generator=generator)[: self.num_masked]] = True
        return mask


@dataclass(frozen=True)
class CellMask:
    """Random square cells of `scale`×`scale` patches, ⌈ratio · cells⌉ of them (SimMIM:data/data_simmim.py:21)."""

    grid: tuple[int, int]
    ratio: float
    scale: int

    def __post_init__(self) -> None:
        if any(side % self.scale for side in self.grid):
            raise ValueError(f"mask cell_size: cells of {self.scale} patches do not tile a grid of {self.grid} patches")

    @property
    def cells(self) -> tuple[int, int]:
        return self.grid[0] // self.scale, self.grid[1] // self.scale

    @property
    def num_masked(self) -> int:
        return math.ceil(self.cells[0] * self.cells[1] * self.ratio) * self.scale**2

    def __call__(self, generator: Generator) -> Tensor:
        rows, columns = self.cells
        mask = torch.zeros(rows * columns, dtype=torch.bool)
        mask[torch.randperm(rows * columns, generator=generator)[: self.num_masked // self.scale**2]] = True
        return mask.view(rows, 1, columns, 1).expand(rows, self.scale, columns, self.scale).flatten()


@dataclass(frozen=True)
class BlockMask:
    """BEiT's blocks: rectangles of random area and aspect ratio until `block_patches` are masked.

    Areas are uniform in [min_block, min(max_block, what is left)], aspect ratios log-uniform in [0.3, 1/0.3].
    (ConMIM:masking_generator.py:12.)

    Attributes:
        attempts: give up, and return fewer patches, after so many rectangles in a row that do not fit (BEiT: 10);
            None: never (BootMAE:masking_generator.py:57), so the count is always `block_patches`.
    """

    grid: tuple[int, int]
    block_patches: int
    min_block: int
    max_block: int
    attempts: int | None = 10

    def __post_init__(self) -> None:
        side = min(self.grid) - 1  # a rectangle must be smaller than the grid along both axes
        if not 1 <= self.min_block <= min(self.max_block, side * side):
            raise ValueError(
                f"mask min_block: {self.min_block} must be at least 1, at most max_block = {self.max_block}, "
                f"and at most {side * side} on a grid of {self.grid} patches"
            )
        if not 1 <= self.block_patches < self.grid[0] * self.grid[1]:
            raise ValueError(f"mask block_patches: {self.block_patches} must leave a patch of the {self.grid} visible")

    @property
    def num_masked(self) -> int | None:
        return self.block_patches if self.attempts is None else None

    def __call__(self, generator: Generator) -> Tensor:
        patches, draws = self.grid[0] * self.grid[1], FourAtATime(generator)
        mask, left = 0, self.block_patches
        while left > 0:
            block = self._block(mask, min(left, self.max_block), draws)
            if block == 0:
                break
            left -= (block & ~mask).bit_count()
            mask |= block
        draws.end()
        packed = np.frombuffer(mask.to_bytes(-(-patches // 8), "little"), dtype=np.uint8)
        return torch.from_numpy(np.unpackbits(packed, count=patches, bitorder="little").view(bool))

    def _block(self, mask: int, most: int, draws: "FourAtATime") -> int:
        """Returns a rectangle that adds 1 to `most` patches to a mask, or 0 when all attempts failed.

        Both are whole numbers whose bits are the patches, a tenth of the time of arrays this small.
        """
        height, width = self.grid
        log_aspect = math.log(0.3)
        attempt = 0
        while self.attempts is None or attempt < self.attempts:
            attempt += 1
            area, aspect, top, left = draws.next()
            # When less than min_block is left, the bounds change places, as in Python's random.uniform.
            area = self.min_block + area * (most - self.min_block)
            aspect = math.exp(log_aspect - 2 * aspect * log_aspect)
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if h >= height or w >= width:
                continue
            top, left = int(top * (height - h + 1)), int(left * (width - w + 1))
            first_column = ((1 << h * width) - 1) // ((1 << width) - 1)  # a bit a row
            block = (first_column * ((1 << w) - 1)) << (top * width + left)
            if 0 < (block & ~mask).bit_count() <= most:
                return block
        return 0


class FourAtATime:
    """Gives ``torch.rand(4, dtype=float64)`` of a generator again and again, drawn in advance: a third of the cost."""

    def __init__(self, generator: Generator) -> None:
        self.generator = generator
        self.start = generator.get_state()
        self.drawn: list[list[float]] = []
        self.used = 0

    def next(self) -> list[float]:
        if self.used == len(self.drawn):
            self.drawn += torch.rand(32, 4, generator=self.generator, dtype=torch.float64).tolist()
        self.used += 1
        return self.drawn[self.used - 1]

    def end(self) -> None:
        """Sets the generator to where it would be had only the numbers been drawn that were used."""
        self.generator.set_state(self.start)
        torch.rand(self.used, 4, generator=self.generator, dtype=torch.float64)


@dataclass(frozen=True)
class BlockRandomMask:
    """BootMAE's two stages: blocks, then random others up to the ratio (BootMAE:utils.py:596, run_pretraining.py:397).

    The patches are put in random order with the blocks' last, the order is turned by r in {0, 1, 2, 3}, and the first V
    are visible: so r patches of the blocks are visible. Officially r is drawn once a local batch; here once an image,
    because masks are a function of the image's own generator: each image's distribution is the same.
    """

    blocks: BlockMask
    ratio: float

    def __post_init__(self) -> None:
        if self.num_masked < self.blocks.block_patches:
            raise ValueError(
                f"mask block_patches: {self.blocks.block_patches} is more than ratio {self.ratio} masks in all, "
                f"{self.num_masked}"
            )

    @property
    def num_masked(self) -> int:
        return RandomMask(self.blocks.grid, self.ratio).num_masked

    def __call__(self, generator: Generator) -> Tensor:
        blocks = self.blocks(generator)
        order = (torch.rand(len(blocks), generator=generator) + blocks).argsort().numpy()
        turn = int(torch.randint(4, (), generator=generator))
        mask = np.ones(len(blocks), dtype=bool)
        mask[order[np.arange(-turn, len(blocks) - self.num_masked - turn)]] = False
        return torch.from_numpy(mask)


MaskSampler = RandomMask | CellMask | BlockMask | BlockRandomMask


def build_mask_sampler(
    img_size: int | tuple[int, int],
    patch_size: int,
    *,
    sampler: str,
    ratio: float | None = None,
    cell_size: int = 32,
    block_patches: int | None = None,
    min_block: int | None = None,
    max_block: int | None = None,
) -> MaskSampler:
    """Builds the sampler of a job's `mask`.

    Args:
        img_size: pixels.
        patch_size: pixels.
        sampler: "random" (MAE), "cells" (SimMIM, ConMIM's random_mps32), "block" (BEiT, ConMIM's block) or
            "block_random" (BootMAE).
        ratio: share of masked patches; for "block" it gives block_patches where that is absent.
        cell_size: side of a cell in pixels, for "cells".
        block_patches, min_block, max_block: counts of patches. Absent, the official values of a 14×14 grid in
            proportion: 120 (BootMAE) or 75 (ConMIM), 16, and 60 (BootMAE) or no limit (ConMIM).

    Raises:
        ValueError: on values that do not fit the grid.
    """
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    if height % patch_size or width % patch_size:
        raise ValueError(f"img_size {img_size} is not a multiple of patch_size {patch_size}")
    grid = (height // patch_size, width // patch_size)
    patches = grid[0] * grid[1]

    def in_proportion(official: int) -> int:
        return max(1, round(official * patches / 196))

    if sampler == "block":
        count = block_patches or (int(ratio * patches) if ratio else in_proportion(75))
        return BlockMask(grid, count, min_block or min(count, in_proportion(16)), max_block or count)
    if ratio is None or not 0 < ratio < 1:
        raise ValueError(f"mask ratio: {ratio} must lie between 0 and 1 for sampler '{sampler}'")
    match sampler:
        case "random":
            return RandomMask(grid, ratio)
        case "cells":
            if cell_size % patch_size:
                raise ValueError(f"mask cell_size: {cell_size} is not a multiple of patch_size {patch_size}")
            return CellMask(grid, ratio, cell_size // patch_size)
        case "block_random":
            blocks = BlockMask(
                grid,
                block_patches or in_proportion(120),
                min_block or in_proportion(16),
                max_block or in_proportion(60),
                attempts=None,
            )
            return BlockRandomMask(blocks, ratio)
    raise ValueError(f"mask sampler: '{sampler}' is none of random, cells, block, block_random")
