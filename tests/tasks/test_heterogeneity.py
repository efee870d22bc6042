"""The heterogeneity job: its table, its maps."""

import csv
import json
import math

import numpy as np
import pytest
import torch
from tiny import METHODS, heterogeneity_job, pretrain_job, run

from mto.data.imagenet import PretrainDataset
from mto.data.transforms import eval_transform
from mto.errors import UserError
from mto.losses.mto import heterogeneity
from mto.tasks.heterogeneity import load_model
from mto.training.checkpoint import load_state
from typed_jobs import typed

STREAMS = {"simmim": ["encoder"], "mae": ["decoder"], "bootmae": ["feature", "pixel"], "conmim": ["encoder"]}


@pytest.mark.parametrize("baseline", METHODS)
def test_table_and_maps(images, pretrained, tmp_path, baseline):
    job, state = heterogeneity_job(images, baseline), pretrained(baseline) / "state.pth"
    if baseline == "simmim":
        job["method"]["drop_path"] = 0.9  # of no effect: the analysis does not train
    out = run(job, tmp_path, method=state)
    with (out / "heterogeneity.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sorted({row["stream"] for row in rows}) == STREAMS[baseline]
    assert {row["variant"] for row in rows} == {"pre-dot-raw", "post-cosine-raw-0.1"}
    assert {int(row["image"]) for row in rows} == set(range(5))
    assert all(0 <= float(row["H_over_lnV"]) <= 1 + 1e-6 for row in rows)

    # The last image's numbers, by the public function.
    dataset = PretrainDataset(typed(job), "val", transform=eval_transform(typed(job)))
    sample = dataset[0, 4 * len(dataset) // 5]
    model = load_model(typed(job), state).eval()
    batch = model.data_preprocessor({name: value[None] for name, value in sample.items()})
    image, mask = batch["image"], batch["mask"]
    with torch.no_grad():
        hidden = model(image, mask, image, mode="tensor")["hidden"]
    for stream in STREAMS[baseline]:
        position = 0 if hidden[stream].position is None else hidden[stream].position
        pre = hidden[stream].tokens
        post = [pre[0] + position, *pre[1:]]
        cosine = {"affinity": "cosine", "temperature": 0.1}
        for variant, states, reading in (("pre-dot-raw", pre, {}), ("post-cosine-raw-0.1", post, cosine)):
            layers = [row for row in rows if (row["stream"], row["variant"], row["image"]) == (stream, variant, "4")]
            assert [int(row["layer"]) for row in layers] == list(range(len(states)))
            for row, tokens in zip(layers, states, strict=True):
                expected = heterogeneity(tokens, mask, **reading).item()
                assert float(row["H"]) == pytest.approx(expected, rel=1e-3, abs=1e-5)
                visible = int((~mask).sum())
                assert float(row["H_over_lnV"]) == pytest.approx(float(row["H"]) / math.log(visible))

    arrays = np.load(out / "affinity.npz")
    patches = mask.shape[1]
    assert int(arrays["num_masked"][0]) == int(mask.sum())
    names = {f"{stream}/{layer}" for stream in STREAMS[baseline] for layer in range(len(hidden[stream].tokens))}
    assert names | {"num_masked"} == set(arrays)
    assert all(arrays[name].shape == (2, patches, patches) for name in names)
    metrics = json.loads((out / "metrics.json").read_text())["metrics"]
    assert metrics.pop("images") == 5
    assert len(metrics) == len(names)


def test_maps_put_masked_tokens_first(images, pretrained, tmp_path):
    """At SimMIM's layer 0 all masked tokens are the mask token: the first quadrant of the map is constant."""
    out = run(heterogeneity_job(images, "simmim"), tmp_path, method=pretrained("simmim") / "state.pth")
    arrays = np.load(out / "affinity.npz")
    masked = int(arrays["num_masked"][0])
    first = arrays["encoder/0"][0]
    assert np.ptp(first[:masked, :masked]) < 1e-6 < np.ptp(first[masked:, masked:])


def test_a_state_whose_weights_were_shares(images, tmp_path):
    """It holds what MTO measured of its gradients, which the analysis has no use for."""
    balance = {"interval": 1, "dense": 0, "images": 4, "memory": 0.5, "largest": 10.0}
    mto = {"terms": ["spa", "e", "r"], "balance": balance}
    state = run(pretrain_job(images, "mae", epoch=1) | {"mto": mto}, tmp_path / "run") / "state.pth"
    assert any(name.startswith("mto.") for name in load_state(state)["state_dict"])
    out = run(heterogeneity_job(images, "mae"), tmp_path / "out", method=state)
    assert json.loads((out / "metrics.json").read_text())["metrics"]


def test_a_state_of_another_method_is_refused(images, pretrained, tmp_path):
    with pytest.raises(UserError, match=r"state\.pth: not a state of"):
        run(heterogeneity_job(images, "simmim"), tmp_path, method=pretrained("mae") / "state.pth")
