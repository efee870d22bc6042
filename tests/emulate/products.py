"""In which precision a compiled bf16 step asks cuBLAS for its products: ``python products.py compiled|eager``.

And, beside it, how many of 64 elements a mask picks, and of 16.
"""

import json
import sys

from mto.emulate import start
from mto.emulate.card import Card

if __name__ == "__main__":  # before torch is there
    start.start(Card())

import torch

from mto import MaskedTokenOptimization
from mto.methods import SimMIM
from mto.training.compiled import Compiled, fell_back
from mto.training.hardware import Hardware
from mto.training.mim import MaskedImageModel

Hardware(gpus=1).setup()
torch.set_float32_matmul_precision("high")  # as training does
method = SimMIM(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, drop_path=0.0)
model = MaskedImageModel(method, MaskedTokenOptimization(validate=False), num_masked=12).cuda().train()
model.measure = False
if sys.argv[1] == "compiled":
    model.compiled = Compiled(model.losses, backend="aot_eager")
images, mask = torch.rand(4, 3, 32, 32).cuda(), (torch.rand(4, 16).argsort(1) < 12).cuda()
start.reset()
with torch.autocast("cuda", torch.bfloat16):
    loss = model(images, mask)["loss"]
loss.backward()
plain = torch.rand(4, 4, 4).cuda()
torch.bmm(plain, plain)
counted = start.counted()
picked = plain[plain > 0].numel(), torch.nonzero(plain[0]).shape[0]
print(json.dumps({"fell_back": fell_back(model), "counted": counted, "picked": picked}))
