"""The arms of `width_study.py`: readings of MTO, subsets of its terms, and controls that know no mask."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mto.losses.balance import Balance
from mto.losses.mto import AS_PRINTED, TERMS, TEXT, MaskedTokenOptimization

#: Of the method's gradient at X^0 in a typical image, for each term: what `cosine` has at width 48 with the first
#: weights (0.005 to 0.32 over SimMIM's and MAE's three terms and two seeds, 0.046 in the geometric mean), rounded; the
#: same for all, as Algorithm 1 has it.
SHARE = 0.05
#: Every term whose share a row may tell.
SHARES = (*TERMS, "covariance")


def balanced(*terms: str, **switches: Any) -> dict[str, Any]:
    """The preset `balanced` with some of its terms."""
    weights = {f"{term}_weight": SHARE for term in TERMS}
    return {"terms": list(terms or TERMS), **weights, "balance": {}, **switches}


ARMS: dict[str, dict[str, Any]] = {
    "none": {"terms": []},
    "text": TEXT,
    "as_printed": AS_PRINTED,
    "cosine": {},
    "balanced": balanced(),
    **{"+".join(some): balanced(*some) for some in (("spa",), ("e",), ("r",), ("spa", "e"), ("spa", "r"), ("e", "r"))},
    # Controls, at the same share: (a), (b), (c) of the registration.
    "spa, visible columns": balanced("spa", sparsity_columns="visible"),
    "covariance": {"covariance": SHARE},
    "e+r, visible detached": balanced("e", "r", detach_visible=True),
}


class Arm:
    """What an arm adds to a method's loss."""

    def __init__(self, switches: Mapping[str, Any]) -> None:
        self.mto: MaskedTokenOptimization | None = None
        if "covariance" in switches:
            self.names: tuple[str, ...] = ("covariance",)
            self.shares = {"covariance": switches["covariance"]}
            self.balance: Balance | None = Balance(self.names)
        else:
            self.mto = MaskedTokenOptimization(**switches)
            self.names = tuple(self.mto.settings["terms"])
            self.balance = self.mto.balance

    @property
    def balances(self) -> bool:
        return self.balance is not None

    def terms(self, hidden: Mapping[str, Any], mask: Tensor, num_masked: int | None) -> dict[str, Tensor]:
        """Each term's loss, unweighted."""
        if self.mto is None:
            return {"covariance": sum(covariance(stream.tokens[0][~mask]) for stream in hidden.values())}  # type: ignore[dict-item]
        out = self.mto.streams(hidden, mask, num_masked=num_masked, measure=False)
        return {name: out[f"loss_{name}"] for name in self.names}

    def rebalance(self, step: int, method: Tensor, terms: Mapping[str, Tensor], hidden: Mapping[str, Any]) -> None:
        """Measures the gradients, if it is time."""
        if self.balance is not None and self.balance.is_due(step):
            self.balance.measure(method, terms, [stream.tokens[0] for stream in hidden.values()])

    def weight(self, name: str) -> float | Tensor:
        if self.mto is not None:
            return self.mto.weight(name)
        assert self.balance is not None
        return self.shares[name] * self.balance.factor(name)

    def loss(self, terms: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([self.weight(name) * value for name, value in terms.items()]).sum()


def covariance(x: Tensor) -> Tensor:
    """VICReg's covariance term of tokens x (n, D): the squared off-diagonal elements, over D (Bardes et al., 2022)."""
    x = x - x.mean(0)
    c = x.T @ x / (len(x) - 1)
    return (c.square().sum() - c.diagonal().square().sum()) / x.shape[1]
