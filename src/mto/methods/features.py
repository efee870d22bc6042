"""The features of a frozen encoder that probes and nearest neighbours read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def pooled(
    encoder: Any,
    image: Tensor,
    layers: Sequence[int],
    feature: Literal["cls", "mean", "cls_mean"],
    norm: bool | Literal["fresh"],
) -> list[Tensor]:
    """Returns one (B, F) feature of each layer, in float32.

    Args:
        encoder: timm's VisionTransformer or Beit.
        image: (B, 3, H, W), normalised.
        layers: rising, 1-based blocks whose outputs are taken.
        feature: ``cls``, ``mean`` of the patch tokens, or both side by side (BEiT's protocol).
        norm: True: the encoder's final norm on the tokens; "fresh": a parameter-free LayerNorm, eps 1e-6, on the pooled
            feature (BootMAE:main_linprobe.py:186-221); False: none.
    """
    taken: Any = encoder.forward_intermediates(
        image,
        indices=[layer - 1 for layer in layers],
        return_prefix_tokens=True,
        norm=norm is True,
        stop_early=True,
        output_fmt="NLC",
        intermediates_only=True,
    )
    found = []
    for patches, prefix in taken:
        parts = {"cls": [prefix[:, 0]], "mean": [patches.mean(1)], "cls_mean": [prefix[:, 0], patches.mean(1)]}
        x = torch.cat(parts[feature], dim=-1).float()
        found.append(F.layer_norm(x, x.shape[-1:], eps=1e-6) if norm == "fresh" else x)
    return found
