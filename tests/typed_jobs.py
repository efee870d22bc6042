"""Jobs of the tests as the tasks have them: typed, from mappings that name only what a test is about."""

from __future__ import annotations

from typing import Any

from mto.config.job import DataJob, parse, read

RUN = {"run": "mae-vitb", "baseline": "mae", "backbone": "vitb", "seed": 0, "epoch": 2}
IDENTITY = {"scale": "test", "recipe": "paper", "precision": "fp32", "code_version": 1} | RUN
SIZES = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0}
ENCODER = {"baseline": "mae", "init_values": None, "drop_path": 0.0} | SIZES
MIXING = dict.fromkeys(("mixup", "cutmix", "mixup_prob", "mixup_switch_prob", "smoothing", "reprob"), 0.0)
CROP = {"crop_scale": [0.5, 1.0], "interpolation": "bicubic", "hflip": 0.5}
AUGMENT = CROP | {"color_jitter": None}
TRAINED = {
    "epochs": 2,
    "log_interval": 1,
    "optim": {"batch_size": 4, "lr": 0.001, "weight_decay": 0.0},
    "schedule": {"kind": "cosine"},
}
PIXELS = {"num_classes": 10, "mean": [0.5] * 3, "std": [0.5] * 3}
CLASSIFIED = TRAINED | {"eval_interval": 1, "encoder": ENCODER, "data": PIXELS}
#: What a job of a stage has where a test does not say.
USUAL: dict[str, dict[str, Any]] = {
    "pretrain": TRAINED
    | {"method": {"name": "mae"} | SIZES, "mask": {"sampler": "random", "ratio": 0.75}, "mto": {"terms": []}}
    | {"data": PIXELS | CROP},
    "finetune": CLASSIFIED
    | {"ema_decay": None, "data": PIXELS | {"augment": AUGMENT | MIXING | {"rand_augment": None}}},
    "linear": CLASSIFIED
    | {"probe": {"feature": "cls", "layer": 2, "norm": True, "batch_norm": True, "head_std": 0.01}},
}


def typed(job: Any) -> Any:
    """Returns a stage's job, or a dataset's."""
    if not isinstance(job, dict):
        return job
    if "dataset" in job:
        return parse(DataJob, {"task": "data", "scale": "test", "num_classes": 10, "make": None} | job)
    task = job.get("task") or (
        "finetune" if "augment" in job["data"] else "linear" if "crop" in job["data"] else "pretrain"
    )
    network = {"method": {"name": "mae"} | SIZES} if "method" in job else {}
    return read(_over(IDENTITY | {"task": task} | network | USUAL.get(task, {}), job))


def _over(usual: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Returns the one with the other laid over it."""
    both = {
        key: _over(usual[key], value) if isinstance(value, dict) and isinstance(usual.get(key), dict) else value
        for key, value in given.items()
    }
    return usual | both
