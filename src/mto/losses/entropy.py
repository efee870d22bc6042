"""Row entropies of token affinities, and the masked and visible parts of a batch: what `mto.losses.mto` is made of.

Softmax and entropy are computed in float32 (float64 for float64 tokens) whatever autocast says, from materialised
logits: the identity ``H = logsumexp - x . PX`` cancels catastrophically in low precision. The matrix product is float32
too, since raw dots overflow float16; on a GPU it follows ``torch.set_float32_matmul_precision`` and "high" (TF32) is
several times faster than "highest", PyTorch's default.

All layers that share a width go through one set of operators: where launching kernels is what a step waits for, a dozen
small ones a layer would cost more than their arithmetic.
"""

import math
from collections.abc import Sequence
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from mto.losses.order import TokenOrder

#: Layers go together while their tokens in float32 stay below this many bytes: at 512 MiB all 13 of a ViT-B with 64
#: images of 196 tokens. In passing a group takes three times this; larger layers need no company to keep a GPU busy.
GROUP_BYTES = 2**29


class RowEntropy(torch.autograd.Function):
    """Entropies of softmax(scale * rows cols): rows (..., R, D), cols (..., D, C) -> (..., R), with their gradient.

    Beside its inputs it keeps the probabilities (..., R, C), the second output; they pass gradients too, so that second
    derivatives are complete.

    Args:
        blocked: bool, broadcast to (..., R, C): columns that do not count. A row without any other has entropy 0.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(rows, cols, scale, blocked):
        logits = rows @ cols
        if scale != 1.0:
            logits = logits * scale
        if blocked is None:
            p = logits.softmax(-1)
        else:
            p = logits.masked_fill(blocked, torch.finfo(logits.dtype).min).softmax(-1).masked_fill(blocked, 0.0)
        return torch.special.entr(p).sum(-1), p

    @staticmethod
    def setup_context(ctx, inputs, output):
        rows, cols, ctx.scale, _ = inputs
        entropy, p = output
        ctx.save_for_backward(rows, cols, p, entropy)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, grad, grad_p):
        rows, cols, p, entropy = ctx.saved_tensors
        with torch.autocast(rows.device.type, enabled=False):
            grad_logits = 0.0
            if grad is not None:
                if torch.is_grad_enabled():  # for a second derivative: that of entr is infinite at 0
                    surprise = -p * p.clamp_min(torch.finfo(p.dtype).tiny).log()
                else:
                    surprise = torch.special.entr(p)
                grad_logits = (surprise - p * entropy[..., None]) * grad[..., None]
            if grad_p is not None:
                grad_logits = grad_logits + p * (grad_p - (p * grad_p).sum(-1, keepdim=True))
            if ctx.scale != 1.0:
                grad_logits = grad_logits * ctx.scale
            grad_rows = grad_logits @ cols.mT if ctx.needs_input_grad[0] else None
            grad_cols = rows.mT @ grad_logits if ctx.needs_input_grad[1] else None
        return grad_rows, grad_cols, None, None


class Partition:
    """The masked and visible tokens of a batch, without synchronising a GPU.

    With a known, equal count the tokens are sorted masked-first and every block of the affinity is a slice. Otherwise
    the whole N x N matrix is computed and its unwanted columns are blocked, its unwanted rows given weight 0.
    """

    def __init__(self, mask: Tensor, num_masked: int | None):
        self.mask, self.num_masked = mask, num_masked
        self.num_tokens = mask.shape[1]
        self.order = None if num_masked is None else TokenOrder(mask)

    def entropy(
        self,
        layers: Sequence[Tensor],
        rows: str,
        cols: str,
        *,
        affinity: str,
        temperature: float,
        tokens: str,
        exclude_self: bool = False,
        detach_cols: bool = False,
    ) -> Tensor:
        """(L, B, R) row entropies; without a known count R = N and only the rows asked for have a meaning.

        Args:
            layers: L tensors (B, N, D); D may differ between layers.
            rows: "masked" or "visible".
            cols: "visible" or "all".
            exclude_self: leave out the column of the row's own token.
            detach_cols: let no gradient through the columns' tokens.
        """
        blocked = self._blocked(rows, cols, exclude_self)
        entropies = []
        with torch.autocast(self.mask.device.type, enabled=False):
            for group in _groups(layers):
                x = torch.stack(group) if len(group) > 1 else group[0][None]
                x = x if self.order is None else self.order.sort(x)
                x = normalize_tokens(x if x.dtype == torch.float64 else x.float(), affinity, tokens)
                x_rows, x_cols = self._block(x, rows, cols)
                scale = affinity_scale(x.shape[-1], affinity, temperature)
                x_cols = x_cols.detach() if detach_cols else x_cols
                entropies.append(RowEntropy.apply(x_rows, x_cols.mT, scale, blocked)[0])
        return torch.cat(entropies) if len(entropies) > 1 else entropies[0]

    def _block(self, x: Tensor, rows: str, cols: str) -> tuple[Tensor, Tensor]:
        """The rows' and the columns' tokens of sorted x (..., N, D)."""
        if self.num_masked is None:
            return x, x
        masked, visible = x.split([self.num_masked, self.num_tokens - self.num_masked], dim=-2)
        return masked if rows == "masked" else visible, visible if cols == "visible" else x

    def _blocked(self, rows: str, cols: str, exclude_self: bool) -> Tensor | None:
        """(1 | B, R, C) bool: what `_block` leaves that must not count."""
        blocked = None
        if self.num_masked is None and cols == "visible":
            blocked = self.mask[:, None, :]
        if exclude_self:
            places = torch.arange(self.num_tokens, device=self.mask.device)[:, None]
            at_row, at_col = self._block(places, rows, cols)
            own = (at_row == at_col.mT)[None]
            blocked = own if blocked is None else blocked | own
        return blocked

    def total(self, values: Tensor, rows: str) -> Tensor:
        """Sum of (..., B, R) values over the given rows: (..., B)."""
        if self.num_masked is None:
            values = values * (self.mask if rows == "masked" else ~self.mask)
        return values.sum(-1)

    def mean(self, values: Tensor, rows: str) -> Tensor:
        """Mean of (..., B, R) values over the given rows: (..., B)."""
        if self.num_masked is not None:
            return values.mean(-1)
        return self.total(values, rows) / (self.mask if rows == "masked" else ~self.mask).sum(1)

    def log_visible(self) -> Tensor | float:
        """ln V, a number when the count is known, else (B,)."""
        if self.num_masked is not None:
            return math.log(self.num_tokens - self.num_masked)
        return (~self.mask).sum(1).log()


def _groups(layers: Sequence[Tensor]) -> list[list[Tensor]]:
    """The layers in order, together while they share a width and the group stays below GROUP_BYTES in float32."""
    groups = []
    for _, same in groupby(layers, key=lambda x: x.shape[-1]):
        alike = list(same)
        size = max(1, GROUP_BYTES // (4 * alike[0].numel()))
        groups += [alike[start : start + size] for start in range(0, len(alike), size)]
    return groups


def affinity_scale(dim: int, affinity: str, temperature: float) -> float:
    return (dim**-0.5 if affinity == "scaled" else 1.0) / temperature


def normalize_tokens(x: Tensor, affinity: str, tokens: str) -> Tensor:
    """Apply the parameter-free normalisation of the tokens (..., D)."""
    if tokens == "layernorm":
        x = F.layer_norm(x, x.shape[-1:], eps=1e-6)
    return F.normalize(x, dim=-1, eps=1e-6) if tokens == "l2" or affinity == "cosine" else x


def freeze_visible(x: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask[..., None], x, x.detach())


def attention_entropy(attention: Tensor, mask: Tensor, visible_columns: bool, exclude_self: bool) -> Tensor:
    """(B, N) row entropies of attention weights (B, N, N), renormalised over the columns that count."""
    if attention.shape != (*mask.shape, mask.shape[1]):
        raise ValueError(f"attention: expected (B, N, N) over the patches, got {tuple(attention.shape)}")
    p = attention if attention.dtype == torch.float64 else attention.float()
    if visible_columns:
        p = p.masked_fill(mask[:, None, :], 0.0)
    if exclude_self:
        p = p.masked_fill(torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device), 0.0)
    tiny = torch.finfo(p.dtype).tiny
    p = p / p.sum(-1, keepdim=True).clamp_min(tiny)
    return -(p * p.clamp_min(tiny).log()).sum(-1)
