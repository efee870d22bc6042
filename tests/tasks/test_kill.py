"""SIGKILLs over a chain of segments; `python tests/tasks/kill.py --kills 100` for more."""

import torch
from kill import differences, under_fire


def test_kills_at_random_moments_change_nothing(images, tmp_path):
    killed, differ = under_fire(tmp_path, images, kills=8, seed=1)
    assert killed == 8
    assert differ == []


def test_a_difference_is_seen():
    whole = {"state.weight": torch.zeros(2), "history": [{"step": 1}]}
    assert differences(whole, whole) == []
    assert differences(whole, whole | {"state.weight": torch.tensor([0.0, 1e-9])}) == ["state.weight"]
    assert differences(whole, whole | {"history": []}) == ["history"]
