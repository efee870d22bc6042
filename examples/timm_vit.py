"""Masked-image modelling with MTO on a plain timm ViT, its mask tokens in the encoder as in SimMIM."""

import timm
import torch

from mto import MaskedTokenOptimization

vit = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=0)  # 16 patches
head = torch.nn.Linear(vit.embed_dim, 16 * 16 * 3)
mask_token = torch.nn.Parameter(0.02 * torch.randn(vit.embed_dim))
mto = MaskedTokenOptimization()


def loss(images, mask):
    """images (B, 3, 64, 64); mask (B, 16) bool, True where masked."""
    tokens = torch.where(mask[..., None], mask_token, vit.patch_embed(images))
    states, x = [tokens], vit._pos_embed(tokens)  # prepends the class token too
    for block in vit.blocks:
        x = block(x)
        states.append(x[:, 1:])
    pixels = torch.nn.functional.pixel_unshuffle(images, 16).flatten(2).mT
    error = (head(x[:, 1:]) - pixels).abs().mean(-1)
    return (error * mask).sum() / mask.sum() + mto(states, mask, num_masked=10)["loss"]


loss(torch.randn(4, 3, 64, 64), torch.rand(4, 16).argsort(1) < 10).backward()
