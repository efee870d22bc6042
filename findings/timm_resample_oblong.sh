#!/usr/bin/env bash
# timm 1.0.31: positions of a grid that is not square are resampled into twice as many tokens as were asked for.
#
# Guess, written down first: `resample_abs_pos_embed` of 8 positions (a grid of 2 x 4) to 4 x 4 without `old_size` is an error, since 8 is
# no square.
# Seen: a tensor of 32 positions for 16 tokens. The side is taken as int(sqrt(8)) = 2, and what is left over of the 8 tokens goes into
#   the channels. 4 x 2, with as many tokens as before, comes out as 16.
# Hurt: whoever brings a network trained on oblong images to another size: the fault shows later, as a shape that does not fit, or
#   never, where the caller cuts or adds by broadcasting.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 torchvision==0.29.2 timm==1.0.31
"$work/venv/bin/python" - <<'PY'
import torch
from timm.layers import resample_abs_pos_embed

positions = torch.arange(8.0).view(1, 8, 1).repeat(1, 1, 6)  # of a grid of 2 x 4
for size in ([4, 4], [4, 2]):
    given = resample_abs_pos_embed(positions, size, num_prefix_tokens=0)
    told = resample_abs_pos_embed(positions, size, old_size=[2, 4], num_prefix_tokens=0)
    print(f"to {size[0]} x {size[1]}: {given.shape[1]} tokens without old_size, {told.shape[1]} with it")
    assert told.shape[1] == size[0] * size[1]
    assert given.shape[1] == 2 * size[0] * size[1]
print("as found")
PY
