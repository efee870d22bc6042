import contextlib
import pickle
import random
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from mto.data.rng import SeededDataset, generator, seed_of, seeded


def draws() -> tuple[float, float, float, float]:
    return random.random(), np.random.random(), np.random.standard_normal(), torch.rand(()).item()  # noqa: NPY002


def test_the_key_decides_the_draws_of_all_three_generators():
    with seeded(0, "sample", 1, 2):
        first = draws()
    with seeded(0, "sample", 1, 2):
        assert draws() == first
    with seeded(0, "sample", 2, 1):
        other = draws()
    assert all(a != b for a, b in zip(first, other, strict=True))


def test_numpy_and_torch_do_not_share_a_stream():
    with seeded(7):
        assert not np.allclose(np.random.random(4), torch.rand(4, dtype=torch.float64).numpy())  # noqa: NPY002
        assert np.random.random() != pytest.approx(random.random())  # noqa: NPY002


def test_the_former_states_come_back_even_after_an_error():
    def uniform():
        return random.random(), np.random.random(), torch.rand(()).item()  # noqa: NPY002

    def after(use):
        torch.manual_seed(3), random.seed(3), np.random.seed(3)  # noqa: NPY002
        uniform()
        use()
        return uniform()

    def interrupted():
        with contextlib.suppress(RuntimeError), seeded(1):
            draws()
            raise RuntimeError

    assert after(interrupted) == after(lambda: None)


def test_nested_keys_leave_the_outer_streams_alone():
    with seeded(1):
        plain = [draws() for _ in range(2)]
    with seeded(1):
        nested = [draws()]
        with seeded(2):
            pass
        nested.append(draws())
    assert [(a, b, d) for a, b, _, d in nested] == [(a, b, d) for a, b, _, d in plain]


def test_seeds_are_the_same_everywhere_and_differ_between_keys():
    assert seed_of(5, "mask", 3) == seed_of(np.int64(5), "mask", np.int32(3)) == 1680359878147603275
    assert len({seed_of(s, e, i) for s in range(3) for e in range(20) for i in range(50)}) == 3000
    assert seed_of("1", 2) != seed_of(1, "2") != seed_of(12)
    assert torch.equal(torch.rand(3, generator=generator(1)), torch.rand(3, generator=generator(1)))


def test_a_key_of_floats_is_refused():
    with pytest.raises(TypeError, match=r"integers and strings, got 0\.5"):
        seed_of(0, 0.5)


class Noise(Dataset):
    """As mmseg's: attributes beyond the items, and draws from the global generators."""

    metainfo: ClassVar = {"classes": ("a", "b")}

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> tuple[int, tuple[float, ...]]:
        return index, draws()

    def get_data_info(self, index: int) -> dict[str, int]:
        return {"index": index}


def test_a_wrapped_dataset_draws_from_epoch_and_index_and_keeps_its_attributes():
    dataset = SeededDataset(Noise(), seed=0)
    assert dataset[1, 2] == dataset[1, 2] != dataset[2, 2]
    assert dataset[0, 2] == dataset[2]
    assert dataset[1, 2] != SeededDataset(Noise(), seed=1)[1, 2]
    assert (len(dataset), dataset.metainfo, dataset.get_data_info(3)) == (5, Noise.metainfo, {"index": 3})
    assert pickle.loads(pickle.dumps(dataset))[1, 2] == dataset[1, 2]
    assert not hasattr(dataset, "nothing")
