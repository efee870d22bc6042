"""MAE (He et al., CVPR 2022; facebookresearch/mae@efb2a80): encode visible patches, decode all, predict pixels."""

from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from mto.losses.order import TokenOrder
from mto.losses.taps import Taps
from mto.methods.base import (
    Method,
    Stream,
    all_tokens,
    attention_map,
    masked_in_each,
    masked_mean,
    mean_patch,
    open_record,
    patchify,
)
from mto.methods.encoder import build_encoder, init_xavier, init_xavier_patches
from mto.methods.position import sincos_2d


class MAE(Method):
    """Masked autoencoder.

    Args:
        norm_pix: normalise each target patch by its own mean and deviation (the recommended command's choice).

    Example:
        >>> model = MAE(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, decoder_num_heads=2)
        >>> mask = torch.arange(16).repeat(2, 1) >= 4
        >>> model(torch.randn(2, 3, 32, 32), mask)["loss"].backward()
    """

    def __init__(
        self,
        *,
        img_size: int = 224,
        patch_size: int = 16,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        decoder_embed_dim: int = 512,
        decoder_depth: int = 8,
        decoder_num_heads: int = 16,
        norm_pix: bool = True,
    ) -> None:
        super().__init__()
        if decoder_embed_dim % decoder_num_heads:
            raise ValueError(f"decoder_num_heads: {decoder_num_heads} does not divide {decoder_embed_dim}")
        self.encoder = build_encoder(
            "mae",
            img_size=img_size,
            patch_size=patch_size,
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            drop_path=drop_path,
        )
        self.patch_size = patch_size
        self.grid_size = self.encoder.patch_embed.grid_size
        self.norm_pix = norm_pix
        self.decoder_embed = nn.Linear(embed_dim, decoder_embed_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_embed_dim))
        position = sincos_2d(decoder_embed_dim, self.grid_size, row_first=False)
        self.decoder_pos_embed = nn.Parameter(position, requires_grad=False)
        self.decoder_blocks = nn.ModuleList(
            Block(decoder_embed_dim, decoder_num_heads, mlp_ratio, qkv_bias=True) for _ in range(decoder_depth)
        )
        self.decoder_norm = nn.LayerNorm(decoder_embed_dim, eps=1e-6)
        self.decoder_pred = nn.Linear(decoder_embed_dim, 3 * patch_size**2)

        init_xavier(self)
        # The bias of the patch embedding keeps the framework's initialisation (MAE:models_mae.py:75).
        init_xavier_patches(self.encoder.patch_embed.proj)
        nn.init.normal_(self.encoder.cls_token, std=0.02)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(
        self, images: Tensor, mask: Tensor, *, num_masked: int | None = None, return_hidden: bool | Taps = False
    ) -> dict[str, Any]:
        """Predicts the targets of the masked patches, and their loss.

        Args:
            images: (B, 3, H, W), normalised.
            mask: (B, N) bool, True = masked, the same count in each row.
            num_masked: that count; without it the mask is counted, which waits for the GPU.

        Returns:
            reconstruction: mean squared error over masked patches (MAE:models_mae.py:198); loss.
            With return_hidden, also hidden: {"decoder": Stream}.
        """
        self.check_mask(images, mask)
        num_visible = mask.shape[1] - (masked_in_each(mask) if num_masked is None else num_masked)
        order = TokenOrder(~mask)
        latent = self.forward_encoder(images, order, num_visible)
        prediction, stream = self.forward_decoder(latent, order, return_hidden)
        error = (prediction.float() - self.target(images)).square().mean(dim=-1)
        loss = masked_mean(error, mask)
        out: dict[str, Any] = {"reconstruction": loss, "loss": loss}
        return out | {"hidden": {"decoder": stream}} if return_hidden else out

    def forward_encoder(self, images: Tensor, order: TokenOrder, num_visible: int) -> Tensor:
        """Returns the normed tokens of the class and of the first V patches in `order`: (B, 1 + V, D)."""
        encoder = self.encoder
        x = order.head(encoder.patch_embed(images) + encoder.pos_embed[:, 1:], num_visible)
        cls_token = encoder.cls_token + encoder.pos_embed[:, :1]
        x = torch.cat([cls_token.expand(len(x), -1, -1), x], dim=1)
        for block in encoder.blocks:
            x = block(x)
        return encoder.norm(x)

    def forward_decoder(
        self, latent: Tensor, order: TokenOrder, return_hidden: bool | Taps = False
    ) -> tuple[Tensor, Stream | None]:
        """Predicts the patches, (B, N, P²·3), pixels in raster order with the colour fastest."""
        record = open_record(return_hidden, len(self.decoder_blocks))
        x = all_tokens(self.decoder_embed(latent), self.mask_token, order, record)
        x = start = x + self.decoder_pos_embed
        for block in self.decoder_blocks:
            x = block(x)
            x = record(x, skip=1) if record else x
        prediction = self.decoder_pred(self.decoder_norm(x))[:, 1:]
        if record is None:
            return prediction, None
        first: Any = self.decoder_blocks[0]

        def attention() -> Tensor:
            return attention_map(first.attn, first.norm1(start))

        position = self.decoder_pos_embed[:, 1:]
        return prediction, Stream(record.tokens, position, attention, self.decoder_norm, record.taken)

    def target(self, images: Tensor) -> Tensor:
        """Returns (B, N, P²·3): pixels, or those normalised with the unbiased variance (MAE:models_mae.py:204)."""
        target = patchify(images.float(), self.patch_size).transpose(2, 3).flatten(2)
        if not self.norm_pix:
            return target
        return (target - target.mean(dim=-1, keepdim=True)) / (target.var(dim=-1, keepdim=True) + 1e-6).sqrt()

    def constant_loss(self, images: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Returns the squared distance to each image's mean masked patch."""
        target = self.target(images)
        distance = (target - mean_patch(target, mask.float())).square().mean(-1)
        return {"reconstruction": masked_mean(distance, mask)}

    def param_names_without_decay(self) -> set[str]:
        """Returns none: MAE decays the class token too (MAE:main_pretrain.py:179)."""
        return set()

    def official_key(self, key: str) -> str | None:
        own = key.startswith("decoder_") or key == "mask_token"
        return key if own else "encoder." + key
