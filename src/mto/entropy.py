"""Row entropies of token affinities, and the masked and visible parts of a batch: what `mto.objectives` is made of.

Softmax and entropy are computed in float32 (float64 for float64 tokens) whatever autocast says, from materialised
logits: the identity ``H = logsumexp - x . PX`` cancels catastrophically in low precision. The matrix product is float32
too, since raw dots overflow float16; on a GPU it follows ``torch.set_float32_matmul_precision`` and "high" (TF32) is
several times faster than "highest", PyTorch's default.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


class RowEntropy(torch.autograd.Function):
    """Entropy of softmax(scale * X_rows X_cols^T) per row, (B, R), with its gradient written out.

    Only the token states themselves (which their layer mostly keeps anyway) and the R x C log-probabilities are saved;
    reordered float32 copies of the tokens are made again in the backward pass, and no scatter is needed.
    """

    @staticmethod
    def forward(ctx, x, order, inverse, rows, cols, scale, blocked):
        y = _reorder(x, order)
        logits = (y[:, rows[0] : rows[1]] @ y[:, cols[0] : cols[1]].mT) * scale
        if blocked is not None:
            logits = logits.masked_fill(blocked, torch.finfo(logits.dtype).min)
        log_p = logits.log_softmax(-1)
        p = log_p.exp()
        if blocked is not None:  # exact zeros, so that a row with every column blocked has entropy 0
            log_p, p = log_p.masked_fill(blocked, 0.0), p.masked_fill(blocked, 0.0)
        entropy = -(p * log_p).sum(-1)
        ctx.save_for_backward(x, order, inverse, log_p, entropy, blocked)
        ctx.rows, ctx.cols, ctx.scale = rows, cols, scale
        return entropy

    @staticmethod
    def backward(ctx, grad):
        if torch.is_grad_enabled():  # create_graph=True; torch's once_differentiable would drop terms without a word
            raise RuntimeError("MTO's entropies have no second derivative: create_graph=True cannot include them")
        x, order, inverse, log_p, entropy, blocked = ctx.saved_tensors
        rows, cols = slice(*ctx.rows), slice(*ctx.cols)
        with torch.autocast(x.device.type, enabled=False):
            p = log_p.exp() if blocked is None else log_p.exp().masked_fill(blocked, 0.0)
            grad_logits = p * (log_p + entropy[..., None]) * (-ctx.scale * grad)[..., None]
            y = _reorder(x, order)
            grad_rows, grad_cols = grad_logits @ y[:, cols], grad_logits.mT @ y[:, rows]
            if rows.stop == cols.start:  # masked rows, visible columns: together all tokens
                grad_y = torch.cat([grad_rows, grad_cols], dim=1)
            else:
                grad_y = F.pad(grad_cols, (0, 0, cols.start, y.shape[1] - cols.stop))
                grad_y[:, rows] += grad_rows
            grad_x = _reorder(grad_y, inverse).to(x.dtype)
        return grad_x, None, None, None, None, None, None


def _reorder(x: Tensor, order: Tensor | None) -> Tensor:
    """x (B, N, D) with its tokens in the given order (B, N), in float32 or better."""
    if order is not None:
        x = x[torch.arange(len(x), device=x.device)[:, None], order]
    return x if x.dtype == torch.float64 else x.float()


class Partition:
    """The masked and visible tokens of a batch, without synchronising a GPU.

    With a known, equal count the tokens are sorted masked-first and every block of the affinity is a slice. Otherwise
    the whole N x N matrix is computed and its unwanted columns are blocked, its unwanted rows given weight 0.
    """

    def __init__(self, mask: Tensor, num_masked: int | None):
        self.mask, self.num_masked = mask, num_masked
        self.num_tokens = mask.shape[1]
        self.order = self.inverse = None
        if num_masked is not None:
            self.order = mask.byte().argsort(dim=1, descending=True, stable=True)
            self.inverse = self.order.argsort(dim=1)

    def _span(self, part: str) -> tuple[int, int]:
        if self.num_masked is None or part == "all":
            return 0, self.num_tokens
        return (0, self.num_masked) if part == "masked" else (self.num_masked, self.num_tokens)

    def _positions(self, part: str) -> Tensor:
        return torch.arange(*self._span(part), device=self.mask.device)

    def entropy(self, x: Tensor, rows: str, cols: str, scale: float, exclude_self: bool = False) -> Tensor:
        """(B, R) row entropies; without a known count R = N and only the rows asked for have a meaning."""
        blocked = None
        if self.num_masked is None and cols == "visible":
            blocked = self.mask[:, None, :]
        if exclude_self:
            own = (self._positions(rows)[:, None] == self._positions(cols)[None, :])[None]
            blocked = own if blocked is None else blocked | own
        span = self._span(rows), self._span(cols)
        return RowEntropy.apply(x, self.order, self.inverse, *span, scale, blocked)

    def total(self, values: Tensor, rows: str) -> Tensor:
        """Sum of (B, R) values over the given rows: (B,)."""
        if self.num_masked is None:
            values = values * (self.mask if rows == "masked" else ~self.mask)
        return values.sum(1)

    def mean(self, values: Tensor, rows: str) -> Tensor:
        """Mean of (B, R) values over the given rows: (B,)."""
        if self.num_masked is not None:
            return values.mean(1)
        return self.total(values, rows) / (self.mask if rows == "masked" else ~self.mask).sum(1)

    def log_visible(self) -> Tensor | float:
        """ln V, a number when the count is known, else (B,)."""
        if self.num_masked is not None:
            return math.log(self.num_tokens - self.num_masked)
        return (~self.mask).sum(1).log()


def affinity_scale(dim: int, affinity: str, temperature: float) -> float:
    return (dim**-0.5 if affinity == "scaled" else 1.0) / temperature


def normalize_tokens(x: Tensor, affinity: str, tokens: str) -> Tensor:
    """Apply the parameter-free normalisation of the tokens, in float32."""
    if tokens == "raw" and affinity != "cosine":
        return x
    x = x if x.dtype == torch.float64 else x.float()
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
