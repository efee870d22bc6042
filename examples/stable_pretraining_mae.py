"""Add MTO to stable-pretraining's MAE: `pip install stable-pretraining`."""

import timm
import torch
from stable_pretraining.methods import MAE

from mto import MaskedTokenOptimization

vit = timm.create_model("vit_tiny_patch16_224", img_size=64, patch_size=8, depth=2, num_classes=0)
model = MAE(vit, decoder_embed_dim=128, decoder_depth=2, decoder_num_heads=4, norm_pix_loss=False)
mto = MaskedTokenOptimization()

states, decoder = [], model.decoder.transformer
for layer in (decoder.context_proj, decoder.query_proj, *decoder.blocks):  # visible tokens, masked ones, blocks
    layer.register_forward_hook(lambda layer, args, output: states.append(output))

for images in torch.randn(2, 4, 3, 64, 64):  # your data loader
    states.clear()
    out = model(images)
    visible, masked, *layers = states  # in the decoder the visible tokens come first
    mask = torch.arange(64).expand(len(images), 64) >= visible.shape[1]
    terms = mto([torch.cat([visible, masked], 1), *layers], mask, num_masked=masked.shape[1])
    (out.loss + terms["loss"]).backward()  # and your optimiser's step
