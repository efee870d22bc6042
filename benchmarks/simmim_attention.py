"""SimMIM's attention against the plain formulation that its authors use: ratios of time, memory, operators.

    OMP_NUM_THREADS=1 python benchmarks/simmim_attention.py --rounds 30

One attention of ViT-B's width with its share of the gradients, then the relative position bias that all twelve share.
Numbers are in docs/speed.md.
"""

import argparse
from collections.abc import Callable

import torch
from timm.models.beit import Beit
from torch import Tensor, nn
from turns import turns

from mto.bench.measure import operators
from mto.methods.encoder import build_encoder
from mto.methods.position import relative_bias


def plain(attention: nn.Module, x: Tensor, bias: Tensor) -> Tensor:
    """Scaled queries times keys, the bias added, softmax, times values: (B, T, D) -> same."""
    b, t, d = x.shape
    qkv_bias = torch.cat([attention.q_bias, torch.zeros_like(attention.v_bias), attention.v_bias])
    qkv = nn.functional.linear(x, attention.qkv.weight, qkv_bias).view(b, t, 3, attention.num_heads, -1)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    weights = ((q * attention.scale) @ k.transpose(-2, -1) + bias).softmax(dim=-1)
    return attention.proj((weights @ v).transpose(1, 2).reshape(b, t, d))


def by_index(encoder: Beit) -> Tensor:
    """The bias as timm and the authors compute it: an entry of the table for every pair of tokens."""
    return encoder.rel_pos_bias()


def by_views(encoder: Beit) -> Tensor:
    return relative_bias(encoder.rel_pos_bias.relative_position_bias_table, encoder.patch_embed.grid_size)


def attentions(encoder: Beit, images: int) -> dict[str, Callable[[], object]]:
    attention = encoder.blocks[0].attn
    x = torch.randn(images, 197, encoder.embed_dim, requires_grad=True)
    bias = by_index(encoder).detach()[None].requires_grad_()
    grad = torch.randn(images, 197, encoder.embed_dim)

    def run(fused: bool | None) -> None:
        attention.fused_attn = fused
        (plain(attention, x, bias) if fused is None else attention(x, bias)).backward(grad)

    return {"plain": lambda: run(None), "timm's products (ours)": lambda: run(False), "torch's": lambda: run(True)}


def biases(encoder: Beit) -> dict[str, Callable[[], object]]:
    grad = torch.randn(by_index(encoder).shape)
    return {
        "by index": lambda: by_index(encoder).backward(grad),
        "by views (ours)": lambda: by_views(encoder).backward(grad),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()
    encoder = build_encoder("simmim", depth=1, init_values=0.1)
    torch.nn.init.normal_(encoder.rel_pos_bias.relative_position_bias_table)
    torch.testing.assert_close(by_views(encoder), by_index(encoder))
    for steps in (attentions(encoder, arguments.images), biases(encoder)):
        turns(steps, arguments.rounds)
        for name, step in steps.items():
            print(f"  {name:36} {operators(step):3} operators")


if __name__ == "__main__":
    main()
