"""BootMAE's decoder: blocks of self-attention, cross-attention to encoder features, and an MLP.

BootMAE:models/modeling_pretrain_bootmae.py:72-162. Heads may be narrower than width / heads would be: 512 wide with 12
heads gives 12 · 42 = 504 inner channels.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Mlp
from torch import Tensor, nn

from mto.losses.order import TokenOrder
from mto.losses.stream import Recorder
from mto.methods.base import Stream, all_tokens, attention_map
from mto.methods.encoder import cut_normal_, init_xavier


class SelfAttention(nn.Module):
    """Attention with query and value biases, no key bias."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        inner = dim // num_heads * num_heads
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * inner, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(inner))
        self.v_bias = nn.Parameter(torch.zeros(inner))
        self.proj = nn.Linear(inner, dim)

    def forward(self, x: Tensor) -> Tensor:
        bias = torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])
        qkv = F.linear(x, self.qkv.weight, bias)
        q, k, v = qkv.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Attention like `SelfAttention`, with queries from one sequence, keys and values from another."""

    def __init__(self, dim: int, context_dim: int, num_heads: int) -> None:
        super().__init__()
        inner = dim // num_heads * num_heads
        self.num_heads = num_heads
        self.q = nn.Linear(dim, inner, bias=False)
        self.kv = nn.Linear(context_dim, 2 * inner, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(inner))
        self.v_bias = nn.Parameter(torch.zeros(inner))
        self.proj = nn.Linear(inner, dim)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        q = F.linear(x, self.q.weight, self.q_bias).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        kv = F.linear(context, self.kv.weight, torch.cat([torch.zeros_like(self.v_bias), self.v_bias]))
        k, v = kv.unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class DecoderBlock(nn.Module):
    """Pre-norm and residual: self-attention, cross-attention, MLP. The norms bear the official numbers."""

    def __init__(self, dim: int, context_dim: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = SelfAttention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.norm3 = nn.LayerNorm(dim, eps=1e-6)
        self.norm4 = nn.LayerNorm(context_dim, eps=1e-6)
        self.c_attn = CrossAttention(dim, context_dim, num_heads)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        x = x + self.c_attn(self.norm3(x), self.norm4(context))
        return x + self.mlp(self.norm2(x))


class Decoder(nn.Module):
    """Class, visible and mask tokens through the blocks to a norm; the caller adds a head.

    Visible tokens get no position here, masked ones do.

    Args:
        dim: width.
        context_dim: width of the encoder.
    """

    def __init__(self, *, dim: int, context_dim: int, depth: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.embed = nn.Linear(context_dim, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        blocks = [DecoderBlock(dim, context_dim, num_heads, mlp_ratio) for _ in range(depth)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        init_xavier(self)
        for block in blocks:
            init_qkv(block.attn.qkv)
        cut_normal_(self.mask_token)

    def forward(
        self,
        latent: Tensor,
        context: Tensor,
        mask: Tensor,
        order: TokenOrder,
        position: Tensor,
        record: Recorder | None,
    ) -> tuple[Tensor, Stream | None]:
        """Decodes all patches.

        Args:
            latent: (B, 1 + V, context_dim), the encoder's normed output, class token first.
            context: (B, 1 + V, context_dim), the encoder features to attend to.
            mask: (B, N) bool.
            order: visible patches first.
            position: (1, 1 + N, dim), for masked patches; the class token gets none.
            record: what keeps the stream, if anything.

        Returns:
            Normed patch tokens (B, N, dim), and the stream if it was recorded.
        """
        x = all_tokens(self.embed(latent), self.mask_token, order, record)
        added = position * F.pad(mask, (1, 0)).unsqueeze(-1)
        x = start = x + added
        for block in self.blocks:
            x = block(x, context)
            x = record(x, skip=1) if record else x
        out = self.norm(x)[:, 1:]
        if record is None:
            return out, None
        first: Any = self.blocks[0]

        def attention() -> Tensor:
            return attention_map(first.attn, first.norm1(start))

        return out, Stream(record.tokens, added[:, 1:], attention, self.norm, record.taken)


@torch.no_grad()
def init_qkv(qkv: nn.Linear) -> None:
    """Draws each of the three matrices Xavier-uniformly (BootMAE:models/modeling_pretrain_bootmae.py:359)."""
    bound = math.sqrt(6.0 / (qkv.out_features // 3 + qkv.in_features))
    nn.init.uniform_(qkv.weight, -bound, bound)
