"""MTO written naively from the paper, one image and one row at a time: what `mto.losses.mto` is compared with.

Autograd differentiates it, in the dtype of the tokens (the tests give float64). Keep it obvious, not fast; the overhead
benchmark times it as "naive".
"""

import math

import torch
import torch.nn.functional as F


def affinity_matrix(x, y, settings):
    """Logits (rows of x, rows of y) of tokens (., D) under the affinity, temperature and tokens switches."""
    if settings["tokens"] == "layernorm":
        x, y = (
            (t - t.mean(-1, keepdim=True)) / (t.var(-1, keepdim=True, unbiased=False) + 1e-6).sqrt() for t in (x, y)
        )
    if settings["tokens"] == "l2" or settings["affinity"] == "cosine":
        x, y = (t / t.norm(dim=-1, keepdim=True).clamp_min(1e-6) for t in (x, y))
    logits = x @ y.T / settings["temperature"]
    return logits / math.sqrt(x.shape[-1]) if settings["affinity"] == "scaled" else logits


def entropy(logits):
    """Entropy of softmax(logits) for one row (C,)."""
    log_p = torch.log_softmax(logits, dim=0)
    return -(log_p.exp() * log_p).sum()


def image_heterogeneity(x, mask, settings):
    """Eq. 2 for one image: x (N, D), mask (N,)."""
    visible = x[~mask].detach() if settings["detach_visible"] else x[~mask]
    rows = [entropy(row) for row in affinity_matrix(x[mask], visible, settings)]
    return sum(rows) / len(rows)


def image_sparsity(x, mask, settings, attention=None):
    """Eq. 3 for one image; with attention (N, N), the entropy of its rows, renormalised over the columns kept."""
    logits = affinity_matrix(x, x, settings)
    rows = []
    for i in torch.nonzero(~mask).flatten().tolist():
        keep = ~mask if settings["sparsity_columns"] == "visible" else torch.ones_like(mask)
        if settings["sparsity_self"] == "exclude":
            keep = keep & (torch.arange(len(mask)) != i)
        if not keep.any():  # one visible token and its own column excluded: no column is left
            rows.append(0 * x.sum())
        elif attention is not None:
            rows.append(entropy(attention[i][keep].log()))
        else:
            rows.append(entropy(logits[i][keep]))
    return sum(rows) if settings["sparsity_reduction"] == "sum" else sum(rows) / len(rows)


def terms(hidden_states, mask, settings, position=None, attention=None):
    """The three terms of a batch: {"spa", "e", "r"}."""
    layers = list(hidden_states)
    if settings["position"] == "post" and position is not None:
        layers[0] = layers[0] + position
    if settings["detach_encoder"]:
        layers[0] = torch.where(mask[..., None], layers[0], layers[0].detach())
    images = range(len(mask))
    h = [[image_heterogeneity(x[b], mask[b], settings) for b in images] for x in layers]
    if settings["batch_reduction"] == "batch":
        h = [[sum(values) / len(values)] for values in h]

    sign = 1 if settings["rank_direction"] == "decreasing" else -1
    rank = [
        torch.stack([F.softplus(sign * (now - before)) for before, now in zip(h[depth], h[depth + 1], strict=True)])
        for depth in range(len(h) - 1)
    ]
    rank = torch.stack([r.mean() for r in rank])

    if settings["sparsity_object"] == "attention":
        sparsity = [sum(image_sparsity(layers[0][b], mask[b], settings, attention[b]) for b in images) / len(images)]
    else:
        depths = range(len(layers)) if settings["sparsity_layers"] == "all" else settings["sparsity_layers"]
        sparsity = [sum(image_sparsity(layers[d][b], mask[b], settings) for b in images) / len(images) for d in depths]
    return {
        "spa": sum(sparsity) if settings["sparsity_reduction"] == "sum" else sum(sparsity) / len(sparsity),
        "e": torch.stack([1 / (value + settings["eps"]) for value in h[0]]).mean(),
        "r": rank.mean() if settings["rank_reduction"] == "mean" else rank.sum(),
    }


def loss(hidden_states, mask, settings, **kwargs):
    """Weighted sum of the terms that are switched on."""
    values = terms(hidden_states, mask, settings, **kwargs)
    return sum(settings[f"{name}_weight"] * values[name] for name in settings["terms"])
