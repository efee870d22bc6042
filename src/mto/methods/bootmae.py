"""BootMAE (Dong et al., ECCV 2022; LightDXY/BootMAE@d604b18): pixels and a teacher's features, two decoders."""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mto.losses.order import TokenOrder
from mto.losses.taps import Taps
from mto.methods.base import Method, average_, masked_in_each, mean_patch, open_record, patchify
from mto.methods.bootmae_decoder import Decoder, init_qkv
from mto.methods.encoder import build_encoder, init_xavier, init_xavier_patches
from mto.methods.position import sincos_2d


class BootMAE(Method):
    """Bootstrapped masked autoencoder.

    The pixel decoder attends to the first block's output, the feature decoder to the last block's.

    Args:
        decoder_embed_dim: width of the pixel decoder; the feature decoder is as wide as the encoder.
        decoder_depth: depth of both decoders.
        decoder_num_heads: heads in both; None: as many as the encoder.
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
        decoder_depth: int = 2,
        decoder_num_heads: int | None = None,
    ) -> None:
        super().__init__()
        self.encoder = build_encoder(
            "bootmae",
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

        position = sincos_2d(decoder_embed_dim, self.grid_size, row_first=True)
        self.decoder_pos_embed = nn.Parameter(position, requires_grad=False)
        sizes: dict[str, Any] = {
            "context_dim": embed_dim,
            "depth": decoder_depth,
            "num_heads": decoder_num_heads or num_heads,
            "mlp_ratio": mlp_ratio,
        }
        self.pixel_decoder = Decoder(dim=decoder_embed_dim, **sizes)
        # A linear map of a token to its patch, as a transposed convolution; it keeps the framework's initialisation.
        self.pixel_head = nn.ConvTranspose2d(decoder_embed_dim, 3, kernel_size=patch_size, stride=patch_size)
        self.feature_decoder = Decoder(dim=embed_dim, **sizes)
        self.feature_head = nn.Linear(embed_dim, embed_dim)
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """Initialises as BootMAE:models/modeling_pretrain_bootmae.py:355-378 does; no rescaling by depth."""
        init_xavier(self.encoder)
        init_xavier(self.feature_head)
        for block in self.encoder.blocks:
            init_qkv(block.attn.qkv)
        init_xavier_patches(self.encoder.patch_embed.proj)
        nn.init.zeros_(self.encoder.patch_embed.proj.bias)
        nn.init.normal_(self.encoder.cls_token, std=1e-6)

    def forward(
        self,
        images: Tensor,
        mask: Tensor,
        *,
        teacher_features: Tensor | None = None,
        feature_weight: float = 1.0,
        num_masked: int | None = None,
        return_hidden: bool | Taps = False,
    ) -> dict[str, Any]:
        """Predicts the targets of the masked patches, and their loss.

        Args:
            images: (B, 3, H, W), normalised.
            mask: (B, N) bool, True = masked, the same count in each row.
            teacher_features: (B, N, D), from `teacher_targets`.
            feature_weight: the epoch's weight of the feature loss, from `epoch_inputs`.
            num_masked: masked patches in each row; without it the mask is counted, which waits for the GPU.

        Returns:
            pixel: the weighted squared error of normalised pixels; feature: that of normed features, times
            feature_weight; loss: their sum. With return_hidden, also hidden: {"pixel": Stream, "feature": Stream}.
        """
        self.check_mask(images, mask)
        if teacher_features is None:
            raise ValueError("BootMAE's feature loss needs teacher_features, from teacher_targets(teacher, images)")
        num_visible = mask.shape[1] - (masked_in_each(mask) if num_masked is None else num_masked)
        order = TokenOrder(~mask)
        latent, shallow, deep = self.forward_encoder(images, order, num_visible)
        pixel_record, feature_record = (
            open_record(return_hidden, len(decoder.blocks)) for decoder in (self.pixel_decoder, self.feature_decoder)
        )
        pixel_tokens, pixel_stream = self.pixel_decoder(
            latent, shallow, mask, order, self.decoder_pos_embed, pixel_record
        )
        feature_tokens, feature_stream = self.feature_decoder(
            latent, deep, mask, order, self.encoder.pos_embed, feature_record
        )
        weight = self.loss_weight(mask)
        pixel = self.pixel_loss(images, self.pixel_head(self.fold(pixel_tokens)), weight)
        feature = self.feature_loss(teacher_features, self.feature_head(feature_tokens), weight) * feature_weight
        out: dict[str, Any] = {"pixel": pixel, "feature": feature, "loss": pixel + feature}
        return out | {"hidden": {"pixel": pixel_stream, "feature": feature_stream}} if return_hidden else out

    def forward_encoder(self, images: Tensor, order: TokenOrder, num_visible: int) -> tuple[Tensor, Tensor, Tensor]:
        """Encodes the V patches that come first in `order`.

        Returns:
            The normed output and the outputs of the first and the last block, (B, 1 + V, D) each.
        """
        encoder = self.encoder
        x = order.head(encoder.patch_embed(images) + encoder.pos_embed[:, 1:], num_visible)
        cls_token = encoder.cls_token + encoder.pos_embed[:, :1]
        x = torch.cat([cls_token.expand(len(x), -1, -1), x], dim=1)
        outputs = []
        for block in encoder.blocks:
            x = block(x)
            outputs.append(x)
        return encoder.norm(x), outputs[0], x

    def loss_weight(self, mask: Tensor) -> Tensor:
        """Returns the weights of the patches, (B, N).

        They are 0 where visible, and 1 + the masked share of the 3×3 neighbourhood where masked, over the masked share
        of the batch (BootMAE:run_pretraining.py:420). Beyond the border counts as visible.
        """
        masked = mask.float().unflatten(1, self.grid_size).unsqueeze(1)
        weight = masked * (1.0 + F.avg_pool2d(masked, kernel_size=3, stride=1, padding=1))
        return weight.flatten(1) / masked.mean()

    def pixel_loss(self, images: Tensor, prediction: Tensor, weight: Tensor) -> Tensor:
        """Returns the weighted squared error of normalised pixels (BootMAE:run_pretraining.py:436)."""
        error = (patchify(prediction.float(), self.patch_size) - self.pixel_target(images)).square().mean(dim=(2, 3))
        return (weight * error).mean()

    def pixel_target(self, images: Tensor) -> Tensor:
        """Returns (B, N, 3, P²): each patch and colour normalised by its own mean and biased variance."""
        target = patchify(images.float(), self.patch_size)
        variance, mean = torch.var_mean(target, dim=-1, correction=0, keepdim=True)
        return (target - mean) / (variance + 1e-5).sqrt()

    def constant_loss(self, images: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Returns the weighted squared distance to each image's mean masked patch, of the pixels alone."""
        target, weight = self.pixel_target(images), self.loss_weight(mask)
        distance = (target - mean_patch(target, weight)).square().mean(dim=(2, 3))
        return {"pixel": (weight * distance).mean()}

    def feature_loss(self, target: Tensor, prediction: Tensor, weight: Tensor) -> Tensor:
        """Returns the weighted squared error of features (BootMAE:run_pretraining.py:459).

        Target and prediction first pass a layer norm without parameters.
        """
        target, prediction = (F.layer_norm(x.float(), x.shape[-1:], eps=1e-6) for x in (target, prediction))
        return (weight * (prediction - target).square().mean(dim=-1)).mean()

    # -------------------------------------------------------------------------------------------------------- teacher

    def epoch_inputs(self, epoch: int, epochs: int) -> dict[str, float]:
        """Returns the feature loss's weight: linear to 1 over a quarter (BootMAE:run_pretraining.py:385)."""
        return {"feature_weight": min(4.0 * (epoch + 1) / epochs, 1.0)}

    def make_teacher(self) -> nn.Module:
        """Returns a copy of the encoder; the official one copies the decoders too, but never uses those."""
        return copy.deepcopy(self.encoder).requires_grad_(False).eval()

    @torch.no_grad()
    def teacher_targets(self, teacher: Any, images: Tensor, teacher_images: Tensor | None = None) -> dict[str, Tensor]:
        """Returns the output of the teacher's last block on the whole images, without the final norm."""
        if teacher is None:
            raise ValueError("BootMAE's targets need the teacher, from make_teacher()")
        if teacher.training:
            teacher.eval()
        _, (features,) = teacher.forward_intermediates(images, 1, output_fmt="NLC")
        return {"teacher_features": features}

    def teacher_momentum(self, step: int, total_steps: int, epoch: int, epochs: int) -> float:
        """Returns 0.999 → 0.9999 over 100 epochs, → 0.99999 over 300 more (BootMAE:utils.py:586, dynamic)."""
        if epoch < 100:
            return 0.999 + epoch / 100 * (0.9999 - 0.999)
        return 0.9999 + min(300, epoch - 100) / 300 * (0.99999 - 0.9999)

    def update_teacher(self, teacher: nn.Module, momentum: float) -> None:
        average_(teacher.state_dict().values(), self.encoder.state_dict().values(), momentum)

    def official_key(self, key: str) -> str | None:
        if key == "de_pos_embed":
            return "decoder_pos_embed"
        for theirs, ours in _OFFICIAL_PREFIXES.items():
            if key == theirs or key.startswith(theirs + "."):
                return ours + key.removeprefix(theirs)
        return "encoder." + key


_OFFICIAL_PREFIXES = {
    "down": "pixel_decoder.embed",
    "mask_token": "pixel_decoder.mask_token",
    "decode_blocks": "pixel_decoder.blocks",
    "decode_norm": "pixel_decoder.norm",
    "lm_head.proj": "pixel_head",
    "down_1": "feature_decoder.embed",
    "mask_token_1": "feature_decoder.mask_token",
    "decode_blocks_1": "feature_decoder.blocks",
    "decode_norm_1": "feature_decoder.norm",
    "lm_head_1": "feature_head",
}
