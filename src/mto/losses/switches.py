"""The switches of MTO, each declared once: its values, its default, the paper's reading, and why that is the paper's.

The presets' model (`mto.config.models.Preset`), the schema, the shipped preset `text`, the checks of
`mto.losses.mto.MaskedTokenOptimization`, the report's list of choices and docs/switches.md iterate over this table. It
imports no torch, since the workflow's parse reads it.
"""

from __future__ import annotations

import json
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
        words: what the values mean, where their names do not say it.
        paper: of the preset `text`, the paper's own reading; None: the default is.
    """

    kind: Any
    default: Any
    gap: str
    reason: str
    words: str = ""
    paper: Any = None

    @property
    def text(self) -> Any:
        """Returns the value that the preset `text` has, as JSON has it."""
        value = self.default if self.paper is None else self.paper
        return list(value) if isinstance(value, tuple) else value

    @property
    def values(self) -> str:
        """Returns what a preset may say, for the documentation."""
        if self.kind is bool:
            return "true, false"
        return (
            ", ".join(map(str, self.choices))
            or {
                POSITIVE: "a number above 0",
                WEIGHT: "a number, 0 or more",
                LAYERS: "a list of layers, or all",
            }[self.kind]
        )

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
        words="decreasing: H falls with depth, as all the text asks; as_printed: it rises",
    ),
    "rank_reduction": Switch(
        Literal["sum", "mean"],
        "sum",
        "Eq. 5 over the layers",
        "A sum is printed; a mean would compare decoders of unequal depth.",
        words="over the layers 1 to L",
    ),
    "sparsity_reduction": Switch(
        Literal["mean", "sum"],
        "mean",
        "Eq. 3 over the visible rows",
        "By the printed sum L_spa's gradient is 50 to 65 times the reconstruction's at ViT-B; Eq. 2 has a mean too.",
        words="over the visible rows; sum is the printed one",
    ),
    "sparsity_columns": Switch(
        Literal["all", "visible"],
        "all",
        "The columns of Eq. 3",
        "p is an element of the softmax over all tokens, masked and visible.",
        words="whether the softmax runs over all tokens, or over the visible ones",
    ),
    "sparsity_self": Switch(
        Literal["keep", "exclude"],
        "keep",
        "A token's affinity to itself in Eq. 3",
        "The printed formula keeps it.",
        words="whether a token's affinity to itself stays in",
    ),
    "sparsity_layers": Switch(
        LAYERS,
        (0,),
        "Where Eq. 3 acts",
        "Section 4 ties it to the initial embedding; deeper layers shall let masked tokens take part.",
        words="0 is the initial embedding; negative numbers count from the end",
    ),
    "sparsity_object": Switch(
        Literal["affinity", "attention"],
        "affinity",
        "What Eq. 3 makes sparse",
        "The formula names the affinity of tokens; Figure 3's words could also mean attention.",
        words="the affinity of the tokens, or the attention of block 1",
    ),
    "affinity": Switch(
        Literal["dot", "scaled", "cosine"],
        "cosine",
        "Scaling inside the softmax of Eq. 2",
        "None is mentioned; at temperature 1, D^-1/2 or cosine leave L_e and L_r without effect at SimMIM's start.",
        words="scaled: by D^-1/2; each is divided by the temperature",
        paper="dot",
    ),
    "temperature": Switch(POSITIVE, 0.1, "A temperature in Eq. 2", "None is mentioned.", paper=1.0),
    "tokens": Switch(
        Literal["raw", "layernorm", "l2"], "raw", "Normalisation of the tokens in Eq. 2", "None is mentioned."
    ),
    "position": Switch(
        Literal["pre", "post"],
        "pre",
        "Layer 0 before or after the position embedding",
        "The proof needs identical masked tokens, and they are so only before it is added.",
        words="pre: layer 0 is taken before the position is added",
    ),
    "final_norm": Switch(
        bool,
        False,
        "The last layer before or after the final norm",
        "Eq. 2 speaks of the layers' own tokens.",
        words="true: the last layer is taken after the network's final norm",
    ),
    "batch_reduction": Switch(
        Literal["image", "batch"],
        "image",
        "Eq. 4 and Eq. 5 over a batch",
        "Both are written for one image; their mean is taken after.",
        words="image: L_e and L_r for each image, then the mean; batch: of the mean H",
    ),
    "detach_visible": Switch(
        bool,
        False,
        "Gradient through the visible tokens of H",
        "Algorithm 1 updates all parameters.",
        words="true: no gradient through the visible tokens in H",
    ),
    "detach_encoder": Switch(
        bool,
        False,
        "Gradient into MAE's and BootMAE's encoder",
        "Algorithm 1 updates all parameters.",
        words="true: the visible tokens of layer 0 are constants; L_r still reaches an encoder through deeper layers",
    ),
    "streams": Switch(
        Literal["sum", "mean", "pixel", "feature"],
        "sum",
        "BootMAE's two decoders",
        "MTO is adopted for both (Section 5.2); their terms are added.",
        words="of a method with several decoders: their terms added, averaged, or those of one",
    ),
    "spa_weight": Switch(WEIGHT, 0.1, "Weight of L_spa", "Algorithm 1 adds the terms without weights.", paper=1.0),
    "e_weight": Switch(WEIGHT, 0.1, "Weight of L_e", "Algorithm 1 adds the terms without weights.", paper=1.0),
    "r_weight": Switch(WEIGHT, 0.1, "Weight of L_r", "Algorithm 1 adds the terms without weights.", paper=1.0),
    "warmup_epochs": Switch(
        WEIGHT,
        0.0,
        "A warm-up of the weights",
        "None is mentioned.",
        words="the weights rise from 0 over this many epochs",
    ),
    "eps": Switch(
        POSITIVE, 1e-06, "The ε of Eq. 4", "“A small value”; H stays far above it.", words="L_e is at most 1 / eps"
    ),
}
#: The preset of the paper's equations, and of its text where that contradicts them.
TEXT = "text"


def table() -> str:
    """Returns docs/switches.md, which `python -m mto config schema` writes."""
    rows = []
    for name, switch in SWITCHES.items():
        values = f"{switch.values}; {switch.words}" if switch.words else switch.values
        default = list(switch.default) if isinstance(switch.default, tuple) else switch.default
        cells = (f"`{name}`", switch.gap, values, _shown(switch.text), _shown(default), switch.reason)
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join([_HEAD, *rows, ""])


def _shown(value: Any) -> str:
    return json.dumps(value).strip('"')


_HEAD = """# Switches of MTO

`make schema` writes this page from `src/mto/losses/switches.py`, where each switch is declared.
[choices.md](choices.md) argues for them one by one. A preset under `mto.presets` sets them all, or names a
`base` that has the others; `text` is the paper's reading.

| switch | what the paper leaves open | values | `text` | default | why `text` has it |
|---|---|---|---|---|---|"""
