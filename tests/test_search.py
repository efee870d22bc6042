"""The criteria by which MTO's default was chosen, as benchmarks/mto_search_table.py applies them."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import mto_search
import mto_search_measures as measures
import mto_search_table as table


def row(loss, cos, switches="{}"):
    return {"loss": str(loss), "cos_masked": str(cos), "switches": switches}


@pytest.mark.parametrize(
    ("loss", "cosine", "expected"),
    [(1.019, 0.9, True), (1.021, 0.9, False), ("nan", 0.9, False), (1.0, 0.979, True), (1.0, 0.981, False)],
)
def test_harm_is_two_percent_of_loss_or_a_tenth_of_the_spread(loss, cosine, expected):
    assert table.harmless([row(loss, cosine)], [row(1.0, 0.8)]) is expected


def test_the_mean_over_seeds_counts():
    assert table.harmless([row(1.05, 0.8), row(0.97, 0.8)], [row(1.0, 0.8)] * 2)


@pytest.mark.parametrize(
    ("h", "expected"),
    [
        ([3.0, 2.5, 1.0], True),
        ([3.0, 2.5, 2.52, 1.0], True),  # a rise within 1 % of ln V
        ([3.0, 2.5, 2.6, 1.0], False),
        ([2.0, 2.02, 1.0], False),  # layer 0 is not the highest
        ([3.0, 2.9, 2.8], False),  # falls less than without MTO
    ],
)
def test_picture_is_h_highest_at_layer_0_and_falling(h, expected):
    assert table.pictured(h, [3.0, 2.5], log_visible=3.0) is expected


def test_every_preset_builds_and_finds_the_column_of_its_affinity():
    columns = {}
    for name, switches in mto_search.PRESETS.items():
        mto_search.MaskedTokenOptimization(**mto_search.TEXT | switches)
        columns[name] = table.reading_column(row(1, 0, mto_search.json.dumps(switches)))
    assert columns["text"] == columns["raw-0.003"] == "h_dot"
    assert columns["cosine-0.1"] == "h_cosine"
    assert columns["normed-0.1"] == "h_normed"
    assert columns["cosine/0.2-0.1"] is None


@pytest.mark.parametrize("method", mto_search.METHODS)
def test_visible_counts_are_the_samplers(method):
    _, sampler = mto_search.build(method, 48)
    assert sampler.num_masked == 49 - table.VISIBLE[method]


def test_normed_reading_is_the_layer_normed_dot_at_a_temperature_in_proportion_to_the_width():
    mask = torch.arange(10).expand(2, -1) < 6
    for width in (48, 192):
        x = torch.randn(2, 10, width, generator=torch.Generator().manual_seed(0))
        normed = measures.heterogeneity(x, mask, **measures.NORMED)
        dots = measures.heterogeneity(x, mask, tokens="layernorm", temperature=width / 48)
        torch.testing.assert_close(normed, dots, rtol=1e-4, atol=1e-5)


def test_effective_rank_counts_directions():
    g = torch.Generator().manual_seed(0)
    line = torch.randn(500, 1, generator=g) * torch.randn(1, 8, generator=g)
    assert measures.effective_rank(line) == pytest.approx(1.0, abs=1e-3)
    assert measures.effective_rank(torch.randn(5000, 8, generator=g)) == pytest.approx(8.0, abs=0.05)


def test_probes_read_a_feature_that_tells_the_classes():
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % 4
    clear = torch.eye(4)[labels] + 0.05 * torch.randn(400, 4, generator=g)
    noise = torch.randn(400, 4, generator=g)
    for probe in (measures.knn, measures.ridge):
        assert probe(clear[:300], labels[:300], clear[300:], labels[300:]) > 0.99
        assert probe(noise[:300], labels[:300], noise[300:], labels[300:]) < 0.45
