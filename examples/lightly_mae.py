"""Add MTO to an MAE of lightly's modules: `pip install "lightly>=1.6" timm`."""

import timm
import torch
from lightly.models import modules, utils

from mto import MaskedTokenOptimization

vit = timm.create_model("vit_tiny_patch16_224", img_size=64, patch_size=8, depth=2, num_classes=0)  # 64 patches
encoder = modules.MaskedVisionTransformerTIMM(vit)
decoder = modules.MaskedVisionTransformerDecoderTIMM(num_patches=64, embed_dim=128, depth=2, num_heads=4)
embed, head = torch.nn.Linear(vit.embed_dim, 128), torch.nn.Linear(128, 8 * 8 * 3)
mto = MaskedTokenOptimization()


def loss(images):
    """images (B, 3, 64, 64)."""
    keep, masked = utils.random_token_mask((len(images), 65), mask_ratio=0.75)  # never the class token, which is first
    visible = embed(encoder.encode(images, idx_keep=keep))
    tokens = utils.set_at_index(decoder.mask_token.repeat(len(images), 65, 1), keep, visible)
    states, x = [tokens[:, 1:]], tokens + decoder.pos_embed
    for block in decoder.blocks:
        x = block(x)
        states.append(x[:, 1:])
    error = head(utils.get_at_index(decoder.norm(x), masked)) - utils.get_at_index(
        utils.patchify(images, 8), masked - 1
    )
    mask = torch.zeros(len(images), 65, dtype=torch.bool).scatter(1, masked, True)
    return error.square().mean() + mto(states, mask[:, 1:], num_masked=masked.shape[1])["loss"]


loss(torch.randn(4, 3, 64, 64)).backward()
