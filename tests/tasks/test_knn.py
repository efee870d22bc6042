"""Nearest neighbours: the vote beside a plain loop over images, shares of ranks, and the task on the demo's digits."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import METHODS, knn_job, run

from mto.tasks import knn


def vote(
    queries: torch.Tensor, bank: torch.Tensor, labels: torch.Tensor, k: int, temperature: float
) -> list[list[int]]:
    """The classes of each query, best first, image by image as one would count by hand."""
    ranked = []
    for query in queries.tolist():
        dots = [sum(a * b for a, b in zip(query, row, strict=True)) for row in bank.tolist()]
        similar = sorted(zip(dots, labels.tolist(), strict=True), reverse=True)[:k]
        votes: dict[int, float] = {}
        for similarity, label in similar:
            votes[label] = votes.get(label, 0.0) + math.exp(similarity / temperature)
        ranked.append(sorted(votes, key=lambda label: -votes[label]))
    return ranked


@given(st.integers(0, 2**31), st.integers(1, 12), st.sampled_from([0.07, 1.0]))
def test_the_vote_is_that_of_a_plain_loop(seed: int, k: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    unit = torch.nn.functional.normalize
    bank = unit(torch.randn(20, 6, generator=generator, dtype=torch.float64), dim=1)
    queries = unit(torch.randn(7, 6, generator=generator, dtype=torch.float64), dim=1)
    labels = torch.randint(4, (20,), generator=generator)
    truth = torch.randint(4, (7,), generator=generator)
    found = knn.nearest(queries, knn.Features(bank, labels), k)
    ranked = vote(queries, bank, labels, k, temperature)
    right = [order[0] == int(label) for order, label in zip(ranked, truth, strict=True)]
    assert knn.accuracy(found, truth, 4, temperature)["top1"] == 100.0 * sum(right) / 7


def test_shares_of_the_bank_give_the_neighbours_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    bank = torch.nn.functional.normalize(torch.randn(21, 5, generator=generator, dtype=torch.float64), dim=1)
    labels, queries = torch.arange(21) % 3, bank[::4] + 0.1 * bank[:1]
    whole = knn.nearest(queries, knn.Features(bank, labels), 6)
    own = [knn.nearest(queries, knn.Features(bank[rank::3], labels[rank::3]), 6) for rank in range(3)]

    def gather(shares: list[Any], _: Any) -> None:
        shares[:] = [tuple(share) for share in own]

    monkeypatch.setattr(knn.distributed, "get_world_size", lambda: 3)
    monkeypatch.setattr(knn.distributed, "all_gather_object", gather)
    joined = knn.together(own[1], 6)
    torch.testing.assert_close(joined.similarity, whole.similarity)
    assert torch.equal(joined.label, whole.label)


@pytest.mark.parametrize("baseline", METHODS)
def test_the_task_tells_three_colours_apart(images, pretrained, tmp_path, baseline):
    out = run(knn_job(images, baseline), tmp_path, encoder=pretrained(baseline) / "encoder.safetensors")
    metrics = json.loads((out / "metrics.json").read_text())["metrics"]
    assert metrics["top1"] > 80
    assert metrics["top5"] == 100.0  # of three classes
    assert not (out / "history.jsonl").exists()
