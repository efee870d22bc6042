#!/usr/bin/env bash
# transformers 5.23.0: BEiT's relative position bias is another one than BEiT's where an image is not square.
#
# Guess, written down first: for an image of 32 x 64 and patches of 16, the bias of two patches is the table's entry for their offset,
# as BEiT's own code has it (row offset times 2 W - 1, plus column offset), and as for a square image.
# Seen: the table is read with its height and width exchanged and then "interpolated" back to the same size. An entry for one
#   offset acts on other offsets. timm's bias of the same table is BEiT's. Square images are not affected.
# Hurt: whoever takes a BEiT or Data2Vec that was trained on oblong images (spectrograms, say) into transformers, or out of it:
#   all loads, shapes fit, and the outputs are others.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 torchvision==0.29.2 transformers==5.23.0 timm==1.0.31
"$work/venv/bin/python" - <<'PY'
import torch
from timm.layers import RelPosBias
from transformers import BeitConfig, BeitModel

torch.manual_seed(0)
for height, width in ((2, 2), (2, 4), (4, 2)):
    config = BeitConfig(
        image_size=(16 * height, 16 * width), patch_size=16, hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
        intermediate_size=8, use_shared_relative_position_bias=True,
    )
    bias = BeitModel(config).eval().shared_position_bias
    theirs = RelPosBias((height, width), num_heads=1, prefix_tokens=1)
    with torch.no_grad():
        bias.relative_position_bias_table.normal_()
        theirs.relative_position_bias_table.copy_(bias.relative_position_bias_table)
        found = bias((height, width)).flatten(0, -3)[0, 1:, 1:]
        timm = theirs.get_bias().flatten(0, -3)[0, 1:, 1:]
    patches = [(patch // width, patch % width) for patch in range(height * width)]
    table = bias.relative_position_bias_table[:, 0]
    beit = torch.stack([
        torch.stack([table[(y - v + height - 1) * (2 * width - 1) + x - u + width - 1] for v, u in patches])
        for y, x in patches
    ])
    wrong = [(other - beit).abs().max().item() for other in (found, timm)]
    print(f"{height} x {width} patches: transformers is off by {wrong[0]:.2f}, timm by {wrong[1]:.2f}")
    assert wrong[1] < 1e-6
    assert (wrong[0] < 1e-6) == (height == width)
print("as found")
PY
