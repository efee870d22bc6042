"""Add MTO to Hugging Face's ViTMAEForPreTraining: `pip install mto[huggingface]`."""

import torch
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from mto import MaskedTokenOptimization
from mto.methods.position import sincos_2d

config = ViTMAEConfig(image_size=64, patch_size=8, num_hidden_layers=2, decoder_num_hidden_layers=2)
model = ViTMAEForPreTraining(config)
for table in (model.vit.embeddings.position_embeddings, model.decoder.decoder_pos_embed):
    table.data.copy_(sincos_2d(table.shape[-1], (8, 8), row_first=False))  # zeros in a fresh model
mto = MaskedTokenOptimization()

states, layers = [], model.decoder.decoder_layers  # what enters the first layer, then what each layer gives
layers[0].register_forward_pre_hook(lambda layer, args: states.append(args[0]))
for layer in layers:
    layer.register_forward_hook(lambda layer, args, output: states.append(output))

for images in torch.randn(2, 4, 3, 64, 64):  # your data loader
    states.clear()
    out = model(images)
    states[0] = states[0] - model.decoder.decoder_pos_embed  # layer 0 is taken before the position is added
    terms = mto([x[:, 1:] for x in states], out.mask.bool(), num_masked=48)  # 75 % of 64 patches; no class token
    (out.loss + terms["loss"]).backward()  # and your optimiser's step
