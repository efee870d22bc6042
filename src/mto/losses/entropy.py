"""Row entropies of token affinities, out of the Gram matrices of layer after layer.

The operators of a group of layers go together: where launching kernels is what a step waits for, a dozen small ones a
layer would cost more than their arithmetic. Softmax and entropy are computed from materialised logits: the identity
``H = logsumexp - x . PX`` cancels catastrophically. Kept for the backward pass are the logits of each block, one
number an entry, from which the gradient follows in closed form: dH/ds_j = -p_j (ln p_j + H).
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mto.losses.partition import Block, Partition

#: Gram matrices wait for company until they are this many bytes, and so do logits until they are a third of it.
GROUP_BYTES = 72 * 2**20
#: A squared length below this counts as this: a token of no length has cosines of 0.
SHORTEST = 1e-12


class Pick(torch.autograd.Function):
    """A block of the Gram matrices of several layers, and the patches' squared lengths.

    Args:
        block: which.
        lengths: give the squared lengths too.
        detach_cols: an entry passes its gradient to its row's token alone.
        grams: L matrices (B, T, T), of `mto.losses.gram`.

    Returns:
        (L, B, R, C), and (L, B, N) or None.
    """

    @staticmethod
    def forward(block, lengths, detach_cols, *grams):
        if block.cut is None:
            picked = torch.stack([gram[:, block.skip :, block.skip :] for gram in grams])
            squares = picked.diagonal(dim1=-2, dim2=-1)
        else:
            whole = torch.stack(grams) if len(grams) > 1 else grams[0][None]
            squares = whole.diagonal(dim1=-2, dim2=-1)[..., block.skip :]
            picked = whole.flatten(1).index_select(1, block.cut.entries).unflatten(1, block.cut.shape)
        return picked, squares.clone(memory_format=torch.contiguous_format) if lengths else None

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.block, _, ctx.detach_cols, gram, *_ = inputs
        ctx.shape = gram.shape
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, grad, grad_squares):
        block = ctx.block
        if block.cut is None:
            grad = F.pad(grad, (block.skip, 0, block.skip, 0))
        else:
            grad = F.pad(grad, (1, 0, 1, 0)).flatten(1).index_select(1, block.cut.places).unflatten(1, ctx.shape)
        grad = grad if ctx.detach_cols else grad + grad.mT
        if grad_squares is not None:
            if torch.is_grad_enabled():
                grad = grad + 2 * F.pad(grad_squares, (block.skip, 0)).diag_embed()
            else:
                grad.diagonal(dim1=-2, dim2=-1)[..., block.skip :].add_(grad_squares, alpha=2)
        return None, None, None, *grad.unbind()


class Cosine(torch.autograd.Function):
    """Scaled cosines out of inner products and squared lengths.

    Args:
        products: (L, B, R, C), of `Pick`.
        squares: (L, B, N), of `Pick`.
        block: which that is.
        scale: what each cosine is multiplied by.
        detach_cols: the columns' lengths are constants.

    Returns:
        (L, B, R, C), and two factors, for the backward pass alone.
    """

    @staticmethod
    def forward(products, squares, block, scale, detach_cols):
        by_row, by_col = _factors(squares, block, scale, detach_cols)
        return (products * by_row).mul_(by_col), by_row, by_col

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, squares, *ctx.rest = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(squares, *output)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, grad, *_):
        squares, logits, by_row, by_col = ctx.saved_tensors
        if torch.is_grad_enabled():  # for a second derivative
            by_row, by_col = _factors(squares, *ctx.rest)
        # A token's squared length is in all its logits, to the power of -1/2.
        share = grad * logits
        block, _, detach_cols = ctx.rest
        own = block.to_patches(share.sum(-1), None if detach_cols else share.sum(-2))
        own = own * -0.5 / F.threshold(squares, SHORTEST, torch.inf)
        return grad * by_row * by_col, own, None, None, None


def _factors(squares: Tensor, block: Block, scale: float, detach_cols: bool) -> tuple[Tensor, Tensor]:
    """Returns the factors of rows (L, B, R, 1) and columns (L, B, 1, C) that make inner products scaled cosines."""
    rows, cols = block.at(squares.clamp_min(SHORTEST).rsqrt())
    cols = cols.detach() if detach_cols else cols
    return (rows * scale)[..., None], cols[..., None, :]


class RowEntropy(torch.autograd.Function):
    """Entropies of softmax(logits): (..., R, C) -> (..., R), with their gradient; it keeps the logits.

    Args:
        blocked: bool, broadcast to (..., R, C): columns that do not count. A row without any other has entropy 0.
        emptied: whether there may be such a row.
    """

    @staticmethod
    def forward(logits, blocked, emptied):
        return torch.special.entr(_softmax(logits, blocked, emptied)).sum(-1)

    @staticmethod
    def setup_context(ctx, inputs, output):
        logits, ctx.blocked, ctx.emptied = inputs
        ctx.save_for_backward(logits, output)

    @staticmethod
    def backward(ctx, grad):
        logits, entropy = ctx.saved_tensors
        p = _softmax(logits, ctx.blocked, ctx.emptied)
        entropy, grad = entropy[..., None], grad[..., None]
        if torch.is_grad_enabled():  # for a second derivative: that of entr is infinite at 0
            surprise = -p * p.clamp_min(torch.finfo(p.dtype).tiny).log()
            return (surprise - p * entropy) * grad, None, None
        return torch.special.entr(p).addcmul_(p, entropy, value=-1).mul_(grad), None, None


def _softmax(logits: Tensor, blocked: Tensor | None, emptied: bool) -> Tensor:
    if blocked is None:
        return logits.softmax(-1)
    p = logits.masked_fill(blocked, torch.finfo(logits.dtype).min).softmax(-1)
    return p.masked_fill(blocked, 0.0) if emptied else p


class Rows:
    """Row entropies of one block of the affinity, from the Gram matrices of one layer after another.

    Args:
        part: masked and visible tokens.
        rows, cols, exclude_self: of the block, see `Partition.block`.
        affinity, temperature, tokens: the switches; ``tokens="layernorm"`` is for whoever makes the Gram matrices.
        detach_cols: no gradient through the columns' tokens.
    """

    def __init__(
        self,
        part: Partition,
        rows: str,
        cols: str,
        *,
        affinity: str,
        temperature: float,
        tokens: str,
        exclude_self: bool = False,
        detach_cols: bool = False,
    ) -> None:
        self._part, self._which, self._detach_cols = part, (rows, cols, exclude_self), detach_cols
        self._unit = affinity == "cosine" or tokens == "l2"
        self._scaled, self._temperature = affinity == "scaled", temperature
        self._grams: list[Tensor] = []
        self._kind: tuple[Any, ...] = ()
        self._blocks: dict[int, Block] = {}
        self._picked: list[tuple[Tensor, Tensor | None]] = []
        self._entropies: list[Tensor] = []

    def add(self, gram: Tensor, dim: int) -> None:
        """Takes in the next layer's matrix (B, T, T), patches last, of tokens of width ``dim``."""
        scale = (dim**-0.5 if self._scaled else 1.0) / self._temperature
        kind = (scale, gram.dtype, gram.requires_grad)
        if self._kind != kind:
            self._finish()
        if self._grams and self._grams[0].shape != gram.shape:
            self._pick()
        self._kind = kind
        self._grams.append(gram)
        # Without a known count a block is the whole of a matrix.
        limit = GROUP_BYTES if self._part.num_masked is not None else GROUP_BYTES // 3
        if _size(self._grams) + _size([gram]) > limit:
            self._pick()

    def __bool__(self) -> bool:
        """Returns whether there has been any layer."""
        return bool(self._grams or self._picked or self._entropies)

    def result(self) -> Tensor:
        """Returns (L, B, R) of all layers so far. With R = N only the rows asked for have a meaning."""
        self._finish()
        return torch.cat(self._entropies) if len(self._entropies) > 1 else self._entropies[0]

    def _block(self, skip: int) -> Block:
        if skip not in self._blocks:
            self._blocks[skip] = self._part.block(*self._which, skip)
        return self._blocks[skip]

    def _pick(self) -> None:
        block = self._block(self._grams[0].shape[1] - self._part.num_tokens)
        self._picked.append(Pick.apply(block, self._unit, self._detach_cols, *self._grams))
        self._grams = []
        if _size([products for products, _ in self._picked]) > GROUP_BYTES // 3:
            self._finish()

    def _finish(self) -> None:
        if self._grams:
            self._pick()
        if not self._picked:
            return
        scale, *_ = self._kind
        block = next(iter(self._blocks.values()))  # after the cut, what came before the patches is of no account
        products, squares = (
            x[0] if len(x) == 1 or x[0] is None else torch.cat(x) for x in zip(*self._picked, strict=True)
        )
        self._picked = []
        if squares is not None:
            logits, *_ = Cosine.apply(products, squares, block, scale, self._detach_cols)
        else:
            logits = products if scale == 1.0 else products * scale
        self._entropies.append(RowEntropy.apply(logits, block.blocked, block.emptied))


def _size(tensors: Sequence[Tensor]) -> int:
    return sum(x.numel() * x.element_size() for x in tensors)


def attention_entropy(attention: Tensor, mask: Tensor, visible_columns: bool, exclude_self: bool) -> Tensor:
    """Returns the row entropies (B, N) of attention weights (B, N, N), renormalised over the columns that count."""
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
