"""An encoder as timm loads it from a folder: `timm.create_model("local-dir:FOLDER", pretrained=True)`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mto.export.encoder import Encoder
from mto.methods.encoder import timm_arguments

if TYPE_CHECKING:
    from torch import Tensor

LOAD = """\
import timm

model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_data_config(model=model))
tokens = model.forward_features(transform(image)[None])  # (1, 1 + N, {width}), class token first
"""


def config(encoder: Encoder) -> dict[str, Any]:
    """Returns config.json: timm's architecture, and every argument in which this network differs from it."""
    size, data = encoder.size, encoder.job["data"]
    name, arguments = timm_arguments(encoder.job["baseline"])
    if size["embed_dim"] == 1024:
        name = name.replace("_base_", "_large_")
    if encoder.baseline.position == "relative":
        arguments |= {"init_values": encoder.job["method"]["init_values"]}
    side = size["img_size"]
    return {
        "architecture": name,
        "num_classes": 0,
        "num_features": size["embed_dim"],
        "global_pool": "token",
        "model_args": size | arguments,
        "pretrained_cfg": {
            "tag": encoder.name,
            "input_size": [3, side, side],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "squash",
            "mean": data["mean"],
            "std": data["std"],
            "num_classes": 0,
            "pool_size": None,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }


def weights(encoder: Encoder) -> dict[str, Tensor]:
    """Returns the tensors, whose names are timm's already."""
    return encoder.weights
