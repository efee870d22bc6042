"""``python -m mto encoder``: measure a ViT of your own, of timm or Hugging Face, by the study's protocols.

It is no run of the study: it has a name of its own, stands in no table beside the paper's numbers, and is measured with
the probe, the mean and the standard deviation that are given. Its files lie in results/<scale>/own/<name>.
"""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mto.config.job import read as read_job
from mto.config.reading import load
from mto.errors import UserError
from mto.files import read_json, write_json
from mto.names import BASELINES, STAGES, Step
from mto.study.study import Study
from mto.tasks.released import read

if TYPE_CHECKING:
    from torch import Tensor

#: The stages that measure an encoder on images with classes.
MEASURES = tuple(name for name, stage in STAGES.items() if stage.takes == "encoder" and stage.dataset == "imagenet")
#: What stands for a plain ViT in the study's settings: its protocol of fine-tuning, and the optimiser of its probe.
LIKE = "mae"
#: Hugging Face's names of a ViT's parts, as files of version 4 and 5 have them, and timm's.
NAMES = (
    (r"embeddings\.cls_token", "cls_token"),
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.patch_embeddings\.projection\.(.+)", r"patch_embed.proj.\1"),
    (r"(?:encoder\.)?layers?\.(\d+)\.layernorm_before\.(.+)", r"blocks.\1.norm1.\2"),
    (r"(?:encoder\.)?layers?\.(\d+)\.layernorm_after\.(.+)", r"blocks.\1.norm2.\2"),
    (r"(?:encoder\.)?layers?\.(\d+)\.attention\.(?:output\.dense|o_proj)\.(.+)", r"blocks.\1.attn.proj.\2"),
    (r"(?:encoder\.)?layers?\.(\d+)\.(?:intermediate\.dense|mlp\.fc1)\.(.+)", r"blocks.\1.mlp.fc1.\2"),
    (r"(?:encoder\.)?layers?\.(\d+)\.(?:output\.dense|mlp\.fc2)\.(.+)", r"blocks.\1.mlp.fc2.\2"),
    (r"layernorm\.(.+)", r"norm.\1"),
)
_QKV = r"(?:encoder\.)?layers?\.(\d+)\.attention\.(?:attention\.)?(?:{}|{}_proj)\.(weight|bias)"
PARTS = tuple(re.compile(_QKV.format(part, part[0])) for part in ("query", "key", "value"))
#: What is no part of an encoder, and is left out.
OUTSIDE = ("head.", "fc.", "classifier.", "pooler.", "decoder", "mask_token", "embeddings.mask_token")


def main(argv: Sequence[str] | None = None) -> None:
    """Writes the job that measures an encoder, and says how to run it; see ``--help``."""
    args = _parser().parse_args(argv)
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", args.name) or args.name.split("-")[0] in BASELINES:
        raise UserError(f"--name {args.name}: a name is made of a-z, 0-9, _, . and -, and begins with no baseline's")
    file, told = found(args.weights)
    weights = as_timm(file, read(file))
    size = size_of(file, weights, args.heads or told.get("heads"))
    study = Study(load("config.yaml", scale=args.scale))
    pixels = {"mean": args.mean or told.get("mean"), "std": args.std or told.get("std")}
    if missing := [f"--{name}" for name, value in pixels.items() if not value]:
        raise UserError(f"{' and '.join(missing)}: say how the encoder's images were normalised, such as 0.5 0.5 0.5")
    job = job_of(study, args.measure, args.name, size, pixels, args)
    fits(file, weights, job)
    out = Path(study.results, "own", args.name)
    manifest = Path(study.results, "data/imagenet/manifest.json")
    keep(out / "encoder.safetensors", weights, job)
    inputs = {"data": str(manifest), "encoder": str(out / "encoder.safetensors")}
    write_json(out / args.measure / "job.json", {"task": args.measure, "job": job, "inputs": inputs})
    for line in commands(study, args.measure, out / args.measure, manifest):
        print(line)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mto encoder",
        description="Measure a plain ViT of timm or Hugging Face by the study's protocols, under a name of its own.",
    )
    parser.add_argument("weights", type=Path, help="its state dict (.pth, .safetensors), or Hugging Face's folder")
    parser.add_argument("--name", required=True, help="what it is called here, for example my-vit")
    parser.add_argument("--measure", choices=MEASURES, default="linear", help="default: linear")
    probed = "what is probed: the class token (default), the mean of the patch tokens, or both"
    parser.add_argument("--feature", choices=("cls", "mean", "cls_mean"), default="cls", help=probed)
    parser.add_argument("--norm", action=argparse.BooleanOptionalAction, default=True, help="the final norm, before it")
    parser.add_argument(
        "--mean", type=float, nargs=3, help="of its images, in shares of 1 (of a folder: its processor's)"
    )
    parser.add_argument("--std", type=float, nargs=3, help="of its images")
    parser.add_argument("--heads", type=int, help="of its attention; default: 64 channels each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", help="default: the one that config.yaml names")
    return parser


def found(given: Path) -> tuple[Path, dict[str, Any]]:
    """Returns the file of weights, and what lies beside it says: `heads`, `mean`, `std`.

    Raises:
        UserError: a folder without weights.
    """
    if not given.is_dir():
        return given, {}
    known = [given / name for name in ("model.safetensors", "pytorch_model.bin")]
    file = next((path for path in known if path.exists()), None)
    if file is None:
        raise UserError(f"{given}: holds neither model.safetensors nor pytorch_model.bin")
    config, processor = (read_json(given / f"{name}.json") or {} for name in ("config", "preprocessor_config"))
    pixels = config.get("pretrained_cfg", {})  # timm's
    return file, {
        "heads": config.get("num_attention_heads"),
        "mean": processor.get("image_mean") or pixels.get("mean"),
        "std": processor.get("image_std") or pixels.get("std"),
    }


def as_timm(file: Path, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns the encoder's tensors under timm's names, without a head, a pooler or a decoder.

    Raises:
        UserError: it is no plain ViT.
    """
    import torch

    parts: dict[str, dict[int, Tensor]] = {}
    named: dict[str, Tensor] = {}
    for key, value in weights.items():
        name = re.sub(r"^(module\.|model\.|encoder\.(?!layer)|vit\.)+", "", key)
        if name.startswith(OUTSIDE):
            continue
        place, match = next(((i, m) for i, part in enumerate(PARTS) if (m := part.fullmatch(name))), (None, None))
        if match is not None and place is not None:
            parts.setdefault(f"blocks.{match[1]}.attn.qkv.{match[2]}", {})[place] = value
            continue
        for theirs, ours in NAMES:
            if re.fullmatch(theirs, name):
                name = re.sub(f"^{theirs}$", ours, name)
                break
        named[name] = value
    named |= {name: torch.cat([given[i] for i in sorted(given)]) for name, given in parts.items() if len(given) == 3}
    if lacking := [
        name for name in ("cls_token", "pos_embed", "patch_embed.proj.weight", "norm.weight") if name not in named
    ]:
        raise UserError(
            f"{file}: no plain ViT of timm or Hugging Face (lacks {', '.join(lacking)}); "
            "it must have a class token, absolute positions and a final norm"
        )
    if more := [
        name for name in named if not re.match(r"(cls_token|pos_embed)$|(patch_embed\.proj|blocks|norm)\.", name)
    ]:
        raise UserError(f"{file}: has {', '.join(more[:3])}, which a plain ViT has not")
    return named


def size_of(file: Path, weights: dict[str, Tensor], heads: int | None) -> dict[str, Any]:
    """Returns what the weights' shapes say of the network; its heads they do not.

    Raises:
        UserError: nobody says how many heads there are.
    """
    width, _, patch, other = weights["patch_embed.proj.weight"].shape
    depth = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
    heads = heads or (width // 64 if width % 64 == 0 else None)
    if not heads or width % heads or patch != other:
        raise UserError(
            f"{file}: {width} channels, patches of {patch} × {other}: say --heads, of which {width} is a multiple"
        )
    size: dict[str, Any] = {"patch_size": patch, "embed_dim": width, "depth": depth, "num_heads": heads}
    layer_scale = weights.get("blocks.0.ls1.gamma")
    size["init_values"] = None if layer_scale is None else 1e-5  # there is one; its values come with the weights
    return size | {"mlp_ratio": len(weights["blocks.0.mlp.fc1.weight"]) / width}


def job_of(
    study: Study, measure: str, name: str, size: dict[str, Any], pixels: dict[str, Any], args: argparse.Namespace
) -> dict[str, Any]:
    """Returns the job: the stage's settings at this scale, and what is given in the place of the study's own.

    Raises:
        UserError: the patches do not divide the scale's images.
    """
    backbone = next(iter(getattr(study.config.baselines, LIKE).backbones))
    step = Step(measure, f"{LIKE}-{backbone}", args.seed, study.config.study.measured_epochs[-1])
    job = study.job(step).plain()
    if job["encoder"]["img_size"] % size["patch_size"]:
        side = job["encoder"]["img_size"]
        raise UserError(
            f"img_size {side} of the scale {study.config.scale} is no multiple of its patches of {size['patch_size']}"
        )
    job |= {"run": name, "baseline": "own", "backbone": "own", "epoch": None, "encoder": job["encoder"] | size}
    job["data"] = job["data"] | {key: list(value) for key, value in pixels.items()}
    if "probe" in job:
        job["probe"] = job["probe"] | {"feature": args.feature, "norm": args.norm, "layer": size["depth"]}
    if "feature" in job:
        job["feature"] = {"pool": args.feature, "norm": args.norm, "layer": size["depth"]}
    if measure == "finetune" and size["init_values"] is not None:
        raise UserError(
            f"--measure finetune: {name} has LayerScale, which {LIKE}'s classifier has not; take linear or knn"
        )
    return read_job(job).plain()


def fits(file: Path, weights: dict[str, Tensor], job: dict[str, Any]) -> None:
    """Loads the weights once into the network that the job builds.

    Raises:
        UserError: they do not fit it.
    """
    from mto.methods.encoder import DoesNotFit, build_encoder, load_encoder

    try:
        load_encoder(build_encoder(**job["encoder"] | {"drop_path": 0.0}), weights)
    except DoesNotFit as error:
        raise UserError(f"{file}: {error}") from None


def keep(path: Path, weights: dict[str, Tensor], job: dict[str, Any]) -> None:
    """Writes the encoder, whose metadata say what it is called."""
    from mto.training.weights import save_weights

    state = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    save_weights(path, state, {"run": job["run"]})


def commands(study: Study, measure: str, out: Path, manifest: Path) -> list[str]:
    """Returns what is left to be run, a command a line."""
    asked = study.resources(measure)
    words = ["--job", out / "job.json", "--out", out, "--gpus", asked.gpu, "--workers", asked.workers]
    words += ["--micro-batch", asked.micro_batch or 0]
    lines = [] if manifest.exists() else [f"snakemake --cores all --config scale={study.config.scale} -- {manifest}"]
    return [*lines, f"python -m mto {measure} {' '.join(shlex.quote(str(word)) for word in words)}"]
