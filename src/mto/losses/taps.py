"""What MTO takes of each layer: row entropies, out of a list of states or out of a residual stream as it passes by.

From a list, the gradients of all layers are made first and wait, each as large as the states, while every activation is
alive. A tap in the stream makes each when the backward pass comes by, and costs next to no memory.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mto.losses.entropy import Rows
from mto.losses.gram import Gram, Tap
from mto.losses.partition import Partition
from mto.losses.stream import Recorder, depth_of


class Layers:
    """The row entropies of one stream, of layer after layer.

    Args:
        settings: MTO's switches.
        part: masked and visible tokens.
        depth: how many layers there will be, the initial embedding among them.
        terms: that are wanted of this stream.
        measure: take those too that no term needs, without gradient.

    Attributes:
        trained, watched: of masked rows and visible columns: those of the first layers, which a term needs, and those
            of the rest.
        sparse: of visible rows, of the layers that L_spa looks at.
    """

    def __init__(
        self, settings: Mapping[str, Any], part: Partition, depth: int, terms: Sequence[str], measure: bool
    ) -> None:
        s = settings
        if "r" in terms and depth < 2:
            raise ValueError("L_r compares layers: give the initial embedding and at least one layer, or drop term 'r'")
        self.part, self.measure = part, measure
        self._layernorm = s["tokens"] == "layernorm"
        self._next = 0
        affinity = {name: s[name] for name in ("affinity", "temperature", "tokens")}

        self._trained = depth if "r" in terms else 1 if "e" in terms else 0
        self._watched = depth if measure else self._trained
        self._sparse: list[int] = []
        if "spa" in terms and s["sparsity_object"] == "affinity":
            chosen = range(depth) if s["sparsity_layers"] == "all" else s["sparsity_layers"]
            self._sparse = [depth_of(layer, depth) for layer in chosen]

        self.trained = Rows(part, "masked", "visible", detach_cols=s["detach_visible"], **affinity)
        self.watched = Rows(part, "masked", "visible", **affinity)
        exclude_self = s["sparsity_self"] == "exclude"
        self.sparse = Rows(part, "visible", s["sparsity_columns"], exclude_self=exclude_self, **affinity)

    def take(self, x: Tensor) -> None:
        """Reads the next layer's patches (B, N, D)."""
        readers, watched = self._readers()
        if self._layernorm and (readers or watched):
            x = F.layer_norm(x if x.dtype == torch.float64 else x.float(), x.shape[-1:], eps=1e-6)
        self._read(readers, watched, Gram.apply(x) if readers else None, x)

    def tap(self, x: Tensor) -> Tensor:
        """Reads the next layer's states (B, T, D), patches last, and returns what the stream goes on with."""
        readers, watched = self._readers()
        gram = None
        if readers:
            x, gram = Tap.apply(x)
        self._read(readers, watched, gram, x)
        return x

    def _readers(self) -> tuple[list[Rows], bool]:
        """Returns which rows of the next layer pass a gradient, and whether others are watched."""
        depth, self._next = self._next, self._next + 1
        readers = [self.trained] * (depth < self._trained) + [self.sparse] * self._sparse.count(depth)
        return readers, self._trained <= depth < self._watched

    def _read(self, readers: list[Rows], watched: bool, gram: Tensor | None, x: Tensor) -> None:
        if gram is not None:
            for rows in readers:
                rows.add(gram, x.shape[-1])
        if watched:
            with torch.no_grad():
                self.watched.add(Gram.apply(x) if gram is None else gram.detach(), x.shape[-1])


class Taps:
    """What a method taps its streams with, as `MaskedTokenOptimization.taps` returns it."""

    def __init__(self, settings: Mapping[str, Any], part: Partition, measure: bool) -> None:
        self._settings, self._part, self._measure = settings, part, measure

    def recorder(self, depth: int) -> Recorder:
        """Returns the recorder of a stream of ``depth`` layers, the initial embedding among them."""
        s = self._settings
        # All else is no function of the stream's own Gram matrices, or not of every layer's alike: the list of states
        # serves.
        if (
            s["tokens"] == "layernorm"
            or s["detach_encoder"]
            or s["final_norm"]
            or s["position"] == "post"
            or s["streams"] not in ("sum", "mean")
        ):
            return Recorder()
        return TapRecorder(Layers(s, self._part, depth, s["terms"], self._measure))


class TapRecorder(Recorder):
    """A recorder that taps the stream."""

    def __init__(self, layers: Layers) -> None:
        super().__init__()
        self.taken = layers

    def __call__(self, x: Tensor, skip: int = 0, patches: Tensor | None = None) -> Tensor:
        """Taps x, which gets the terms' gradients in passing, and keeps it where there is more to measure."""
        x = self.taken.tap(x)
        return super().__call__(x, skip) if self.taken.measure else x
