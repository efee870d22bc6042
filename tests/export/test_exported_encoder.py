"""Exported encoders: transformers and timm load them back without a key too many, and give the same tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from PIL import Image
from timm.data import create_transform, resolve_data_config

from mto.config import load
from mto.errors import UserError
from mto.export.cli import export, main
from mto.files import write_json
from mto.methods.encoder import build_encoder
from mto.names import BASELINES, Step
from mto.study.study import Study
from mto.training.weights import load_weights, save_weights

EPOCH = 8
SIZES = ("img_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio")
RUNS = [f"{baseline}-vitb-mto" for baseline in BASELINES] + ["mae-vitl"]


@pytest.fixture(scope="module")
def study() -> Study:
    return Study(load("config.yaml", scale="demo"))


def finished(study: Study, run: str, results: Path) -> tuple[Path, torch.nn.Module]:
    """Returns the folder of a pre-training step whose every weight was drawn, and its encoder in float64."""
    step = Step("pretrain", run, 0, EPOCH)
    job: dict[str, Any] = study.job(step).plain()
    method, folder = job["method"], results / step.folder
    sizes = {key: method[key] for key in SIZES}
    encoder = build_encoder(job["baseline"], init_values=method.get("init_values"), **sizes)
    generator = torch.Generator().manual_seed(3)
    for value in encoder.state_dict().values():
        value.copy_(0.3 * torch.randn(value.shape, generator=generator))
    folder.mkdir(parents=True)
    said = {key: str(job[key]) for key in ("run", "epoch", "seed")}
    save_weights(folder / "encoder.safetensors", dict(encoder.state_dict()), said)
    write_json(folder / "job.json", {"task": "pretrain", "job": job, "inputs": {}})
    write_json(folder / "metrics.json", {"metrics": {}, "provenance": {"commit": "abc", "device": "a CPU"}})
    return folder, encoder.double().eval()


def tokens(encoder: Any, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return encoder.forward_features(images)


def images_of(encoder: Any) -> torch.Tensor:
    side = encoder.patch_embed.img_size
    return torch.randn(2, 3, *side, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


@pytest.mark.parametrize("run", RUNS)
def test_transformers_load_it_whole_and_give_the_same_tokens(study: Study, run: str, tmp_path: Path) -> None:
    folder, encoder = finished(study, run, tmp_path / "results/demo")
    out = export(folder, "hf", tmp_path / "out")
    (name,) = json.loads((out / "config.json").read_text())["architectures"]
    model, told = getattr(transformers, name).from_pretrained(
        out, add_pooling_layer=False, output_loading_info=True, dtype=torch.float64
    )
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    assert not told["mismatched_keys"]
    images = images_of(encoder)
    with torch.no_grad():
        found = model.eval()(images).last_hidden_state
    torch.testing.assert_close(found, tokens(encoder, images), rtol=0, atol=1e-11)


@pytest.mark.parametrize("run", RUNS)
def test_timm_loads_it_by_name_and_gives_the_same_tokens(study: Study, run: str, tmp_path: Path) -> None:
    folder, encoder = finished(study, run, tmp_path / "results/demo")
    out = export(folder, "timm", tmp_path / "out")
    model = timm.create_model(f"local-dir:{out}", pretrained=True)
    assert model.state_dict().keys() == encoder.state_dict().keys()
    images = images_of(encoder)
    torch.testing.assert_close(tokens(model.double().eval(), images), tokens(encoder, images), rtol=0, atol=1e-11)


def test_another_weight_would_be_seen(study: Study, tmp_path: Path) -> None:
    """The relative table, which is easiest to lose: a change of one entry changes what transformers give."""
    folder, encoder = finished(study, "simmim-vitb", tmp_path / "results/demo")
    out = export(folder, "hf", tmp_path / "out")
    stored = load_weights(out / "model.safetensors")
    stored["encoder.relative_position_bias.relative_position_bias_table"][5] += 1
    save_weights(out / "model.safetensors", stored, {})
    model = transformers.BeitModel.from_pretrained(out, add_pooling_layer=False, dtype=torch.float64).eval()
    images = images_of(encoder)
    with torch.no_grad():
        assert (model(images).last_hidden_state - tokens(encoder, images)).abs().max() > 1e-4


def test_images_are_prepared_alike(study: Study, tmp_path: Path) -> None:
    """An image of the network's own size is normalised, and nothing else."""
    folder, _ = finished(study, "mae-vitb", tmp_path / "results/demo")
    job = json.loads((folder / "job.json").read_text())["job"]
    generator = torch.Generator().manual_seed(7)
    pixels = torch.randint(0, 256, (24, 24, 3), generator=generator, dtype=torch.uint8)
    wanted = (pixels.permute(2, 0, 1) / 255 - torch.tensor(job["data"]["mean"])[:, None, None]) / torch.tensor(
        job["data"]["std"]
    )[:, None, None]
    image = Image.fromarray(pixels.numpy())
    hf, timms = export(folder, "hf", tmp_path / "hf"), export(folder, "timm", tmp_path / "timm")
    processor = transformers.AutoImageProcessor.from_pretrained(hf)
    torch.testing.assert_close(processor(image, return_tensors="pt")["pixel_values"][0], wanted)
    model = timm.create_model(f"local-dir:{timms}", pretrained=True)
    torch.testing.assert_close(create_transform(**resolve_data_config(model=model))(image), wanted)


def test_the_card_says_what_it_is_and_what_was_measured(study: Study, tmp_path: Path) -> None:
    folder, _ = finished(study, "mae-vitb-mto", tmp_path / "results/demo")
    probe = tmp_path / "results/demo" / Step("linear", "mae-vitb-mto", 0, EPOCH).folder
    probe.mkdir(parents=True)
    write_json(probe / "metrics.json", {"metrics": {"top1": 61.25}})
    card = (export(folder, "hf", tmp_path / "out") / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert "| linear probe | `top1` | 61.25 |" in card
    assert "with Masked Token Optimization (terms spa, e, r)" in card
    assert "**Not the paper's scale.**" in card
    assert "commit `abc`" in card
    assert 'ViTModel.from_pretrained("FOLDER"' in card


def test_what_is_no_encoder_is_one_line(study: Study, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"encoder\.safetensors: no such file; name the folder of a finished pre-tr"):
        main([str(tmp_path), "--to", "hf"])
    folder, _ = finished(study, "mae-vitb", tmp_path / "results/demo")
    with pytest.raises(UserError, match="not an empty folder"):
        export(folder, "hf", folder)
    with pytest.raises(UserError, match=r"results\.csv: no such file"):
        main([str(tmp_path), "--to", "ro-crate"])
    stored = load_weights(folder / "encoder.safetensors")
    save_weights(folder / "encoder.safetensors", stored | {"blocks.0.attn.scale": torch.ones(1)}, {})
    with pytest.raises(UserError, match=r"blocks\.0|attn\.scale has no place in Hugging Face's ViTModel"):
        export(folder, "hf", tmp_path / "out")
