"""Have masked tokens become one, and who pulls the weights: what heterogeneity and saturation do not tell.

A masked token whose state is that of every other masked token predicts the same patch everywhere, and its heterogeneity
says nothing of it. Measured on one batch, in float32. Depends on torch alone.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.no_grad()
def collapse(hidden_states: Sequence[Tensor], mask: Tensor) -> dict[str, Tensor]:
    """Measures signs of a collapse, as means over the batch.

    Args:
        hidden_states: (B, N, D) tokens from the initial embedding to the last layer, class token removed.
        mask: (B, N) bool, True where masked; every image needs a masked and a visible token.

    Returns:
        masked_cosine: of the last layer, the mean cosine between two masked tokens of an image; 1: they are one. 0
            where an image has a single masked token.
        modal_share: of the last layer, the share of an image's masked tokens whose largest inner product with a visible
            token (Eq. 2's affinity) is with the same one.
        effective_rank: of the visible tokens of the initial embedding, the exponential of the entropy of their
            covariance's normalised eigenvalues (Roy & Vetterli, 2007), 1 to D.
        visible_norm: of the visible tokens of the initial embedding, the mean Euclidean norm.
    """
    first, last = hidden_states[0].float(), hidden_states[-1].float()
    with torch.autocast(mask.device.type, enabled=False):
        masked, visible = mask.float(), (~mask).float()
        return {
            "masked_cosine": _mean_cosine(last, masked).mean(),
            "modal_share": _modal_share(last, mask).mean(),
            "effective_rank": effective_rank(first, visible),
            "visible_norm": (first.norm(dim=-1) * visible).sum() / visible.sum(),
        }


def _mean_cosine(x: Tensor, chosen: Tensor) -> Tensor:
    """Returns the mean cosine (B,) over pairs of the tokens x (B, N, D) with weight 1 in `chosen` (B, N)."""
    unit = F.normalize(x, dim=-1) * chosen[..., None]
    count = chosen.sum(1)
    pairs = (count * (count - 1)).clamp_min(1)
    return (unit.sum(1).square().sum(-1) - unit.square().sum((1, 2))) / pairs


def _modal_share(x: Tensor, mask: Tensor) -> Tensor:
    """Returns (B,), the share of an image's masked tokens that are nearest to the same visible token.

    Nearness is the inner product, and the visible token is the one that is nearest most often.
    """
    affinity = (x @ x.mT).masked_fill(mask[:, None, :], -torch.inf)
    nearest = affinity.argmax(-1, keepdim=True) == torch.arange(mask.shape[1], device=mask.device)
    nearest = nearest & mask[..., None]
    return nearest.sum(1).amax(-1) / mask.sum(1)


@torch.library.custom_op("mto::eigenvalues", mutates_args=())
def eigenvalues(symmetric: Tensor) -> Tensor:
    """Returns the eigenvalues (D,) of a symmetric matrix (D, D), or nan where the algorithm does not converge.

    Those of GPUs may not, at a low rank, and a diagnostic must end no run. It is an operator of its own, since a
    compiled graph catches nothing.
    """
    try:
        return torch.linalg.eigvalsh(symmetric)
    except torch.linalg.LinAlgError:
        return symmetric.new_full(symmetric.shape[:1], torch.nan)


@eigenvalues.register_fake
def _(symmetric: Tensor) -> Tensor:
    return symmetric.new_empty(symmetric.shape[:1])


def effective_rank(x: Tensor, weight: Tensor) -> Tensor:
    """Returns the effective rank of the tokens x (B, N, D), all images together, with weights (B, N)."""
    weight, total = weight[..., None], weight.sum()
    mean = (x * weight).sum((0, 1)) / total
    centred = ((x - mean) * weight.sqrt()).flatten(0, 1)
    # A state that is not finite is for the loss's own check to report: the decomposition would raise.
    covariance = (centred.mT @ centred / total).nan_to_num(posinf=0.0, neginf=0.0)
    share = eigenvalues(covariance).clamp_min(0)
    share = share / share.sum().clamp_min(torch.finfo(share.dtype).tiny)
    return torch.special.entr(share).sum().exp()


def stand_ins(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns leaves of the same storage, for `torch.func.functional_call`: no hook of the parameters sees them."""
    return {name: parameter.detach().requires_grad_() for name, parameter in parameters.items()}


def gradient_norms(losses: Mapping[str, Tensor], leaves: Sequence[Tensor]) -> dict[str, Tensor]:
    """Measures the norm of each loss's gradient over all leaves, by one backward pass for each loss.

    Each leaf's gradient is measured as it comes, and dropped: it takes no more memory than the activations, which the
    losses share. Nothing of the training is touched, and no random number is drawn. In a distributed run it is this
    process's part of the batch, not reduced.

    Args:
        leaves: of `stand_ins`, since what gradient they have is lost.
    """
    squares: list[Tensor] = []

    def measure(leaf: Tensor) -> None:
        squares.append(torch.linalg.vector_norm(leaf.grad, dtype=torch.float32).square())
        leaf.grad = None

    norms = {}
    hooks = [leaf.register_post_accumulate_grad_hook(measure) for leaf in leaves]
    for name, loss in losses.items():
        norms[name] = torch.zeros((), device=leaves[0].device)
        if loss.requires_grad:
            with torch.autocast(leaves[0].device.type, enabled=False):
                torch.autograd.backward(loss, inputs=list(leaves), retain_graph=True)
            norms[name] = torch.stack(squares).sum().sqrt()
            squares.clear()
    for hook in hooks:
        hook.remove()
    return norms
