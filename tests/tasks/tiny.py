"""Tiny jobs on a tiny image folder, for tests of the tasks."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mto.config.job import Job, read
from mto.losses.mto import TEXT
from mto.tasks.task import Task
from mto.training.hardware import Hardware

SIZE = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0}
DECODERS = {"decoder_embed_dim": 16, "decoder_depth": 2, "decoder_num_heads": 2}
METHODS: dict[str, dict[str, Any]] = {
    "simmim": SIZE | {"init_values": 0.1, "drop_path": 0.1},
    "mae": SIZE | DECODERS,
    "bootmae": SIZE | {"decoder_embed_dim": 16, "decoder_depth": 2},
    "conmim": SIZE | {"init_values": 0.1, "projector_dim": 16, "output_dim": 8},
}
MASKS: dict[str, dict[str, Any]] = {
    "simmim": {"sampler": "cells", "ratio": 0.6, "cell_size": 8},
    "mae": {"sampler": "random", "ratio": 0.75},
    "bootmae": {"sampler": "random", "ratio": 0.75},
    "conmim": {"sampler": "cells", "ratio": 0.75, "cell_size": 8},
}
PIXELS = {"num_classes": 3, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
EVAL = {"resize": 16, "crop": 16, "interpolation": "bicubic"}
TEACHER = {"jitter": [0.4, 0.4, 0.2, 0.1], "jitter_prob": 0.8, "gray_prob": 0.2, "blur_prob": 0.1, "solarize_prob": 0.2}
CONSTANT = {"kind": "cosine", "warmup_epochs": 1, "warmup_lr": 0.0, "min_lr": 0.0, "warmup_prefix": True}


def make_images(root: Path) -> Path:
    """Three classes told apart by colour: 12 training and 3 validation images each."""
    random = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 3)):
        for label in range(3):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = random.integers(0, 120, (20, 18, 3))
                pixels[..., label] += 130
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index}.png")
    return root


def common(task: str, baseline: str, epoch: int) -> dict[str, Any]:
    run = {"run": f"{baseline}-vitb", "baseline": baseline, "backbone": "vitb"}
    versions = {"recipe": "paper", "precision": "fp32", "code_version": 1}
    return {"task": task, "scale": "test", **run, "seed": 0, "epoch": epoch, **versions, "log_interval": 2}


def pretrain_job(root: Path, baseline: str, epoch: int = 2, epochs: int = 2, terms=("spa", "e", "r")) -> dict[str, Any]:
    data = {"root": str(root), **PIXELS, "crop_scale": [0.5, 1.0], "interpolation": "bicubic", "hflip": 0.5}
    if baseline == "conmim":
        data["teacher"] = TEACHER
    optim = {"batch_size": 12, "lr": 1e-3, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.05, "clip_grad": None}
    return {
        **common("pretrain", baseline, epoch),
        "epochs": epochs,
        "method": {"name": baseline, **METHODS[baseline]},
        "mask": MASKS[baseline],
        "mto": {"terms": list(terms), **TEXT},
        "data": data,
        "optim": optim | {"no_decay": []},
        "schedule": CONSTANT,
    }


def linear_steps(job: dict[str, Any]) -> dict[str, Any]:
    """The job with AdamW's steps almost linear in the gradient, by a large eps: as it is, AdamW turns the rounding of
    gradients that ought to be zero into whole steps."""
    return {**job, "optim": job["optim"] | {"eps": 1.0, "lr": 0.01}}


def _encoder(baseline: str) -> dict[str, Any]:
    return {"baseline": baseline, **SIZE, "init_values": METHODS[baseline].get("init_values"), "drop_path": 0.0}


def finetune_job(root: Path, baseline: str, **changes: Any) -> dict[str, Any]:
    augment = {"rand_augment": None, "reprob": 0.25, "mixup": 0.8, "cutmix": 1.0, "mixup_prob": 1.0, "smoothing": 0.1}
    augment |= {"mixup_switch_prob": 0.5, "hflip": 0.5, "crop_scale": [0.5, 1.0], "color_jitter": None}
    optim = {"batch_size": 12, "lr": 3e-3, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.05, "clip_grad": None}
    return {
        **common("finetune", baseline, 2),
        "epochs": 3,
        "encoder": _encoder(baseline) | {"drop_path": 0.1},
        "data": {"root": str(root), **PIXELS, "augment": augment | {"interpolation": "bicubic"}, "eval": EVAL},
        "optim": optim | {"layer_decay": 0.8, "no_decay": ["pos_embed", "cls_token"]},
        "schedule": CONSTANT,
        "ema_decay": None,
        "eval_interval": 2,
        **changes,
    }


def linear_job(root: Path, baseline: str, optim: dict[str, Any] | None = None, **probe: Any) -> dict[str, Any]:
    probe = {"feature": "cls", "layer": 2, "norm": True, "batch_norm": True, "head_std": 0.01} | probe
    data = {"root": str(root), **PIXELS, "crop": "no_retry", "crop_scale": [0.5, 1.0], "interpolation": "bicubic"}
    lars = {"kind": "lars", "batch_size": 12, "lr": 1.0, "weight_decay": 0.0, "momentum": 0.9}
    return {
        **common("linear", baseline, 2),
        "epochs": 2,
        "encoder": _encoder(baseline),
        "probe": probe,
        "data": data | {"hflip": 0.5, "eval": EVAL},
        "optim": lars | (optim or {}),
        "schedule": CONSTANT,
        "eval_interval": 1,
    }


def knn_job(root: Path, baseline: str, **feature: Any) -> dict[str, Any]:
    identity = common("knn", baseline, 2)
    del identity["log_interval"]
    return {
        **identity,
        "encoder": _encoder(baseline),
        "feature": {"pool": "mean", "layer": 2, "norm": True} | feature,
        "data": {"root": str(root), **PIXELS, "eval": EVAL},
        "neighbours": 5,
        "temperature": 0.07,
    }


def heterogeneity_job(root: Path, baseline: str) -> dict[str, Any]:
    job = pretrain_job(root, baseline)
    return {
        **{key: value for key, value in job.items() if key in (*Job.keys, "method", "mask")},
        "task": "heterogeneity",
        "data": {"root": str(root), **PIXELS, "eval": EVAL},
        "images": 5,
        "affinity_images": 2,
        "variants": [
            {"position": "pre", "affinity": "dot", "tokens": "raw"},
            {"position": "post", "affinity": "cosine", "tokens": "raw", "temperature": 0.1},
        ],
    }


def run(
    job: dict[str, Any],
    out: Path,
    hardware: Hardware | None = None,
    *,
    guard: int = Task.guard,
    gradient_interval: int = Task.gradient_interval,
    prune: bool = False,
    **inputs: Path,
) -> Path:
    """Run a job in this process; returns its folder."""
    from importlib import import_module

    watch = {"guard": guard, "gradient_interval": gradient_interval, "prune": prune}
    task = Task(job["task"], read(job), inputs, out, hardware or Hardware(), **watch)
    task.start()
    import_module(f"mto.tasks.{job['task']}").run(task)
    return out
