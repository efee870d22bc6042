"""A ViT of timm or Hugging Face is measured under a name of its own, on one's own images."""

import json
import shlex
from pathlib import Path

import pytest
import timm
import torch
import yaml
from tiny import make_images
from transformers import ViTConfig, ViTForImageClassification, ViTModel

from mto.__main__ import main
from mto.config.reading import load
from mto.cost.cli import images_told
from mto.errors import UserError
from mto.files import read_json
from mto.methods.encoder import build_encoder, load_encoder
from mto.study.study import Study
from mto.tasks import encoder as tool

SIZE = {"patch_size": 7, "embed_dim": 48, "depth": 2, "num_heads": 3}


def timm_vit(**changes):
    torch.manual_seed(0)
    size = SIZE | {"img_size": 28, "num_classes": 0} | changes
    return timm.models.vision_transformer.VisionTransformer(**size).eval()


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A folder with a study's settings on one's own three classes, at the scale mini."""
    monkeypatch.chdir(tmp_path)
    make_images(tmp_path / "images")
    settings = {"title": "mine", "root": "images", "num_classes": 3, "classes": None, "make": None}
    Path("config.yaml").write_text(yaml.safe_dump({"scale": "mini", "datasets": {"imagenet": settings}}))
    return Study(load("config.yaml"))


def given(file, *more, measure="knn"):
    pixels = ["--mean", "0.5", "0.5", "0.5", "--std", "0.25", "0.25", "0.25"]
    tool.main([str(file), "--name", "my-vit", "--measure", measure, "--heads", "3", *pixels, *more])


@pytest.mark.parametrize("measure", ["knn", "linear"])
def test_two_commands_measure_a_plain_timm_vit(mine, capsys, measure):
    vit = timm_vit(num_classes=5)  # the head is left out
    torch.save(vit.state_dict(), "vit.pth")
    given("vit.pth", "--feature", "mean", "--no-norm", measure=measure)
    make, measured = capsys.readouterr().out.splitlines()
    assert make == "snakemake --cores all --config scale=mini -- results/mini/data/imagenet/manifest.json"
    assert (
        main(["data", "--job", json.dumps(mine.data_job("imagenet").plain()), "--out", "results/mini/data/imagenet"])
        == 0
    )
    assert "imagenet: 3 class folders in train, 3 class folders in val" in capsys.readouterr().out
    job = read_json(Path(f"results/mini/own/my-vit/{measure}/job.json"))["job"]
    assert (job["run"], job["baseline"], job["data"]["std"]) == ("my-vit", "own", [0.25] * 3)
    probe = job["probe"] if measure == "linear" else {"feature": job["feature"]["pool"], **job["feature"]}
    assert (probe["feature"], probe["norm"], probe["layer"]) == ("mean", False, 2)
    if measure == "linear":  # a batch of the scale's is more than these 36 images
        read = Path(f"results/mini/own/my-vit/{measure}/job.json")
        job["optim"]["batch_size"], job["epochs"] = 12, 2
        read.write_text(json.dumps(read_json(read) | {"job": job}))
    words = shlex.split(measured)
    assert words[:3] == ["python", "-m", "mto"]
    assert main(words[3:]) == 0
    metrics = read_json(Path(f"results/mini/own/my-vit/{measure}/metrics.json"))
    assert metrics["run"] == "my-vit"
    assert metrics["metrics"]["top1"] > (50 if measure == "knn" else 0)  # three colours, and two epochs of a probe
    assert not Path("results/mini/pretrain").exists()
    capsys.readouterr()
    given("vit.pth", measure=measure)
    assert len(capsys.readouterr().out.splitlines()) == 1  # the images are looked over already


def hugging_face(cls):
    torch.manual_seed(0)
    size = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 96}
    return cls(ViTConfig(**size, image_size=28, patch_size=7, layer_norm_eps=1e-6)).eval()


@pytest.mark.parametrize("cls", [ViTModel, ViTForImageClassification])
@pytest.mark.parametrize("saved", [True, False])
def test_a_vit_of_hugging_face_gives_its_own_features(mine, cls, saved):
    model = hugging_face(cls)
    inside = model if cls is ViTModel else model.vit
    image = torch.randn(2, 3, 28, 28)
    expected = inside(image).last_hidden_state
    more = []
    if saved:
        model.save_pretrained("folder")
        Path("folder/preprocessor_config.json").write_text(
            json.dumps({"image_mean": [0.1] * 3, "image_std": [0.2] * 3})
        )
        tool.main(["folder", "--name", "my-vit"])
    else:
        torch.save(model.state_dict(), "file.pth")
        given("file.pth", *more, measure="linear")
    job = read_json(Path("results/mini/own/my-vit/linear/job.json"))["job"]
    assert job["encoder"]["num_heads"] == 3
    assert job["data"]["mean"] == ([0.1] * 3 if saved else [0.5] * 3)
    net = build_encoder(**job["encoder"]).eval()
    from safetensors.torch import load_file

    load_encoder(net, load_file("results/mini/own/my-vit/encoder.safetensors"))
    with torch.no_grad():
        torch.testing.assert_close(net.forward_features(image), expected, rtol=1e-5, atol=1e-5)


def test_layer_scale_is_taken_and_fine_tuned_without(mine):
    torch.save(timm_vit(init_values=0.5).state_dict(), "vit.pth")
    given("vit.pth")
    with pytest.raises(UserError, match="has LayerScale, which mae's classifier has not; take linear or knn"):
        given("vit.pth", measure="finetune")


WRONG = {
    "a name of ours": (timm_vit, ["--name", "mae-vitb"], "begins with no baseline's"),
    "no class token": (lambda: timm_vit(class_token=False, global_pool="avg"), [], r"lacks cls_token.*a class token"),
    "registers": (lambda: timm_vit(reg_tokens=2), [], r"vit\.pth: has reg_token, which a plain ViT has not"),
    "patches": (
        lambda: timm_vit(patch_size=8, img_size=32),
        [],
        "img_size 28 of the scale mini is no multiple of its pat",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_none_is_one_line(mine, case):
    make, more, message = WRONG[case]
    torch.save(make().state_dict(), "vit.pth")
    with pytest.raises(UserError, match=message):
        given("vit.pth", *more)
    assert not Path("results").exists()


def test_who_says_nothing_of_the_pixels_is_asked(mine):
    torch.save(timm_vit().state_dict(), "vit.pth")
    with pytest.raises(UserError, match="--mean and --std: say how the encoder's images were normalised"):
        tool.main(["vit.pth", "--name", "my-vit", "--heads", "3"])


# ----------------------------------------------------------------------------------------------------- one's own images
def test_the_plan_counts_my_images(mine):
    assert images_told(mine.config) == (
        "mine: 36 training and 9 validation images, counted by the class folders of images.\n"
    )
    main(["data", "--job", json.dumps(mine.data_job("imagenet").plain()), "--out", "results/mini/data/imagenet"])
    assert "counted by results/mini/data/imagenet/manifest.json" in images_told(mine.config)
    elsewhere = load({"datasets": {"imagenet": {"root": "x", "num_classes": 20, "make": None}}}, scale="mini")
    assert "25,623 training" in images_told(elsewhere)
    assert images_told(elsewhere).endswith("as many a class as ImageNet-1K has, until they are counted.\n")
