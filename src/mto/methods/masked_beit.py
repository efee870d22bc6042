"""A BEiT encoder that sees mask tokens: what SimMIM and ConMIM have in common."""

import torch
from torch import Tensor, nn

from mto.losses.taps import Taps
from mto.methods.base import Method, Stream, attention_map, open_record
from mto.methods.encoder import build_encoder, cut_normal_, init_beit
from mto.methods.position import relative_bias


class MaskedBeit(Method):
    """The encoder over all patches, masked ones replaced by the mask token before class token and position.

    Positions enter only through one relative bias table, shared by all blocks.
    """

    def __init__(
        self,
        baseline: str,
        *,
        img_size: int,
        patch_size: int,
        embed_dim: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float,
        drop_path: float,
        init_values: float | None,
    ) -> None:
        super().__init__()
        self.encoder = build_encoder(
            baseline,
            img_size=img_size,
            patch_size=patch_size,
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            drop_path=drop_path,
            init_values=init_values,
        )
        self.patch_size = patch_size
        self.grid_size = self.encoder.patch_embed.grid_size
        self.mask_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        init_beit(self.encoder)
        cut_normal_(self.mask_token)

    def encode(
        self, images: Tensor, mask: Tensor | None, return_hidden: bool | Taps = False
    ) -> tuple[Tensor, Stream | None]:
        """Returns the normed output tokens, (B, 1 + N, D), class token first, and the stream if asked for.

        Without a mask all patches are visible.
        """
        encoder = self.encoder
        x = encoder.patch_embed(images)
        if mask is not None:
            self.check_mask(images, mask)
            x = torch.where(mask.unsqueeze(-1), self.mask_token, x)  # in fp32 under autocast, and so the stream
        record = open_record(return_hidden, len(encoder.blocks))
        patches, x = x, torch.cat([encoder.cls_token.expand(len(x), -1, -1), x], dim=1)
        x = start = record(x, skip=1, patches=patches) if record else x
        # (1, heads, 1 + N, 1 + N): fused attention wants four dimensions
        bias = relative_bias(encoder.rel_pos_bias.relative_position_bias_table, self.grid_size).unsqueeze(0)
        # A GPU's fused kernels differentiate the bias; a CPU's cannot, and timm's plain products beat what takes over.
        fused = images.device.type != "cpu" or not bias.requires_grad
        for block in encoder.blocks:
            block.attn.fused_attn = fused
            x = block(x, shared_rel_pos_bias=bias)
            x = record(x, skip=1) if record else x
        out = encoder.norm(x)
        if record is None:
            return out, None
        first = encoder.blocks[0]

        def attention() -> Tensor:
            return attention_map(first.attn, first.norm1(start), bias)

        return out, Stream(record.tokens, None, attention, encoder.norm, record.taken)
