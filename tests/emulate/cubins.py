"""A compiled bf16 step of MAE with MTO, to machine code: ``python cubins.py COMPUTE_CAPABILITY CACHE``.

Prints JSON: whether the compiler fell back, what a second step launched, how many parameters got a gradient, the
compiled kernels, and the chips that their cubins' headers and their PTX name.
"""

import json
import os
import struct
import sys
from pathlib import Path

from mto.emulate import start
from mto.emulate.card import Card

if __name__ == "__main__":  # before torch is there
    start.start(Card(sys.argv[1]))
    os.environ |= {"TRITON_CACHE_DIR": sys.argv[2], "TORCHINDUCTOR_CACHE_DIR": sys.argv[2] + "/inductor"}
    os.environ |= {"TORCHINDUCTOR_COMPILE_THREADS": "1"}

import torch

from mto import MaskedTokenOptimization
from mto.methods import MAE
from mto.training.compiled import fell_back
from mto.training.hardware import Hardware
from mto.training.mim import MaskedImageModel

#: ELF's number of the machine, of NVIDIA's GPUs.
EM_CUDA = 190


def chip(cubin: Path) -> int:
    """The compute capability of a cubin's header, as 86: a byte of its flags.

    ptxas of CUDA 12 (ABI version 7) has it in the lowest, of CUDA 13 (8) in the next; Triton takes the second for 9.0.
    """
    content = cubin.read_bytes()
    machine, flags = struct.unpack_from("<H", content, 18)[0], struct.unpack_from("<I", content, 48)[0]
    assert (content[:4], machine) == (b"\x7fELF", EM_CUDA)
    return (flags if content[8] < 8 else flags >> 8) & 0xFF


Hardware(gpus=1).setup()
torch.set_float32_matmul_precision("high")  # as training does
method = MAE(
    img_size=32,
    patch_size=8,
    embed_dim=32,
    depth=1,
    num_heads=2,
    decoder_embed_dim=32,
    decoder_depth=1,
    decoder_num_heads=2,
)
model = MaskedImageModel(method, MaskedTokenOptimization(validate=False), num_masked=12).cuda().train()
model.measure = False
model.compile_step()
images, mask = torch.rand(4, 3, 32, 32).cuda(), (torch.rand(4, 16).argsort(1) < 12).cuda()
for _ in range(2):  # the first compiles, and launches what it tries
    start.reset()
    with torch.autocast("cuda", torch.bfloat16):
        loss = model(images, mask)["loss"]
    loss.backward()
counted, files = start.counted(), [*Path(sys.argv[2]).rglob("*.cubin")]
ptx = [path.read_text() for path in Path(sys.argv[2]).rglob("*.ptx")]
found = {
    "fell_back": fell_back(model),
    "counted": counted,
    "trained": sum(parameter.grad is not None for parameter in model.parameters()),
    "kernels": [path.stem for path in files],
    "chips": sorted({chip(path) for path in files}),
    "targets": sorted({text.split(".target ")[1].split()[0] for text in ptx}),
}
print(json.dumps(found))
