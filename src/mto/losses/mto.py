"""Masked Token Optimization: data distinctiveness (heterogeneity) and the losses L_spa, L_e and L_r.

One image has N patch tokens, M of them masked and V = N - M visible; X^l are the tokens after layer l, X^0 the initial
embedding. With natural logarithms, per image::

    Eq. 2   H^l   = -1/M sum_{i masked} sum_{j visible} a_ij ln a_ij,      a_i = softmax_{j visible}(x_i . x_j)
    Eq. 3   L_spa = - sum_{i visible} sum_j p_ij ln p_ij,                  p_i = softmax_{j = 1..N}(x_i . x_j), layer 0
    Eq. 4   L_e   = 1 / (H^0 + eps)
    Eq. 5   L_r   = sum_{l = 1..L} softplus(H^{l-1} - H^l)                 as printed; its text asks for the other sign

The printed sign of Eq. 5 makes heterogeneity grow with depth, against the whole text, so the default is
``softplus(H^l - H^{l-1})``. With it, raw dot products and weights of 1 make the masked tokens of small SimMIM
and ConMIM networks one, so the default is a cosine over 0.1 and a tenth of each weight. Every such choice is a keyword
of :class:`MaskedTokenOptimization`; :meth:`~MaskedTokenOptimization.text` has the paper's own.

Everything is computed in float32, also under autocast (see `mto.losses.entropy`). Depends on torch alone.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mto.losses.balance import Balance
from mto.losses.entropy import attention_entropy
from mto.losses.partition import Partition
from mto.losses.stream import Stream, Tokens, check_shapes, count_masked
from mto.losses.switches import SWITCHES
from mto.losses.taps import Layers, Taps

TERMS = ("spa", "e", "r")
#: A row counts as saturated when its entropy is below this share of ln V: its softmax passes no gradient on.
SATURATION = 0.01
#: The paper's equations, and its text where that contradicts them, as far as it is not the default.
TEXT = {name: switch.paper for name, switch in SWITCHES.items() if switch.paper is not None}
#: The paper's equations to the letter.
AS_PRINTED = {**TEXT, "rank_direction": "as_printed", "rank_reduction": "sum", "sparsity_reduction": "sum"}

#: The allowed values of every switch that is a choice; of `streams` those that a model has are known with the model.
CHOICES = {name: switch.choices for name, switch in SWITCHES.items() if switch.choices and name != "streams"}


def heterogeneity(
    hidden: Tensor,
    mask: Tensor,
    *,
    affinity: str = "dot",
    temperature: float = 1.0,
    tokens: str = "raw",
    detach_visible: bool = False,
    num_masked: int | None = None,
) -> Tensor:
    """Measures the heterogeneity H of masked against visible tokens, per image (Eq. 2).

    Args:
        hidden: token states (B, N, D), class token removed.
        mask: (B, N) bool, True where masked; every image needs a masked and a visible token.
        affinity: ``dot`` (as printed), ``scaled`` by D^-1/2, or ``cosine``; each is divided by ``temperature``.
        tokens: ``raw``, ``layernorm`` or ``l2`` (both without parameters).
        detach_visible: let no gradient through the visible tokens.
        num_masked: the number of masked tokens when every image has the same. On a GPU, or while compiling, say it:
            finding out would stop the GPU, so without it the full N x N affinity is computed, several times the work.

    Returns:
        (B,) in float32 (float64 for float64 tokens), 0 <= H <= ln V in nats.
    """
    _check_choices(affinity=affinity, tokens=tokens)
    check_shapes([hidden], mask)
    part = Partition(mask, count_masked(mask, num_masked, validate=False))
    chosen = MaskedTokenOptimization(
        affinity=affinity, temperature=temperature, tokens=tokens, detach_visible=detach_visible
    )
    layers = Layers(chosen.settings, part, depth=1, terms=["e"], measure=False)
    layers.take(hidden)
    return part.mean(layers.trained.result()[0], "masked")


class MaskedTokenOptimization(nn.Module):
    """L_spa + L_e + L_r on the hidden states of any masked-image model. It has no parameters.

    Args:
        terms: which of ``spa``, ``e``, ``r`` enter the loss. With none, heterogeneity is measured without gradient.
        spa_weight, e_weight, r_weight: weights of the terms. The paper prints none; with 1 they rule the gradient.
        warmup_epochs: the weights rise linearly from 0 over this many epochs; needs ``progress`` at each call.
        rank_direction: ``decreasing`` heterogeneity with depth (the paper's text) or Eq. 5 ``as_printed``.
        rank_reduction: ``sum`` (Eq. 5) or ``mean`` over layers 1..L.
        sparsity_reduction: ``mean`` or ``sum`` (Eq. 3) over visible rows, and over layers if there are several.
        sparsity_columns: ``all`` (Eq. 3) or only ``visible`` columns.
        sparsity_self: ``keep`` (Eq. 3) or ``exclude`` the column of the row's own token.
        sparsity_layers: layers that L_spa looks at, negative from the end, or ``all``.
        sparsity_object: entropy of the token ``affinity`` (Eq. 3) or of block 1's ``attention`` over the patches.
        affinity, temperature, tokens: see :func:`heterogeneity`; they hold for L_spa's affinity too. At temperature 1
            a cosine's entropy stays within 0.5 nats of ln V, so give it a smaller one.
        position: layer 0 ``pre`` or ``post`` adding the position embedding (no difference where there is none to add).
        batch_reduction: L_e and L_r per ``image``, then averaged; or of the ``batch``'s mean H.
        detach_visible: no gradient through the visible tokens in H (all layers; L_spa is not touched).
        detach_encoder: the visible tokens of layer 0, an encoder's output in MAE and BootMAE, are constants in all
            terms but those of ``attention``. (Gradient of L_r through deeper layers still reaches the encoder.)
        final_norm: for :meth:`streams`, take the last layer after the network's final norm.
        streams: for :meth:`streams`, ``sum`` or ``mean`` of the streams' terms, or the name of the one to use.
        eps: Eq. 4's epsilon, not printed.
        balance: the arguments of :class:`mto.losses.balance.Balance`: the three weights are then shares of the method's
            gradient at layer 0, and its ``measure`` has to be called before a loss is used. None: plain weights.
        validate: check that each image has a masked and a visible token. On a GPU the check waits for the device, so
            only the first call makes it there; on a CPU it costs nothing and is always made, in compiled code never.

    Example:
        >>> mto = MaskedTokenOptimization()
        >>> out = mto([x0, x1, x2], mask)  # doctest: +SKIP
        >>> loss = reconstruction + out["loss"]  # doctest: +SKIP
    """

    def __init__(
        self,
        *,
        terms: Sequence[str] = TERMS,
        spa_weight: float = 0.1,
        e_weight: float = 0.1,
        r_weight: float = 0.1,
        warmup_epochs: float = 0.0,
        rank_direction: str = "decreasing",
        rank_reduction: str = "sum",
        sparsity_reduction: str = "mean",
        sparsity_columns: str = "all",
        sparsity_self: str = "keep",
        sparsity_layers: Sequence[int] | str = (0,),
        sparsity_object: str = "affinity",
        affinity: str = "cosine",
        temperature: float = 0.1,
        tokens: str = "raw",
        position: str = "pre",
        batch_reduction: str = "image",
        detach_visible: bool = False,
        detach_encoder: bool = False,
        final_norm: bool = False,
        streams: str = "sum",
        eps: float = 1e-6,
        balance: Mapping[str, Any] | None = None,
        validate: bool = True,
    ):
        choices = dict(locals())
        for other in ("self", "balance", "validate", "__class__"):
            del choices[other]
        super().__init__()
        if unknown := set(terms) - set(TERMS):
            raise ValueError(f"terms: unknown {sorted(unknown)}; use some of {', '.join(TERMS)}")
        _check_choices(**{name: value for name, value in choices.items() if name in CHOICES})
        if not (temperature > 0 and eps > 0 and warmup_epochs >= 0):
            raise ValueError(
                f"temperature and eps must be positive and warmup_epochs not negative, got {temperature}, {eps} and "
                f"{warmup_epochs}"
            )
        if sparsity_layers != "all" and (isinstance(sparsity_layers, str | int) or not len(sparsity_layers)):
            raise ValueError(f"sparsity_layers={sparsity_layers!r}: use 'all' or a list of layers, such as [0]")
        #: Every switch, JSON-able: what a run records, and what builds the same module again.
        self.settings: dict[str, Any] = choices | {
            "terms": [term for term in TERMS if term in terms],
            "sparsity_layers": sparsity_layers if isinstance(sparsity_layers, str) else list(sparsity_layers),
        }
        #: What turns shares into weights, if they are shares.
        self.balance: Balance | None = None
        if balance is not None:
            self.settings["balance"] = dict(balance)
            self.balance = Balance(self.settings["terms"], **balance)
        self._validate = validate

    @classmethod
    def text(cls, **overrides) -> "MaskedTokenOptimization":
        """Builds the paper's equations with the sign that its text asks for.

        This collapses SimMIM and ConMIM: docs/mto-collapse.md.
        """
        return cls(**{**TEXT, **overrides})

    @classmethod
    def as_printed(cls, **overrides) -> "MaskedTokenOptimization":
        """Builds Equations 2 to 5 to the letter: Eq. 5's printed sign, sums over rows and layers."""
        return cls(**{**AS_PRINTED, **overrides})

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.settings.items())

    def forward(
        self,
        hidden_states: Sequence[Tensor],
        mask: Tensor,
        *,
        num_masked: int | None = None,
        progress: float | Tensor | None = None,
        position: Tensor | None = None,
        attention: Tensor | Callable[[], Tensor] | None = None,
        measure: bool = True,
    ) -> dict[str, Any]:
        """Computes the terms, their weighted sum, and the diagnostics.

        Args:
            hidden_states: (B, N, D) tokens from the initial embedding to the last layer, class token removed.
            mask: (B, N) bool, True where masked.
            num_masked: see :func:`heterogeneity`; give it on a GPU whenever the count is fixed.
            progress: epochs done so far, for ``warmup_epochs``.
            position: (1 or B, N, D) added to layer 0 when ``position="post"``.
            attention: (B, N, N) weights of block 1, or a function returning them, for ``sparsity_object="attention"``.
            measure: also measure what no loss needs (between two log intervals there is no use for it).

        Returns:
            ``loss_spa``, ``loss_e``, ``loss_r`` (those switched on, before weighting), ``loss`` (their weighted sum)
            and ``diagnostics``: {"tokens": {"heterogeneity": (layers,), "saturated": (layers,) share of masked rows
            with H < 0.01 ln V, "heterogeneity_ratio": H^0 / ln V}}, batch means without gradient.
        """
        stream = Tokens(hidden_states, position, attention)
        return self._optimize({"tokens": stream}, mask, num_masked, progress, measure)

    def taps(self, mask: Tensor, *, num_masked: int | None = None, measure: bool = True) -> Taps:
        """Returns taps for a network's residual stream, with which MTO costs hardly any memory.

        ``taps.recorder(depth)`` gives, for a stream of ``depth`` layers (the initial embedding among them), a function
        that is called on each in turn and returns what to go on with. :meth:`streams` then takes a `Stream` with its
        ``tokens`` and what it has ``taken``. The arguments are :meth:`forward`'s.
        """
        return Taps(self.settings, self._partition(mask, num_masked), measure)

    def streams(
        self,
        streams: Mapping[str, Stream],
        mask: Tensor,
        *,
        num_masked: int | None = None,
        progress: float | Tensor | None = None,
        measure: bool = True,
    ) -> dict[str, Any]:
        """Computes the same for a model with several sequences of masked tokens, such as BootMAE's two decoders.

        The terms are reduced over the streams by the ``streams`` switch (which means nothing to a model with one);
        ``diagnostics`` has one entry a stream.
        """
        chosen = self.settings["streams"]
        if len(streams) > 1 and chosen not in ("sum", "mean", *streams):
            raise ValueError(f"streams={chosen!r}: use 'sum', 'mean' or one of {sorted(streams)}")
        return self._optimize(streams, mask, num_masked, progress, measure)

    def _optimize(self, streams: Mapping[str, Stream], mask, num_masked, progress, measure) -> dict[str, Any]:
        s = self.settings
        for stream in streams.values():
            if not getattr(stream, "taken", None):  # which may have been all that was kept
                check_shapes(stream.tokens, mask)
        taken = [stream.taken for stream in streams.values() if getattr(stream, "taken", None)]
        part = taken[0].part if taken else self._partition(mask, num_masked)
        measure = measure and all(layers.measure for layers in taken)

        collected: dict[str, list[Tensor]] = {term: [] for term in s["terms"]}
        out: dict[str, Any] = {"diagnostics": {}}
        for name, stream in streams.items():
            used = s["streams"] in ("sum", "mean", name) or len(streams) == 1
            terms, diagnostics = self._stream(stream, part, s["terms"] if used else [], measure)
            for term, value in terms.items():
                collected[term].append(value)
            if diagnostics:
                out["diagnostics"][name] = diagnostics

        weighted = []
        for term, values in collected.items():
            total = torch.stack(values).sum() if len(values) > 1 else values[0]
            out[f"loss_{term}"] = total / len(values) if s["streams"] == "mean" else total
            weighted.append(self.weight(term, progress) * out[f"loss_{term}"])
        return {"loss": sum(weighted[1:], weighted[0]) if weighted else torch.zeros((), device=mask.device), **out}

    def _partition(self, mask: Tensor, num_masked: int | None) -> Partition:
        compiling = torch.compiler.is_compiling()
        part = Partition(mask, count_masked(mask, num_masked, self._validate and not compiling))
        if mask.device.type != "cpu" and not compiling:
            self._validate = False
        return part

    def weight(self, term: str, progress: float | Tensor | None = None) -> float | Tensor:
        """Returns what the term is multiplied by after ``progress`` epochs."""
        weight, warmup = self.settings[f"{term}_weight"], self.settings["warmup_epochs"]
        if self.balance is not None:
            weight = weight * self.balance.factor(term)
        if warmup <= 0:
            return weight
        if progress is None:
            raise ValueError(f"warmup_epochs={warmup} needs progress=, the epochs done so far, at each call")
        done = progress / warmup
        return weight * (done.clamp(max=1.0) if isinstance(done, Tensor) else min(1.0, done))

    def _stream(self, stream: Stream, part: Partition, terms: list[str], measure: bool):
        """Computes the terms of one stream, and its diagnostics."""
        s = self.settings
        taken = getattr(stream, "taken", None) or self._take(stream, part, terms, measure)
        values = {}
        if "spa" in terms:
            values["spa"] = self._sparsity(taken, stream, part)
        trained = [taken.trained.result()] if taken.trained else []
        if trained:
            h = part.mean(trained[0], "masked")  # (layers, B)
            if s["batch_reduction"] == "batch":
                h = h.mean(1, keepdim=True)
            first, deeper = h.split([1, len(h) - 1])
            if "e" in terms:
                values["e"] = (first + s["eps"]).reciprocal().mean()  # 1 / x would be two operators
            if "r" in terms:
                step = deeper - h[:-1] if s["rank_direction"] == "decreasing" else h[:-1] - deeper
                rank = F.softplus(step).mean(1)
                values["r"] = rank.sum() if s["rank_reduction"] == "sum" else rank.mean()
        if not measure:
            return values, {}
        return values, self._diagnostics(torch.cat(trained + ([taken.watched.result()] if taken.watched else [])), part)

    def _take(self, stream: Stream, part: Partition, terms: list[str], measure: bool) -> Layers:
        """Takes what the terms need out of the list of states."""
        s = self.settings
        layers = list(stream.tokens)
        if s["position"] == "post" and stream.position is not None:
            if stream.position.shape[1:] != layers[0].shape[1:]:
                raise ValueError(f"position is {tuple(stream.position.shape)}, layer 0 {tuple(layers[0].shape)}")
            layers[0] = layers[0] + stream.position
        if s["detach_encoder"]:
            layers[0] = torch.where(part.mask[..., None], layers[0], layers[0].detach())
        if s["final_norm"] and stream.final_norm is not None:
            layers[-1] = stream.final_norm(layers[-1])

        taken = Layers(s, part, len(layers), terms, measure)
        for x in layers:
            taken.take(x)
        return taken

    def _sparsity(self, taken: Layers, stream: Stream, part: Partition) -> Tensor:
        s = self.settings
        if s["sparsity_object"] == "attention":
            if stream.first_attention is None:
                raise ValueError("sparsity_object='attention' needs the attention of block 1: pass attention=")
            attention = stream.first_attention() if callable(stream.first_attention) else stream.first_attention
            part = Partition(part.mask, None)
            visible_columns, exclude_self = s["sparsity_columns"] == "visible", s["sparsity_self"] == "exclude"
            rows = attention_entropy(attention, part.mask, visible_columns, exclude_self)[None]
        else:
            rows = taken.sparse.result()
        if s["sparsity_reduction"] == "sum":
            return part.total(rows, "visible").mean(1).sum()
        return part.mean(rows, "visible").mean()

    @staticmethod
    @torch.no_grad()
    def _diagnostics(entropies: Tensor, part: Partition) -> dict[str, Tensor]:
        """Returns the diagnostics of row entropies (layers, B, R)."""
        log_visible = part.log_visible()
        threshold = SATURATION * (log_visible[:, None] if isinstance(log_visible, Tensor) else log_visible)
        h = part.mean(entropies, "masked")
        # With a single visible token ln V = 0 and H = 0: the ratio is reported as 0.
        tiny = torch.finfo(torch.float32).tiny
        floor = log_visible.clamp_min(tiny) if isinstance(log_visible, Tensor) else max(log_visible, tiny)
        return {
            "heterogeneity": h.mean(1),
            "saturated": part.mean((entropies < threshold).to(h.dtype), "masked").mean(1),
            "heterogeneity_ratio": (h[0] / floor).mean(),
        }


def log_scalars(out: Mapping[str, Any]) -> dict[str, Tensor]:
    """Flattens a result for a logger.

    The names are ``loss_<term>``, ``heterogeneity_<layer>``, ``saturated_<layer>`` and ``heterogeneity_ratio``; the
    last three have ``<stream>/`` before them when there are several streams.
    """
    scalars = {name: value.detach() for name, value in out.items() if name.startswith("loss_")}
    for stream, diagnostics in out["diagnostics"].items():
        prefix = f"{stream}/" if len(out["diagnostics"]) > 1 else ""
        scalars[f"{prefix}heterogeneity_ratio"] = diagnostics["heterogeneity_ratio"]
        for name in ("heterogeneity", "saturated"):
            scalars.update({f"{prefix}{name}_{depth}": value for depth, value in enumerate(diagnostics[name])})
    return scalars


def _check_choices(**values: str) -> None:
    for name, value in values.items():
        if value not in CHOICES[name]:
            raise ValueError(f"{name}={value!r}: use one of {', '.join(CHOICES[name])}")
