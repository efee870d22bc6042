"""An encoder as Hugging Face's transformers load it: ViTModel for MAE, BeitModel for the other three.

The names are those that transformers have written to files since version 4, and that version 5 still writes and reads.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from mto.errors import UserError
from mto.export.encoder import Encoder

if TYPE_CHECKING:
    from torch import Tensor

CLASSES = {"vit": "ViTModel", "beit": "BeitModel"}
LOAD = """\
from transformers import AutoImageProcessor, {model}

processor = AutoImageProcessor.from_pretrained("FOLDER")
model = {model}.from_pretrained("FOLDER", add_pooling_layer=False).eval()
tokens = model(**processor(image, return_tensors="pt")).last_hidden_state  # (1, 1 + N, {width}), class token first
"""

#: timm's names and transformers', of what lies outside the blocks; then of a block's parts.
_OUTSIDE = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "rel_pos_bias.relative_position_bias_table": "encoder.relative_position_bias.relative_position_bias_table",
    "norm": "layernorm",
}
_INSIDE = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
    "gamma_1": "lambda_1",
    "gamma_2": "lambda_2",
}
_PARTS = ("query", "key", "value")


def config(encoder: Encoder) -> dict[str, Any]:
    """Returns config.json.

    Raises:
        UserError: the network is wider inside than a whole number of channels.
    """
    size, kind = encoder.size, encoder.baseline.encoder
    inner = size["mlp_ratio"] * size["embed_dim"]
    if inner != int(inner):
        raise UserError(
            f"{encoder.folder}: mlp_ratio {size['mlp_ratio']} of {size['embed_dim']} is no whole number of channels"
        )
    shared = {
        "architectures": [CLASSES[kind]],
        "model_type": kind,
        "dtype": "float32",
        "hidden_size": size["embed_dim"],
        "num_hidden_layers": size["depth"],
        "num_attention_heads": size["num_heads"],
        "intermediate_size": int(inner),
        "image_size": size["img_size"],
        "patch_size": size["patch_size"],
        "num_channels": 3,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    if kind == "vit":
        return shared | {"qkv_bias": True}
    return shared | {
        "drop_path_rate": 0.0,
        # The norm before pooling, where pre-training has it: with mean pooling BeitModel has none at all.
        "use_mean_pooling": False,
        "use_mask_token": False,
        "use_absolute_position_embeddings": encoder.baseline.position == "fixed",
        "use_relative_position_bias": False,
        "use_shared_relative_position_bias": encoder.baseline.position == "relative",
        "layer_scale_init_value": encoder.job["method"].get("init_values") or 0.0,
    }


def processor(encoder: Encoder) -> dict[str, Any]:
    """Returns preprocessor_config.json: the image resized as a whole, without the evaluation's crop."""
    data, side = encoder.job["data"], encoder.size["img_size"]
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": side, "width": side},
        "resample": 3,  # bicubic, as every evaluation here
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": data["mean"],
        "image_std": data["std"],
    }


def weights(encoder: Encoder) -> dict[str, Tensor]:
    """Returns the tensors under transformers' names; query, key and value, which timm has in one, are parted.

    Raises:
        UserError: a tensor has no place in that network.
    """
    made: dict[str, Tensor] = {}
    for name, value in encoder.weights.items():
        block = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
        if block is None:
            made[_renamed(name, _OUTSIDE, encoder)] = value
            continue
        prefix, inside = f"encoder.layer.{block[1]}.", block[2]
        if qkv := re.fullmatch(r"attn\.qkv\.(weight|bias)", inside):
            for part, piece in zip(_PARTS, value.chunk(3), strict=True):
                made[f"{prefix}attention.attention.{part}.{qkv[1]}"] = piece.contiguous()
        elif bias := re.fullmatch(r"attn\.([qv])_bias", inside):
            made[f"{prefix}attention.attention.{'query' if bias[1] == 'q' else 'value'}.bias"] = value
        else:
            made[prefix + _renamed(inside, _INSIDE, encoder)] = value
    return made


def _renamed(name: str, names: dict[str, str], encoder: Encoder) -> str:
    for ours, theirs in names.items():
        if name == ours or name.startswith(f"{ours}."):
            return theirs + name[len(ours) :]
    model = CLASSES[encoder.baseline.encoder]
    raise UserError(f"{encoder.folder / 'encoder.safetensors'}: {name} has no place in Hugging Face's {model}")
