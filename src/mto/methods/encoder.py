"""The encoders, on timm: for pre-training, for classification, and the loading of one into the other.

MAE's is timm's VisionTransformer; SimMIM's, BootMAE's and ConMIM's have BEiT's query and value biases (no key bias) and
are timm's Beit: with a relative position bias and LayerScale (SimMIM, ConMIM), or with fixed sine-cosine positions
(BootMAE).
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from timm.layers import trunc_normal_
from timm.models.beit import Beit
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mto.methods.position import resize_absolute, resize_relative, sincos_2d
from mto.names import BASELINES, Baseline

_SHARED_TABLE = "rel_pos_bias.relative_position_bias_table"
_BLOCK_TABLE = "attn.relative_position_bias_table"
#: What a classifier has and an encoder has not.
HEAD = ("head.", "fc_norm.")


def timm_arguments(baseline: str) -> tuple[str, dict[str, Any]]:
    """Returns a timm model and its arguments that load a ViT-B's `encoder.safetensors` without a leftover key.

    Example:
        name, arguments = timm_arguments("simmim")
        model = timm.create_model(name, num_classes=0, **arguments)
        model.load_state_dict(load_file("encoder.safetensors"))
    """
    return f"{_declared(baseline).encoder}_base_patch16_224", _style(baseline)


def _declared(baseline: str) -> Baseline:
    """Returns what `mto.names` declares of a baseline.

    Raises:
        ValueError: there is no such baseline.
    """
    if baseline not in BASELINES:
        raise ValueError(f"baseline: '{baseline}' is none of {', '.join(BASELINES)}")
    return BASELINES[baseline]


def _style(baseline: str) -> dict[str, Any]:
    """Returns the arguments of timm that tell the baselines' pre-training encoders apart."""
    declared = _declared(baseline)
    if declared.encoder == "vit":
        return {}
    position: dict[str, Any] = {"use_abs_pos_emb": False, "use_shared_rel_pos_bias": True}
    if declared.position == "fixed":
        # timm.create_model drops arguments that are None; 0 means no LayerScale too.
        position = {"use_abs_pos_emb": True, "use_shared_rel_pos_bias": False, "init_values": 0.0}
    # 'token' keeps the final norm before pooling, where pre-training has it.
    return {"use_rel_pos_bias": False, "global_pool": "token"} | position


def build_encoder(
    baseline: str,
    *,
    img_size: int = 224,
    patch_size: int = 16,
    embed_dim: int = 768,
    depth: int = 12,
    num_heads: int = 12,
    mlp_ratio: float = 4.0,
    drop_path: float = 0.0,
    init_values: float | None = None,
    **timm_overrides: Any,
) -> VisionTransformer | Beit:
    """Builds the encoder that a method pre-trains, without a head; fixed positions are set and frozen.

    Args:
        drop_path: rate at the last block, rising linearly from 0.
        init_values: LayerScale's initial value; None: no LayerScale.
        timm_overrides: timm's own arguments, for encoders that differ from pre-training (a classifier, a backbone).

    Raises:
        ValueError: if num_heads does not divide embed_dim, or patch_size the image.
    """
    if embed_dim % num_heads:
        raise ValueError(f"num_heads: {num_heads} does not divide embed_dim = {embed_dim}")
    sides = (img_size, img_size) if isinstance(img_size, int) else img_size
    if any(side % patch_size for side in sides):
        raise ValueError(f"img_size {img_size} is not a multiple of patch_size {patch_size}")
    arguments = {
        "img_size": img_size,
        "patch_size": patch_size,
        "embed_dim": embed_dim,
        "depth": depth,
        "num_heads": num_heads,
        "mlp_ratio": mlp_ratio,
        "drop_path_rate": drop_path,
        "init_values": init_values,
        "num_classes": 0,
    }
    style = _style(baseline)
    style.pop("init_values", None)
    cls = VisionTransformer if BASELINES[baseline].encoder == "vit" else Beit
    encoder: Any = cls(**(arguments | style | timm_overrides))
    if encoder.pos_embed is not None:
        grid = encoder.patch_embed.grid_size
        encoder.pos_embed.data.copy_(sincos_2d(embed_dim, grid, row_first=BASELINES[baseline].row_first))
        encoder.pos_embed.requires_grad_(False)
    return encoder


def build_classifier(
    baseline: str,
    *,
    num_classes: int = 1000,
    img_size: int = 224,
    patch_size: int = 16,
    embed_dim: int = 768,
    depth: int = 12,
    num_heads: int = 12,
    mlp_ratio: float = 4.0,
    drop_path: float = 0.1,
    init_values: float | None = None,
) -> VisionTransformer | Beit:
    """Builds the fine-tuning model: mean of the patch tokens, a fresh norm, a linear head.

    SimMIM's and ConMIM's have a relative bias table in each block (SimMIM:utils.py:207). MAE's positions become
    trainable (MAE:models_vit.py), BootMAE's stay frozen (BootMAE:models/modeling_finetune_bootmae.py:297).
    """
    declared = _declared(baseline)
    if init_values is not None and declared.position == "fixed":
        raise ValueError(f"init_values: {baseline}'s encoder is pre-trained without LayerScale; leave it null")
    overrides: dict[str, Any] = {"num_classes": num_classes, "global_pool": "avg"}
    if declared.position == "relative":
        overrides |= {"use_rel_pos_bias": True, "use_shared_rel_pos_bias": False}
    model: Any = build_encoder(
        baseline,
        img_size=img_size,
        patch_size=patch_size,
        embed_dim=embed_dim,
        depth=depth,
        num_heads=num_heads,
        mlp_ratio=mlp_ratio,
        drop_path=drop_path,
        init_values=init_values,
        **overrides,
    )
    if declared.encoder == "vit":
        model.pos_embed.requires_grad_(True)
        trunc_normal_(model.head.weight, std=2e-5)  # MAE:main_finetune.py:257; Beit's head is scaled by 0.001 in timm
    elif declared.position == "fixed":
        nn.init.normal_(model.cls_token, std=1e-6)
    return model


class DoesNotFit(ValueError):
    """The weights of a pre-trained encoder do not fit the model; the caller, who knows the file, names it."""


def load_encoder(
    model: Any, state: Mapping[str, Tensor], *, fresh: tuple[str, ...] = ()
) -> tuple[list[str], list[str]]:
    """Loads a pre-trained encoder into a classifier or a backbone (timm's, or with its names), in place.

    The shared relative table is copied into every block that has its own; relative and absolute tables are interpolated
    to the model's grid. A model without the final norm does not take it. What an encoder cannot bring may stay fresh:
    the head and its norm, relative tables and LayerScale where the pre-trained encoder has none.

    Args:
        fresh: further prefixes of entries that may stay as they are (a backbone's own layers).

    Returns:
        The names that stayed fresh, and the names of `state` that were not used.

    Raises:
        DoesNotFit: an entry neither fits nor is explained by the above; or it brings a head, which is no part of it.
    """
    if heads := [name for name in state if name.startswith(HEAD)]:
        raise DoesNotFit(
            f"brings a head ({heads[0]}), so it is of a network that was fine-tuned already, and no pre-trained encoder"
        )
    own = model.state_dict()
    grid = model.patch_embed.grid_size
    loaded: dict[str, Tensor] = {}
    unused: list[str] = []
    for key, value in state.items():
        if key == _SHARED_TABLE:
            tables = [name for name in own if name == key or name.endswith(_BLOCK_TABLE)]
            loaded |= {name: resize_relative(value, grid) for name in tables}
            if not tables:
                unused.append(key)
        elif key in own:
            loaded[key] = _fit(key, value, grid)
        else:
            unused.append(key)

    allowed = [*HEAD, *fresh]
    missing = [name for name in own if name not in loaded]
    stray = [name for name in missing if not name.startswith(tuple(allowed)) and not _may_be_absent(name, state)]
    stray += [name for name in unused if not name.startswith("norm.")]
    stray += [name for name, value in loaded.items() if value.shape != own[name].shape]
    if stray:
        raise DoesNotFit(
            f"the pre-trained encoder does not fit the model: {', '.join(sorted(stray)[:5])}"
            f"{' …' if len(stray) > 5 else ''} missing, left over or of another shape; check baseline, embed_dim, "
            "depth, patch_size and init_values"
        )
    model.load_state_dict(loaded, strict=False)
    return missing, unused


def _fit(key: str, value: Tensor, grid: tuple[int, int]) -> Tensor:
    if key == "pos_embed":
        return resize_absolute(value, grid)
    return resize_relative(value, grid) if key.endswith(_BLOCK_TABLE) else value


def _may_be_absent(name: str, state: Mapping[str, Tensor]) -> bool:
    """Returns whether the encoder `state` lacks all entries of this kind, so that the model's own starts fresh."""
    for part in ("relative_position_bias_table", "gamma"):
        if part in name.rsplit(".", 1)[-1]:
            return not any(part in key for key in state)
    return False


def layer_id(name: str, depth: int) -> int:
    """Returns the level of an encoder's parameter for layer-wise learning-rate decay.

    0: patch embedding, class token, absolute position; i + 1: block i; depth + 1: the rest, a shared relative
    table included (SimMIM:optimizer.py:109, MAE:util/lr_decay.py:57, BootMAE:optim_factory.py:33).
    """
    if name in ("cls_token", "pos_embed", "mask_token") or name.startswith("patch_embed."):
        return 0
    block = re.match(r"blocks\.(\d+)\.", name)
    return int(block[1]) + 1 if block else depth + 1


@torch.no_grad()
def init_beit(module: nn.Module, std: float = 0.02) -> None:
    """Initialises an encoder or a projector as SimMIM and ConMIM do.

    Weights of linear and convolution layers, and the class token, are normal with σ = `std` cut at ±σ (so the effective
    deviation is about 0.54 σ); biases are 0. Then attention-output and fc2 weights of block i (from 1) are divided by
    √(2i). (SimMIM:models/vision_transformer.py:258, ConMIM:modeling_pretrain.py:74.)
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            cut_normal_(layer.weight, std)
            if layer.bias is not None:
                layer.bias.zero_()
    if isinstance(module, Beit):
        cut_normal_(module.cls_token, std)
        blocks: Any = module.blocks
        for i, block in enumerate(blocks, start=1):
            block.attn.proj.weight.div_(math.sqrt(2.0 * i))
            block.mlp.fc2.weight.div_(math.sqrt(2.0 * i))


def cut_normal_(tensor: Tensor, std: float = 0.02) -> Tensor:
    """Fills a tensor from a normal with σ = `std`, cut at ±σ, and returns it."""
    return trunc_normal_(tensor, std=std, a=-std, b=std)


@torch.no_grad()
def init_xavier(module: nn.Module) -> None:
    """Gives every linear layer Xavier-uniform weights and zero biases (MAE:models_mae.py:84)."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                layer.bias.zero_()


@torch.no_grad()
def init_xavier_patches(projection: nn.Conv2d) -> None:
    """Initialises the patch embedding as the linear layer that it is; its bias is left to the caller."""
    nn.init.xavier_uniform_(projection.weight.view(len(projection.weight), -1))
