"""Samplers: counts, shapes, the statistics of the official generators, reproducibility, errors."""

import math

import pytest
import torch

from mto.methods.bootmae import BootMAE
from mto.methods.masking import BlockMask, BlockRandomMask, build_mask_sampler

OFFICIAL = {
    "simmim": ({"sampler": "cells", "ratio": 0.6, "cell_size": 32}, 120),
    "mae": ({"sampler": "random", "ratio": 0.75}, 147),
    "bootmae": ({"sampler": "block_random", "ratio": 0.75}, 147),
    "conmim": ({"sampler": "cells", "ratio": 0.75, "cell_size": 32}, 148),
}


def draw(count: int, img_size=224, patch_size: int = 16, **mask) -> torch.Tensor:
    sampler = build_mask_sampler(img_size, patch_size, **mask)
    generator = torch.Generator().manual_seed(0)
    return torch.stack([sampler(generator) for _ in range(count)])


@pytest.mark.parametrize("baseline", OFFICIAL)
def test_official_counts(baseline: str) -> None:
    mask, masked = OFFICIAL[baseline]
    masks = draw(50, **mask)
    assert masks.shape == (50, 196)
    assert masks.dtype == torch.bool
    assert (masks.sum(1) == masked).all()
    assert build_mask_sampler(224, 16, **mask).num_masked == masked


@pytest.mark.parametrize("mask", [mask for mask, _ in OFFICIAL.values()] + [{"sampler": "block"}], ids=str)
def test_a_mask_is_a_function_of_its_generator(mask: dict) -> None:
    sampler = build_mask_sampler(224, 16, **mask)
    a, b, c = (sampler(torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.parametrize("sampler", ["random", "cells"])
def test_every_patch_is_masked_equally_often(sampler: str) -> None:
    frequency = draw(4000, sampler=sampler, ratio=0.6, cell_size=32).float().mean(0)
    assert frequency.min() > frequency.mean() - 0.04
    assert frequency.max() < frequency.mean() + 0.04


def test_cells_are_masked_whole() -> None:
    cells = draw(20, sampler="cells", ratio=0.6, cell_size=32).view(20, 7, 2, 7, 2).float()
    assert torch.equal(cells.amax((2, 4)), cells.amin((2, 4)))


def test_blocks_have_the_statistics_of_beit() -> None:
    """At most 75, mean 74.4, exactly 75 in 65 % of draws (ConMIM's generator with its default arguments)."""
    counts = draw(3000, sampler="block").sum(1).float()
    assert build_mask_sampler(224, 16, sampler="block").num_masked is None
    assert counts.max() == 75
    assert counts.mean().item() == pytest.approx(74.4, abs=0.1)
    assert (counts == 75).float().mean().item() == pytest.approx(0.65, abs=0.04)


def test_bootmae_blocks_are_120_and_give_the_official_weight_map() -> None:
    sampler = build_mask_sampler(224, 16, sampler="block_random", ratio=0.75)
    generator = torch.Generator().manual_seed(0)
    assert {int(sampler.blocks(generator).sum()) for _ in range(100)} == {120}
    masks = torch.stack([sampler(generator) for _ in range(600)])
    weight = BootMAE(embed_dim=24, depth=1, decoder_embed_dim=24).loss_weight(masks) * masks.float().mean()
    assert (weight[~masks] == 0).all()
    assert weight[masks].min().item() >= 1.111
    assert weight[masks].max().item() == pytest.approx(2.0)
    assert weight[masks].mean().item() == pytest.approx(1.80, abs=0.01)


def block_by_block(sampler: BlockMask, generator: torch.Generator) -> torch.Tensor:
    """BEiT's blocks written out: an array, and four numbers drawn at each attempt."""
    (height, width), mask = sampler.grid, torch.zeros(sampler.grid, dtype=torch.bool)
    left, attempt = sampler.block_patches, 0
    while left > 0 and (sampler.attempts is None or attempt < sampler.attempts):
        attempt += 1
        area, aspect, top, start = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
        most = min(left, sampler.max_block)
        area = sampler.min_block + area * (most - sampler.min_block)
        aspect = math.exp(math.log(0.3) + aspect * (math.log(1 / 0.3) - math.log(0.3)))
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if h < height and w < width:
            top, start = int(top * (height - h + 1)), int(start * (width - w + 1))
            block = mask[top : top + h, start : start + w]
            if 0 < (added := int((~block).sum())) <= most:
                block[:] = True
                left, attempt = left - added, 0
    return mask.flatten()


def shuffled(sampler: BlockRandomMask, generator: torch.Generator) -> torch.Tensor:
    """BootMAE's second stage written out."""
    blocks = block_by_block(sampler.blocks, generator)
    order = (torch.rand(len(blocks), generator=generator) + blocks).argsort()
    order = order.roll(int(torch.randint(4, (), generator=generator)))
    mask = torch.ones_like(blocks)
    mask[order[: len(blocks) - sampler.num_masked]] = False
    return mask


@pytest.mark.parametrize(
    "arguments",
    [
        {"sampler": "block"},
        {"sampler": "block_random", "ratio": 0.75},
        {"sampler": "block_random", "ratio": 0.6, "block_patches": 20, "min_block": 2, "max_block": 9},
        {"sampler": "block", "block_patches": 190, "min_block": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(224, 224), (112, 160)])
def test_blocks_are_drawn_as_if_written_out(arguments: dict, size: tuple[int, int]) -> None:
    """The same masks, and the generator where it would be: what is drawn in advance and not used does not count."""
    if min(size) < 224:
        arguments = arguments | {"block_patches": 20, "min_block": 2, "max_block": 9}
    sampler = build_mask_sampler(size, 16, **arguments)
    plain = shuffled if isinstance(sampler, BlockRandomMask) else block_by_block
    ours, theirs = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    for _ in range(300):
        assert torch.equal(sampler(ours), plain(sampler, theirs))
        assert torch.equal(ours.get_state(), theirs.get_state())


def test_bootmae_shows_at_most_three_patches_of_its_blocks() -> None:
    sampler = build_mask_sampler(224, 16, sampler="block_random", ratio=0.75)
    shown = []
    for seed in range(400):
        blocks = sampler.blocks(torch.Generator().manual_seed(seed))
        mask = sampler(torch.Generator().manual_seed(seed))
        shown.append(int((blocks & ~mask).sum()))
    assert set(shown) == {0, 1, 2, 3}
    assert sum(shown) / len(shown) == pytest.approx(1.5, abs=0.2)


@pytest.mark.parametrize(
    ("mask", "masked"),
    [
        ({"sampler": "random", "ratio": 0.75}, 27),
        ({"sampler": "cells", "ratio": 0.6, "cell_size": 8}, 24),
        ({"sampler": "block_random", "ratio": 0.75}, 27),
        ({"sampler": "block_random", "ratio": 0.75, "block_patches": 20, "min_block": 2, "max_block": 9}, 27),
    ],
    ids=str,
)
def test_tiny_grid(mask: dict, masked: int) -> None:
    assert (draw(200, img_size=24, patch_size=4, **mask).sum(1) == masked).all()


def test_tiny_grid_blocks_and_rectangular_grid() -> None:
    assert draw(200, img_size=24, patch_size=4, sampler="block", ratio=0.4).sum(1).unique().max() == 14
    assert draw(3, img_size=(16, 24), patch_size=4, sampler="random", ratio=0.75).shape == (3, 24)


@pytest.mark.parametrize(
    ("mask", "key"),
    [
        ({"sampler": "grid", "ratio": 0.5}, "sampler"),
        ({"sampler": "random"}, "ratio"),
        ({"sampler": "random", "ratio": 1.5}, "ratio"),
        ({"sampler": "cells", "ratio": 0.5, "cell_size": 20}, "cell_size"),
        ({"sampler": "cells", "ratio": 0.5, "cell_size": 64}, "cell_size"),
        ({"sampler": "block_random", "ratio": 0.5, "block_patches": 120}, "block_patches"),
        ({"sampler": "block", "block_patches": 196}, "block_patches"),
        ({"sampler": "block", "min_block": 170, "max_block": 180}, "min_block"),
    ],
    ids=str,
)
def test_errors_name_the_key(mask: dict, key: str) -> None:
    with pytest.raises(ValueError, match=key):
        build_mask_sampler(224, 16, **mask)
