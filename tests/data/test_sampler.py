from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from mto.data.sampler import EpochSampler
from mto.errors import UserError

fast = settings(max_examples=60, deadline=None)


def chunks(items: list, size: int) -> list[list]:
    return [items[i : i + size] for i in range(0, len(items), size)]


@fast
@given(st.integers(1, 90), st.sampled_from([1, 2, 3, 4]), st.integers(1, 3), st.integers(0, 5), st.booleans())
def test_a_global_batch_is_the_same_set_for_any_world_size(size, world, per_rank, epoch, infinite):
    batch = world * per_rank
    size += batch
    options = {"seed": 1, "shuffle": True, "drop_last_to": batch, "infinite": infinite}

    def stream(**rank):
        sampler = EpochSampler(size, **options, **rank)
        sampler.set_epoch(epoch)
        return list(islice(sampler, 4 * batch // rank["world_size"]))

    alone = chunks(stream(rank=0, world_size=1), batch)
    ranks = [chunks(stream(rank=rank, world_size=world), per_rank) for rank in range(world)]
    together = [[pair for part in parts for pair in part] for parts in zip(*ranks, strict=True)]
    assert [set(b) for b in together] == [set(b) for b in alone]
    assert all(len(set(b)) == batch for b in alone)


@fast
@given(st.integers(4, 60), st.integers(1, 4), st.booleans())
def test_evaluation_drops_nothing_and_repeats_nothing(size, world, shuffle):
    parts = [EpochSampler(size, seed=0, shuffle=shuffle, rank=r, world_size=world) for r in range(world)]
    assert sorted(index for part in parts for _, index in part) == list(range(size))
    assert all(len(part) == len(list(part)) for part in parts)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@fast
@given(st.integers(5, 40), st.integers(1, 3), st.integers(0, 70), st.sampled_from([None, 6]))
def test_the_endless_stream_resumes_where_it_was(size, world, position, drop):
    size += drop or 0
    for rank in range(world):
        options = {
            "seed": 3,
            "shuffle": True,
            "drop_last_to": drop,
            "rank": rank,
            "world_size": world,
            "infinite": True,
        }
        unbroken = list(islice(EpochSampler(size, **options), position + 80))
        resumed = EpochSampler(size, **options)
        resumed.skip(position)
        assert list(islice(resumed, 80)) == unbroken[position:]
        if drop is None and world == 1:
            assert sorted(index for _, index in unbroken[:size]) == list(range(size))
            assert {epoch for epoch, _ in unbroken[size : 2 * size]} == {1}


def test_epochs_have_orders_of_their_own_and_the_same_in_every_run():
    def order(epoch, seed=0):
        sampler = EpochSampler(50, seed=seed, shuffle=True)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(1) == order(1)
    assert [i for _, i in order(1)] != [i for _, i in order(2)] != list(range(50))
    assert [i for _, i in order(1, seed=1)] != [i for _, i in order(1)]
    assert {epoch for epoch, _ in order(7)} == {7}


def test_a_loader_resumes_at_the_sampler():
    def batches(passed: int):
        sampler = EpochSampler(10, seed=0, shuffle=True, drop_last_to=4, infinite=True)
        sampler.skip(passed * 4)
        return iter(DataLoader(Pairs(), batch_size=4, sampler=sampler, collate_fn=list))

    unbroken = list(islice(batches(0), 9))
    assert list(islice(batches(5), 4)) == unbroken[5:]
    assert [epoch for batch in unbroken for epoch, _ in batch[:1]] == [0, 0, 1, 1, 2, 2, 3, 3, 4]


class Pairs:
    def __getitem__(self, key):
        return key

    def __len__(self):
        return 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drop_last_to": 16}, "10 samples do not fill one global batch of 16: lower batch_size"),
        ({"drop_last_to": 9, "world_size": 2}, "a global batch of 9 does not divide among 2 ranks"),
        ({"rank": 2, "world_size": 2}, "rank 2 is not in 0..1"),
    ],
)
def test_impossible_batches_are_refused(options, message):
    with pytest.raises((ValueError, UserError), match=message):
        EpochSampler(10, seed=0, shuffle=True, **options)


def test_an_epoch_cannot_be_entered_in_the_middle():
    with pytest.raises(ValueError, match="endless stream"):
        EpochSampler(10, seed=0, shuffle=True).skip(4)
