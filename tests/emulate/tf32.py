"""What TF32 would do to MTO's gradients, on an emulated GPU: ``python tf32.py [METHOD ...]``.

Of a method: the hidden states of its ViT-B at the start. Without one: made-up states of a deep layer's size. Prints
JSON: by states and preset, the worst layer's distance of the gradient from float64's, as MTO computes it where the
process allows TF32 (``mto``), and as it would be with products like all others (``tf32``).
"""

import json
import sys
from unittest.mock import patch

from mto.emulate import start
from mto.emulate.card import Card

if __name__ == "__main__":  # before torch is there
    start.start(Card(values=True))

import torch
from torch import Tensor

from mto import MaskedTokenOptimization
from mto.losses import gram

torch.set_num_threads(1)
PRESETS = {"text": MaskedTokenOptimization.text, "cosine": MaskedTokenOptimization}


def plain(a: Tensor, b: Tensor, added: Tensor | None) -> Tensor:
    return torch.bmm(a, b) if added is None else torch.baddbmm(added, a, b)


def made_up() -> tuple[list[Tensor], Tensor, int]:
    """Tokens with |x|^2 of some 3,000, alike as those of a deep layer are."""
    draw = torch.Generator().manual_seed(0)
    shared = torch.randn(2, 1, 256, generator=draw)
    states = [3.0 * (shared + 0.5 * torch.randn(2, 49, 256, generator=draw)) for _ in range(4)]
    return states, torch.rand(2, 49, generator=draw).argsort(1) < 30, 30


def states_of(method: str) -> tuple[list[Tensor], Tensor, int]:
    from mto.bench.workloads import build, job_of
    from mto.config.reading import load
    from mto.study.study import Study

    work = build(job_of(Study(load("config.yaml", {}, scale="paper")), "pretrain-mto", method), 2)
    model = work.model.eval()
    batch = model.data_preprocessor(dict(work.batch), True)
    with torch.no_grad():
        hidden = model(**batch, mode="tensor")["hidden"]
    return [x.float() for x in next(iter(hidden.values())).tokens], batch["mask"], model.num_masked


def gradients(preset: str, states: list[Tensor], mask: Tensor, masked: int) -> list[Tensor]:
    leaves = [x.clone().requires_grad_() for x in states]
    loss = PRESETS[preset](validate=False)(leaves, mask, num_masked=masked, measure=False)["loss"]
    return [gradient.cpu().double() for gradient in torch.autograd.grad(loss, leaves)]


found = {}
torch.set_float32_matmul_precision("high")
for name in sys.argv[1:] or [""]:
    states, mask, masked = states_of(name) if name else made_up()
    size = max(float(x.square().sum(-1).median()) for x in states)
    for preset in PRESETS:
        exact = gradients(preset, [x.double() for x in states], mask, masked)
        on_gpu = [x.cuda() for x in states], mask.cuda(), masked
        row = {"largest |x|^2": size}
        for kind, product in (("mto", gram.full_precision_product), ("tf32", plain)):
            with patch.object(gram, "full_precision_product", product):
                ours = gradients(preset, *on_gpu)
            row[kind] = max(float((a - b).norm() / b.norm()) for a, b in zip(ours, exact, strict=True))
        found[f"{name or 'made up'} {preset}"] = row
print(json.dumps(found))
