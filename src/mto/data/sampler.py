"""Which samples make up which global batch: the same for any number of ranks, workers or micro-batches."""

from collections.abc import Iterator
from itertools import count

import torch
from torch.utils.data import Sampler

from mto.data.rng import generator
from mto.errors import UserError


class EpochSampler(Sampler):
    """Yields ``(epoch, index)`` pairs, so that a dataset can draw its augmentation from (seed, epoch, index).

    Rank ``r`` of ``W`` takes every W-th sample of the epoch's order, beginning at ``r``. Hence samples k*G ... (k+1)*G
    of the order form global batch k however G is split into ranks and micro-batches.

    Training takes the endless stream (``infinite=True``: no restart of the workers between epochs), and calls ``skip``
    when a run is resumed.

    Args:
        size: number of samples of the dataset.
        seed: the run's seed.
        shuffle: a new order each epoch; otherwise 0, 1, 2, ...
        drop_last_to: the global batch; an epoch is cut to whole global batches. ``None`` (evaluation): nothing is
            dropped and nothing is repeated, so ranks may differ by one sample.
        rank, world_size: this process and the number of processes.
        infinite: run on into the next epochs, for ever.

    Raises:
        UserError: the dataset is smaller than one global batch.
        ValueError: the global batch does not divide among the ranks.

    Example:
        >>> [index for epoch, index in EpochSampler(5, seed=0, shuffle=False, drop_last_to=2)]
        [0, 1, 2, 3]
    """

    def __init__(
        self,
        size: int,
        *,
        seed: int,
        shuffle: bool,
        drop_last_to: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        infinite: bool = False,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is not in 0..{world_size - 1} (world_size {world_size})")
        if drop_last_to is not None and drop_last_to % world_size:
            raise ValueError(f"a global batch of {drop_last_to} does not divide among {world_size} ranks")
        if size < (drop_last_to or 1):
            raise UserError(
                f"{size} samples do not fill one global batch of {drop_last_to or 1}: lower batch_size in config.yaml"
            )
        self.size = size
        self.seed = seed
        self.shuffle = shuffle
        self.rank = rank
        self.world_size = world_size
        self.infinite = infinite
        self.epoch = 0
        self.used = size - size % drop_last_to if drop_last_to else size
        self._position = 0  # samples of this rank to pass over, counted from the start of epoch 0 (infinite only)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch that the next iteration runs through. The endless stream counts its epochs itself."""
        self.epoch = epoch

    def skip(self, num_samples: int) -> None:
        """Starts the endless stream after ``num_samples`` of this rank's samples (absolute), where a run is resumed."""
        if not self.infinite:
            raise ValueError("skip() is for the endless stream; an epoch is chosen with set_epoch()")
        self._position = num_samples

    def batch(self, number: int, size: int) -> list[tuple[int, int]]:
        """Returns the pairs of global batch ``number``, from 0, of ``size`` samples of all ranks."""
        found: list[tuple[int, int]] = []
        while len(found) < size:
            epoch, start = divmod(number * size + len(found), self.used)
            order = self._order(epoch)[start : self.used][: size - len(found)]
            found += [(epoch, index) for index in order.tolist()]
        return found

    def __len__(self) -> int:
        """Counts the samples of this rank in one epoch."""
        return len(range(self.rank, self.used, self.world_size))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        if not self.infinite:
            yield from self._pairs(self.epoch, self.rank)
            return
        # Positions count in the joined stream of all epochs: an epoch that the ranks do not divide shifts the next one.
        first = self.rank + self._position * self.world_size
        for epoch in count(first // self.used):
            start = first - epoch * self.used
            if start < self.used:
                pairs = self._pairs(epoch, start)
                yield from pairs
                first += self.world_size * len(pairs)

    def _pairs(self, epoch: int, start: int) -> list[tuple[int, int]]:
        """Returns every ``world_size``-th sample of one epoch's order, from ``start``."""
        order = self._order(epoch)[start : self.used : self.world_size]
        return [(epoch, index) for index in order.tolist()]

    def _order(self, epoch: int) -> torch.Tensor:
        if self.shuffle:
            return torch.randperm(self.size, generator=generator(self.seed, "order", epoch))
        return torch.arange(self.size)
