"""What the four methods share: the interface training relies on, the token streams MTO reads, small helpers."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mto.losses.order import TokenOrder
from mto.losses.stream import Recorder
from mto.losses.taps import Taps
from mto.methods.memory import made_again


@dataclass
class Stream:
    """The residual stream that holds a method's masked tokens (MTO, Eq. 2: X⁰ … Xᴸ).

    Attributes:
        tokens: X⁰, before any position term, then the outputs of the L blocks; each (B, N, D), class token removed,
            patches in raster order.
        position: what the network adds to X⁰, (1 | B, N, D); None where there is no additive position.
        first_attention: computes block 1's attention, (B, N, N), mean over heads, softmax over all tokens, class row
            and column left out. A call, because it costs a second pass over the queries and keys.
        final_norm: the norm that the network applies to Xᴸ.
        taken: what MTO's taps took of the tokens in passing, if it was them that ``return_hidden`` brought.
    """

    tokens: list[Tensor]
    position: Tensor | None
    first_attention: Callable[[], Tensor] | None
    final_norm: Callable[[Tensor], Tensor] | None
    taken: Any = None


def open_record(return_hidden: bool | Taps, layers: int) -> Recorder | None:
    """Returns what keeps X⁰ and the outputs of so many layers, or None where nothing is to be kept."""
    if isinstance(return_hidden, Taps):
        return return_hidden.recorder(1 + layers)
    return Recorder() if return_hidden else None


class Method(nn.Module, ABC):
    """A masked-image-modelling method: an encoder on timm, a mask token, a head or decoder, a loss.

    Methods without a teacher inherit the teacher's part as it stands here.
    """

    encoder: Any  # timm's VisionTransformer (MAE) or Beit
    patch_size: int
    grid_size: tuple[int, int]

    # ------------------------------------------------------------------------------------------------------- training

    @abstractmethod
    def constant_loss(self, images: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Returns, by name, the value of a loss term where an image's masked patches are all predicted alike.

        It is that of the best such prediction for these images (B, 3, H, W) and mask (B, N). Masked tokens that are all
        one cannot do better, so that a network at this level has learnt nothing about places.
        """

    def epoch_inputs(self, epoch: int, epochs: int) -> dict[str, Any]:
        """Returns forward's keyword arguments that change by epoch; `epoch` counts completed epochs, from 0."""
        return {}

    def make_teacher(self) -> nn.Module | None:
        """Returns a fresh teacher, equal to this student, without gradients; None if the method has none."""
        return None

    def teacher_targets(
        self, teacher: nn.Module | None, images: Tensor, teacher_images: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Returns the keyword arguments of forward that the teacher computes, without gradients."""
        return {}

    def teacher_momentum(self, step: int, total_steps: int, epoch: int, epochs: int) -> float | None:
        """Returns the update's momentum after optimiser step `step` of epoch `epoch` (both from 0)."""
        return None

    def update_teacher(self, teacher: nn.Module, momentum: float) -> None:
        """Moves the teacher: teacher ← momentum · teacher + (1 − momentum) · student."""
        raise TypeError(f"{type(self).__name__} has no teacher to update")

    def param_names_without_decay(self) -> set[str]:
        """Returns the parameters that the official code exempts from weight decay, beyond 1-D tensors and biases."""
        return {"encoder.cls_token"}

    # -------------------------------------------------------------------------------------------------------- weights

    def encoder_state(self, teacher: nn.Module | None = None) -> dict[str, Tensor]:
        """Returns the encoder for downstream tasks, under timm's names (`mto.methods.encoder.timm_arguments`)."""
        return self.encoder.state_dict()

    @abstractmethod
    def official_key(self, key: str) -> str | None:
        """Returns our key for a key of the official state dict; None for an entry that we do not need."""

    def load_official(self, state_dict: Mapping[str, Tensor], *, encoder_only: bool = False) -> list[str]:
        """Loads the official repository's pre-training state dict (the checkpoint's entry ``model``).

        Args:
            encoder_only: what is not the encoder's may be missing, and stays as it is.

        Returns:
            The keys that were not needed.

        Raises:
            ValueError: on a key that is unknown or missing, or a shape that differs; nothing is loaded then.
        """
        own, loaded, unused, problems = self.state_dict(), {}, [], []
        for key, value in state_dict.items():
            ours = self.official_key(key)
            if ours is None:
                unused.append(key)
            elif ours not in own:
                problems.append(f"unknown key '{key}'")
            elif own[ours].shape != value.shape:
                problems.append(f"'{key}' has shape {tuple(value.shape)}, not {tuple(own[ours].shape)}")
            else:
                loaded[ours] = value
        claimed = {self.official_key(key) for key in state_dict}
        needed = [key for key in own if key.startswith("encoder.") or not encoder_only]
        problems += [f"nothing for '{key}'" for key in needed if key not in claimed]
        if problems:
            shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
            raise ValueError(f"not an official {type(self).__name__} state dict of this size: {shown}")
        self.load_state_dict(own | loaded)
        return unused

    # -------------------------------------------------------------------------------------------------------- helpers

    def check_mask(self, images: Tensor, mask: Tensor) -> None:
        """Raises ValueError unless the mask is (B, N) bool."""
        expected = (len(images), self.grid_size[0] * self.grid_size[1])
        if mask.shape != expected or mask.dtype != torch.bool:
            raise ValueError(
                f"mask must be bool of shape (batch, patches) = {expected}, True where masked; "
                f"got {mask.dtype} of shape {tuple(mask.shape)}"
            )

    def fold(self, tokens: Tensor) -> Tensor:
        """Returns (B, N, C) tokens as a (B, C, h, w) map."""
        return tokens.transpose(1, 2).unflatten(2, self.grid_size)


def all_tokens(visible: Tensor, mask_token: Tensor, order: TokenOrder, record: Recorder | None) -> Tensor:
    """Returns the class token, then visible and mask tokens in raster order, (B, 1 + N, D), as the record has them.

    A tap of the record is all that would keep them for its backward pass: they are put together again there.

    Args:
        visible: (B, 1 + V, D), the class token first.
        order: visible patches first.
    """

    def patches_of(visible: Tensor) -> Tensor:
        masked = mask_token.expand(len(visible), order.shape[1] + 1 - visible.shape[1], -1)
        return order.restore(torch.cat([visible[:, 1:], masked], dim=1))

    def whole(visible: Tensor) -> Tensor:
        return torch.cat([visible[:, :1], patches_of(visible)], dim=1)

    patches = patches_of(visible)
    x = torch.cat([visible[:, :1], patches], dim=1)
    if record is None:
        return x
    with made_again(x, whole, visible):
        return record(x, skip=1, patches=patches)


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """Cuts images (B, C, H, W) into patches (B, N, C, P²), in raster order inside and out."""
    b, c, h, w = images.shape
    p = patch_size
    return images.reshape(b, c, h // p, p, w // p, p).permute(0, 2, 4, 1, 3, 5).reshape(b, -1, c, p * p)


def masked_mean(per_patch: Tensor, mask: Tensor) -> Tensor:
    """Returns the mean of (B, N) values over all masked patches; boolean indexing would wait for the GPU."""
    weight = mask.to(per_patch.dtype)
    return (per_patch * weight).sum() / weight.sum()


def mean_patch(target: Tensor, weight: Tensor) -> Tensor:
    """Returns each image's weighted mean patch: (B, N, ...) and weights (B, N) -> (B, 1, ...)."""
    weight = weight.reshape(*weight.shape, *[1] * (target.ndim - 2))
    return (target * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True)


def masked_in_each(mask: Tensor) -> int:
    """Returns the number of masked patches of each image.

    This waits for the device, so callers that know the count pass it instead.

    Raises:
        ValueError: if images differ, since the encoder gathers the same number of visible patches from each.
    """
    counts = mask.sum(dim=1)
    low, high = int(counts.min()), int(counts.max())
    if low != high:
        raise ValueError(f"every image must mask the same number of patches here, got {low} to {high}")
    return low


def attention_map(attention: Any, tokens: Tensor, bias: Tensor | None = None) -> Tensor:
    """Returns the softmax attention among the patches, (B, N, N), mean over heads, of normed tokens (B, 1 + N, D).

    The softmax runs over all keys, class token included; its row and column are then left out.

    Args:
        attention: a module with `qkv`, `num_heads`, `scale` and, in BEiT's style, `q_bias` and `v_bias`.
        bias: additive bias on the logits, (1, heads, 1 + N, 1 + N).
    """
    qkv = attention.qkv(tokens)
    if getattr(attention, "q_bias", None) is not None:
        qkv = qkv + torch.cat([attention.q_bias, torch.zeros_like(attention.v_bias), attention.v_bias])
    q, k, _ = qkv.float().unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    with torch.autocast(tokens.device.type, enabled=False):  # float32, as all of MTO
        logits = q * attention.scale @ k.transpose(-2, -1)
    if bias is not None:
        logits = logits + bias
    return logits.softmax(dim=-1).mean(dim=1)[:, 1:, 1:]


@torch.no_grad()
def average_(teacher: Iterable[Tensor], student: Iterable[Tensor], momentum: float) -> None:
    """Moves the teacher: teacher ← momentum · teacher + (1 − momentum) · student, in a few fused kernels."""
    torch._foreach_lerp_(list(teacher), [value.detach() for value in student], 1.0 - momentum)
