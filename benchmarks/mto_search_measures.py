"""What `mto_search.py` measures of a trained network: its token states, and two probes of its features."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mto.losses.mto import heterogeneity

COSINE = {"affinity": "cosine", "temperature": 0.1}
#: Layer-normed tokens with a temperature of D / 48, written so that it does not depend on the width D.
NORMED = {"affinity": "cosine", "tokens": "layernorm", "temperature": 1 / 48}


def tokens_summary(tokens: list[Tensor], mask: Tensor, settings: dict[str, Any]) -> dict[str, Any]:
    """What tells the healthy from the collapsed, of one stream; H per layer in MTO's own reading and in three fixed."""
    count = int(mask[0].sum())
    visible, masked = (
        torch.stack([x[m] for x, m in zip(layer, side, strict=True)])
        for layer, side in ((tokens[0], ~mask), (tokens[-1], mask))
    )
    unit = F.normalize(masked, dim=-1)
    cosine = (unit.sum(1).square().sum(-1) - count) / (count * (count - 1))
    nearest = (masked @ torch.stack([x[~m] for x, m in zip(tokens[-1], mask, strict=True)]).mT).argmax(-1)
    own = {key: settings[key] for key in ("affinity", "temperature", "tokens")}
    readings = {"h": own, "h_dot": {}, "h_cosine": COSINE, "h_cosine1": {"affinity": "cosine"}, "h_normed": NORMED}
    return {
        "cos_masked": cosine.mean().item(),
        "modal_share": (nearest == nearest.mode(1, keepdim=True).values).float().mean().item(),
        "rank_x0": effective_rank(visible.flatten(0, 1)),
        "norm_x0": visible.norm(dim=-1).mean().item(),
    } | {
        name: [heterogeneity(x, mask, num_masked=count, **reading).mean().item() for x in tokens]
        for name, reading in readings.items()
    }


def effective_rank(x: Tensor) -> float:
    """exp of the entropy of the normalised eigenvalues of the covariance of x (n, D): between 1 and D."""
    x = x.double() - x.double().mean(0)
    values = torch.linalg.eigvalsh(x.T @ x).clamp_min(0)
    p = values / values.sum().clamp_min(1e-30)
    return torch.special.entr(p).sum().exp().item()


def knn(train: Tensor, labels: Tensor, test: Tensor, test_labels: Tensor, k: int = 20) -> float:
    """Accuracy of a vote of the k nearest by centred cosine, weighted by exp(cosine / 0.07)."""
    mean = train.mean(0)
    train, test = F.normalize(train - mean, dim=1), F.normalize(test - mean, dim=1)
    similarity, index = (test @ train.T).topk(k, dim=1)
    votes = torch.zeros(len(test), int(labels.max()) + 1).scatter_add_(1, labels[index], (similarity / 0.07).exp())
    return (votes.argmax(1) == test_labels).float().mean().item()


def ridge(train: Tensor, labels: Tensor, test: Tensor, test_labels: Tensor, strength: float = 1e-3) -> float:
    """Accuracy of a linear probe: standardised features regressed on the classes' indicators, in closed form."""
    mean, std = train.mean(0), train.std(0) + 1e-6
    a, b = (F.pad((x - mean) / std, (0, 1), value=1.0).double() for x in (train, test))
    gram = a.T @ a / len(a) + strength * torch.eye(a.shape[1], dtype=a.dtype)
    weight = torch.linalg.solve(gram, a.T @ F.one_hot(labels).double() / len(a))
    return ((b @ weight).argmax(1) == test_labels).float().mean().item()
