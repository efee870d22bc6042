"""Small ADE20K and COCO jobs with every key of the real ones, and an encoder to start from."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from mto.methods.encoder import build_encoder

ENCODER = {"img_size": 24, "patch_size": 4, "embed_dim": 16, "depth": 4, "num_heads": 2, "mlp_ratio": 2.0}


def common(task: str, baseline: str, root: Path, classes: int) -> dict[str, Any]:
    init_values = 0.1 if baseline in ("simmim", "conmim") else None
    return {
        "task": task,
        "scale": "demo",
        "run": f"{baseline}-vitb",
        "baseline": baseline,
        "backbone": "vitb",
        "seed": 0,
        "epoch": 8,
        "recipe": "paper",
        "code_version": 1,
        "precision": "fp32",
        "log_interval": 1,
        "encoder": {"baseline": baseline, **ENCODER, "init_values": init_values, "drop_path": 0.1},
        "layer_scale": None,
        "hflip": 0.5,
        "data": {"root": str(root), "num_classes": classes, "mean": [0.5] * 3, "std": [0.5] * 3},
        "optim": {
            "batch_size": 2,
            "lr": 1e-3,
            "betas": [0.9, 0.999],
            "weight_decay": 0.05,
            "clip_grad": 3.0,
            "layer_decay": 0.5,
        },
    }


def ade20k_job(root: Path, baseline: str = "mae") -> dict[str, Any]:
    return common("ade20k", baseline, root, 11) | {
        "iterations": 2,
        "save_interval": 2,
        "crop_size": 32,
        "slide_stride": 21,
        "resize": [192, 48],
        "resize_ratio": [0.5, 2.0],
        "out_indices": [0, 1, 2, 3],
        "layer_scale": 1.0,
        "head": {"channels": 8, "pool_scales": [1, 2], "dropout": 0.1, "aux_channels": 8, "aux_weight": 0.4},
        "schedule": {"kind": "poly", "warmup_iterations": 1, "warmup_ratio": 1e-6, "min_lr": 0.0, "power": 1.0},
    }


def coco_job(root: Path, baseline: str = "conmim") -> dict[str, Any]:
    return common("coco", baseline, root, 10) | {
        "epochs": 1,
        "image_size": 48,
        "resize_ratio": [0.5, 1.5],
        "window_size": 4,
        "position": "row_first",
        "global_blocks": [1, 3],
        "out_indices": [0, 1, 2, 3],
        "detector": {
            "channels": 8,
            "fc_channels": 16,
            "rpn_convs": 2,
            "box_convs": 1,
            "mask_convs": 1,
            "anchor_scale": 8,
            "roi_sampling_ratio": 2,
            "rpn_samples": 16,
            "roi_samples": 8,
            "proposals_before_nms_train": 20,
            "proposals_train": 10,
            "proposals_before_nms_test": 20,
            "proposals_test": 10,
        },
        "schedule": {"kind": "cosine", "warmup_iterations": 1, "warmup_ratio": 1e-3, "min_lr": 0.0, "power": 1.0},
    }


def save_encoder(path: Path, job: dict[str, Any]) -> Path:
    torch.manual_seed(0)
    save_file({key: value.contiguous() for key, value in build_encoder(**job["encoder"]).state_dict().items()}, path)
    return path
