"""SimMIM (Xie et al., CVPR 2022; microsoft/SimMIM@d3e29bc): mask tokens in the encoder, raw pixels, L1."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mto.losses.taps import Taps
from mto.methods.base import masked_mean, patchify
from mto.methods.masked_beit import MaskedBeit


class SimMIM(MaskedBeit):
    """SimMIM with a ViT.

    Args:
        drop_path: rate at the last block, rising linearly from 0; active in pre-training.
        init_values: LayerScale's initial value.

    Example:
        >>> model = SimMIM(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2)
        >>> mask = torch.rand(2, 16) < 0.6
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
        drop_path: float = 0.1,
        init_values: float | None = 0.1,
    ) -> None:
        super().__init__(
            "simmim",
            img_size=img_size,
            patch_size=patch_size,
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            drop_path=drop_path,
            init_values=init_values,
        )
        # The head keeps the framework's own initialisation (SimMIM:models/simmim.py:104).
        self.head = nn.Conv2d(embed_dim, 3 * patch_size**2, kernel_size=1)

    def forward(
        self, images: Tensor, mask: Tensor, *, num_masked: int | None = None, return_hidden: bool | Taps = False
    ) -> dict[str, Any]:
        """Predicts the targets of the masked patches, and their loss.

        Args:
            images: (B, 3, H, W), normalised.
            mask: (B, N) bool, True = masked; rows may differ in count.
            num_masked: not needed here, where masked patches stay in the sequence.

        Returns:
            reconstruction: the L1 distance to the raw image over masked pixels (SimMIM:models/simmim.py:118); loss.
            With return_hidden, also hidden: {"encoder": Stream}.
        """
        tokens, stream = self.encode(images, mask, return_hidden)
        pixels = F.pixel_shuffle(self.head(self.fold(tokens[:, 1:])), self.patch_size)
        error = patchify((images.float() - pixels.float()).abs(), self.patch_size).mean(dim=(2, 3))
        area = self.patch_size**2
        loss = (error * mask).sum() * area / (mask.sum() * area + 1e-5)  # the official guard against empty masks
        out: dict[str, Any] = {"reconstruction": loss, "loss": loss}
        return out | {"hidden": {"encoder": stream}} if return_hidden else out

    def constant_loss(self, images: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Returns the L1 distance to each image's median masked patch."""
        target = patchify(images.float(), self.patch_size).flatten(2)
        # torch.median has no deterministic form on a GPU; sorting, visible patches last, does as well.
        ordered = target.masked_fill(~mask[..., None], torch.inf).sort(dim=1).values
        middle = ((mask.sum(1) - 1) // 2)[:, None, None].expand(-1, 1, target.shape[2])
        distance = (target - ordered.gather(1, middle)).abs().mean(-1)
        return {"reconstruction": masked_mean(distance, mask)}

    def official_key(self, key: str) -> str | None:
        if key.endswith("relative_position_index"):
            return None  # a constant, which timm computes
        if key == "encoder.mask_token":
            return "mask_token"
        return "head." + key.removeprefix("decoder.0.") if key.startswith("decoder.0.") else key
