"""A strength of MTO that means the same at every width: each term's gradient as a share of the method's own.

A weight multiplies a loss, and what a loss of one weight does depends on the network: both gradients change with the
width, the depth and the length of the tokens, and each method's in its own way (docs/width-study.md), so that no power
of the width fits four methods. What can be said once and for all is how strong a term is *beside the method*, in a
typical image::

    weight_t = share_t * exp(mean over images i of ln(|dL_method / dX_i^0| / |dL_t / dX_i^0|))

X_i^0 is the initial embedding of an image, before any position, of every stream of the method. There each image has a
gradient of its own, so that neither the size of the batch nor the number of GPUs enters, as it would in the gradient of
the parameters, an average in which the images' noise cancels. The mean is a geometric one because a few images can have
nearly all of a term's gradient: of 64, one had 96 % of the squares (docs/width-study.md), so that a norm over all of
them tells one batch's outlier. This is ours, not the paper's. Depends on torch alone.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class Balance(nn.Module):
    """Turns shares into weights: what each term's loss is multiplied by, from gradients measured now and then.

    The logarithms of the ratios are averaged over time. They are a buffer, so that a state holds them and a resumed run
    has the same weights, bit for bit. Nothing here waits for the device.

    Args:
        terms: the names of the terms, in a fixed order.
        interval: optimiser steps from one measurement to the next.
        dense: of the first so many steps each begins with a measurement: gradients change fastest there.
        images: how many images of a process's batch are measured, at most.
        memory: what is left of the average at the next measurement, 0 to below 1.
        largest: no image asks for a larger factor, or for one below its inverse. A term that has all that it wants
            has no gradient, and a share of one cannot be given to it.
    """

    log_factors: Tensor

    def __init__(
        self,
        terms: Sequence[str],
        *,
        interval: int = 10,
        dense: int = 100,
        images: int = 32,
        memory: float = 0.5,
        largest: float = 1e4,
    ) -> None:
        super().__init__()
        if not (interval >= 1 and dense >= 0 and images >= 1 and 0 <= memory < 1 and largest > 0):
            raise ValueError(
                "balance: interval and images must be at least 1, dense not negative, memory from 0 to below 1 and "
                f"largest positive, got {interval}, {images}, {dense}, {memory} and {largest}"
            )
        self.terms = tuple(terms)
        self.interval, self.dense, self.images = interval, dense, images
        self.memory, self.largest = memory, largest
        self.register_buffer("log_factors", torch.full((len(self.terms),), torch.nan))

    def is_due(self, step: int) -> bool:
        """Returns whether optimiser step ``step``, counted from 0, begins with a measurement."""
        return step < self.dense or step % self.interval == 0

    def measure(self, method: Tensor, terms: Mapping[str, Tensor], embeddings: Sequence[Tensor]) -> None:
        """Takes in the gradients of the method's loss and of each term, unweighted, at the initial embeddings.

        Args:
            method: the method's loss, a scalar.
            terms: each term's loss, by its name; its graph is kept.
            embeddings: X^0 (B, N, D) of every stream, parts of the graph of both.
        """
        base, *others = (
            image_gradient_norms(loss, embeddings) for loss in (method, *(terms[name] for name in self.terms))
        )
        norms, limit = torch.stack(others), math.log(self.largest)
        wanted = (log_of(base) - log_of(norms)).clamp(-limit, limit)
        usable = (base.isfinite() & norms.isfinite()).float()
        found = torch.stack([torch.where(usable > 0, wanted, 0.0).sum(1), usable.sum(1)])
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(found)
        total, images = found
        with torch.no_grad():
            kept, new = self.log_factors, total / images  # nan where no image has a number: it is passed over
            average = torch.where(kept.isnan(), new, self.memory * kept + (1 - self.memory) * new)
            kept.copy_(torch.where(new.isfinite(), average, kept))

    def factor(self, term: str) -> Tensor:
        """Returns what multiplies a share to give the term's weight, a scalar on the device.

        It is nan before the first measurement, so that no step can be taken without one.
        """
        return self.log_factors[self.terms.index(term)].exp()

    def extra_repr(self) -> str:
        names = ("interval", "dense", "images", "memory", "largest")
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)


def image_gradient_norms(loss: Tensor, embeddings: Sequence[Tensor]) -> Tensor:
    """Returns the norm (B,) of each image's gradient at the embeddings (B, N, D) together; 0 where there is none."""
    squares = torch.zeros(len(embeddings[0]), device=loss.device)
    if loss.requires_grad:
        with torch.autocast(loss.device.type, enabled=False):
            for gradient in torch.autograd.grad(loss, list(embeddings), retain_graph=True, allow_unused=True):
                if gradient is not None:
                    squares = squares + gradient.float().square().flatten(1).sum(1)
    return squares.sqrt()


def log_of(norms: Tensor) -> Tensor:
    """Returns the logarithms, finite for zeros too."""
    return norms.clamp_min(torch.finfo(torch.float32).tiny).log()
