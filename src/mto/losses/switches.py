"""The switches of MTO, each declared once: its values, its default, what the paper leaves open, and why `text` is so.

The presets' model (`mto.config.models.Preset`), the schema, the checks of `mto.losses.mto.MaskedTokenOptimization` and
the report's list of choices iterate over this table. It imports no torch, since the workflow's parse reads it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

#: Kinds of values beside bool and Literal: above 0 | 0 or more | layers by number, or all of them.
POSITIVE, WEIGHT, LAYERS = "positive", "weight", "layers"


@dataclass(frozen=True)
class Switch:
    """One switch, which a preset sets.

    Attributes:
        kind: `bool`, a `Literal`, or one of the kinds above.
        default: of :class:`~mto.losses.mto.MaskedTokenOptimization`, and of the preset that is `mto.default`.
        gap: what the paper leaves open.
        reason: for the value that the preset `text` has.
    """

    kind: Any
    default: Any
    gap: str
    reason: str

    @property
    def choices(self) -> tuple[Any, ...]:
        """Returns the values of a `Literal`; of another kind none."""
        return getattr(self.kind, "__args__", ())


SWITCHES: dict[str, Switch] = {
    "rank_direction": Switch(
        Literal["decreasing", "as_printed"],
        "decreasing",
        "The sign of Eq. 5",
        "As printed, H would rise with depth, against Sections 3.2 and 4, which ask for a fall.",
    ),
    "rank_reduction": Switch(
        Literal["sum", "mean"],
        "sum",
        "Eq. 5 over the layers",
        "A sum is printed; a mean would compare decoders of unequal depth.",
    ),
    "sparsity_reduction": Switch(
        Literal["mean", "sum"],
        "mean",
        "Eq. 3 over the visible rows",
        "By the printed sum L_spa's gradient is 50 to 65 times the reconstruction's at ViT-B; Eq. 2 has a mean too.",
    ),
    "sparsity_columns": Switch(
        Literal["all", "visible"],
        "all",
        "The columns of Eq. 3",
        "p is an element of the softmax over all tokens, masked and visible.",
    ),
    "sparsity_self": Switch(
        Literal["keep", "exclude"], "keep", "A token's affinity to itself in Eq. 3", "The printed formula keeps it."
    ),
    "sparsity_layers": Switch(
        LAYERS,
        (0,),
        "Where Eq. 3 acts",
        "Section 4 ties it to the initial embedding; deeper layers shall let masked tokens take part.",
    ),
    "sparsity_object": Switch(
        Literal["affinity", "attention"],
        "affinity",
        "What Eq. 3 makes sparse",
        "The formula names the affinity of tokens; Figure 3's words could also mean attention.",
    ),
    "affinity": Switch(
        Literal["dot", "scaled", "cosine"],
        "cosine",
        "Scaling inside the softmax of Eq. 2",
        "None is mentioned; at temperature 1, D^-1/2 or cosine leave L_e and L_r without effect at SimMIM's start.",
    ),
    "temperature": Switch(POSITIVE, 0.1, "A temperature in Eq. 2", "None is mentioned."),
    "tokens": Switch(
        Literal["raw", "layernorm", "l2"], "raw", "Normalisation of the tokens in Eq. 2", "None is mentioned."
    ),
    "position": Switch(
        Literal["pre", "post"],
        "pre",
        "Layer 0 before or after the position embedding",
        "The proof needs identical masked tokens, and they are so only before it is added.",
    ),
    "final_norm": Switch(
        bool, False, "The last layer before or after the final norm", "Eq. 2 speaks of the layers' own tokens."
    ),
    "batch_reduction": Switch(
        Literal["image", "batch"],
        "image",
        "Eq. 4 and Eq. 5 over a batch",
        "Both are written for one image; their mean is taken after.",
    ),
    "detach_visible": Switch(
        bool, False, "Gradient through the visible tokens of H", "Algorithm 1 updates all parameters."
    ),
    "detach_encoder": Switch(
        bool, False, "Gradient into MAE's and BootMAE's encoder", "Algorithm 1 updates all parameters."
    ),
    "streams": Switch(
        Literal["sum", "mean", "pixel", "feature"],
        "sum",
        "BootMAE's two decoders",
        "MTO is adopted for both (Section 5.2); their terms are added.",
    ),
    "spa_weight": Switch(WEIGHT, 0.1, "Weight of L_spa", "Algorithm 1 adds the terms without weights."),
    "e_weight": Switch(WEIGHT, 0.1, "Weight of L_e", "Algorithm 1 adds the terms without weights."),
    "r_weight": Switch(WEIGHT, 0.1, "Weight of L_r", "Algorithm 1 adds the terms without weights."),
    "warmup_epochs": Switch(WEIGHT, 0.0, "A warm-up of the weights", "None is mentioned."),
    "eps": Switch(POSITIVE, 1e-06, "The ε of Eq. 4", "“A small value”; H stays far above it."),
}
