"""ConMIM (Yi et al., ICLR 2023; TencentARC/ConMIM@4263955): contrast masked patches with a teacher's patches."""

import copy
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mto.losses.taps import Taps
from mto.methods.base import average_, masked_mean
from mto.methods.encoder import init_beit
from mto.methods.masked_beit import MaskedBeit


class ConMIM(MaskedBeit):
    """Denoising contrast inside an image.

    A masked patch's token must find the teacher's token of the same place among all patches of the same image.

    The official network also holds an 8192-way head that gets no gradient (ConMIM:modeling_pretrain.py:67); it is not
    built, and `load_official` returns its entries as unused.

    Args:
        init_values: LayerScale's initial value (0.1 for ViT-B, 1e-5 for ViT-L).
        projector_dim: width of the projector's two hidden layers.
        output_dim: width of its output.
        temperature: of the softmax over patches.
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
        init_values: float | None = 0.1,
        projector_dim: int = 4096,
        output_dim: int = 256,
        temperature: float = 0.1,
    ) -> None:
        super().__init__(
            "conmim",
            img_size=img_size,
            patch_size=patch_size,
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            drop_path=drop_path,
            init_values=init_values,
        )
        self.temperature = temperature
        self.projector = nn.Sequential(
            nn.Linear(embed_dim, projector_dim, bias=False),
            nn.BatchNorm1d(projector_dim),
            nn.ReLU(inplace=True),
            nn.Linear(projector_dim, projector_dim, bias=False),
            nn.BatchNorm1d(projector_dim),
            nn.ReLU(inplace=True),
            nn.Linear(projector_dim, output_dim, bias=False),
            nn.BatchNorm1d(output_dim, affine=False),
        )
        init_beit(self.projector)

    def forward(
        self,
        images: Tensor,
        mask: Tensor,
        *,
        teacher_features: Tensor | None = None,
        num_masked: int | None = None,
        return_hidden: bool | Taps = False,
    ) -> dict[str, Any]:
        """Predicts the targets of the masked patches, and their loss.

        Args:
            images: (B, 3, H, W), normalised.
            mask: (B, N) bool, True = masked; rows may differ in count.
            teacher_features: (B, N, output_dim), from `teacher_targets`.
            num_masked: not needed here, where masked patches stay in the sequence.

        Returns:
            contrastive: cross-entropy, mean over the masked patches of the batch (ConMIM:engine_for_pretraining.py:68);
            loss. With return_hidden, also hidden: {"encoder": Stream}.
        """
        if teacher_features is None:
            raise ValueError(
                "ConMIM's loss needs teacher_features, from teacher_targets(teacher, images, teacher_images)"
            )
        tokens, stream = self.encode(images, mask, return_hidden)
        features = self.project(tokens)
        # In fp32: a bf16 similarity divided by the temperature is only good to 0.04.
        with torch.autocast(images.device.type, enabled=False):
            student = F.normalize(features.float(), dim=-1)
            teacher = F.normalize(teacher_features.float(), dim=-1)
            logits = student @ teacher.transpose(1, 2) / self.temperature  # (B, N student, N teacher)
            loss = masked_mean(logits.logsumexp(dim=-1) - logits.diagonal(dim1=1, dim2=2), mask)
        out: dict[str, Any] = {"contrastive": loss, "loss": loss}
        return out | {"hidden": {"encoder": stream}} if return_hidden else out

    def project(self, tokens: Tensor) -> Tensor:
        """Projects (B, 1 + N, D) to (B, N, output_dim). The batch norms see the class tokens too."""
        return self.projector(tokens.flatten(0, 1)).unflatten(0, tokens.shape[:2])[:, 1:]

    def constant_loss(self, images: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Returns the logarithm of the number of candidates: every patch is as likely as any other."""
        return {"contrastive": torch.tensor(math.log(mask.shape[1]), device=mask.device)}

    # -------------------------------------------------------------------------------------------------------- teacher

    def make_teacher(self) -> "ConMIM":
        return copy.deepcopy(self).requires_grad_(False)

    @torch.no_grad()
    def teacher_targets(self, teacher: Any, images: Tensor, teacher_images: Tensor | None = None) -> dict[str, Tensor]:
        """Returns the teacher's tokens of the unmasked `teacher_images` (the same crop, strong colour change).

        The teacher is never put in eval mode: its batch norms use the batch (ConMIM:engine_for_pretraining.py:24).
        """
        if teacher is None or teacher_images is None:
            raise ValueError("ConMIM's targets need the teacher and teacher_images, the recoloured view of each crop")
        if not teacher.training:
            teacher.train()
        tokens, _ = teacher.encode(teacher_images, None)
        return {"teacher_features": teacher.project(tokens)}

    def teacher_momentum(self, step: int, total_steps: int, epoch: int, epochs: int) -> float:
        """Returns the momentum: 0.996 → 1 by a half cosine over all steps (ConMIM:run_conmim_pretraining.py:256)."""
        return 1.0 - (1.0 - 0.996) * (1.0 + math.cos(math.pi * step / total_steps)) / 2.0

    def update_teacher(self, teacher: nn.Module, momentum: float) -> None:
        """Averages parameters only; the teacher's batch-norm buffers follow its own passes."""
        average_(teacher.parameters(), self.parameters(), momentum)

    def encoder_state(self, teacher: Any = None) -> dict[str, Tensor]:
        """Returns the teacher's encoder, as ConMIM evaluates (ConMIM:README.md:73); without one, the student's."""
        return (self if teacher is None else teacher).encoder.state_dict()

    def official_key(self, key: str) -> str | None:
        if key.startswith("lm_head.") or key.endswith("relative_position_index"):
            return None
        if key.startswith("projectors."):
            return "projector." + key.removeprefix("projectors.")
        return key if key == "mask_token" else "encoder." + key
