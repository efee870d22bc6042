"""What is chosen where the paper is silent or contradicts itself: every switch of a preset of MTO, and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from mto.names import Run

#: Switch of a preset in config.yaml: what the paper leaves open, and the reason for what the preset `text` takes.
CHOICES = {
    "rank_direction": (
        "The sign of Eq. 5",
        "As printed, H would rise with depth, against Sections 3.2 and 4, which ask for a fall.",
    ),
    "rank_reduction": ("Eq. 5 over the layers", "A sum is printed; a mean would compare decoders of unequal depth."),
    "sparsity_reduction": (
        "Eq. 3 over the visible rows",
        "By the printed sum L_spa's gradient is 50 to 65 times the reconstruction's at ViT-B; Eq. 2 has a mean too.",
    ),
    "sparsity_columns": ("The columns of Eq. 3", "p is an element of the softmax over all tokens, masked and visible."),
    "sparsity_self": ("A token's affinity to itself in Eq. 3", "The printed formula keeps it."),
    "sparsity_layers": (
        "Where Eq. 3 acts",
        "Section 4 ties it to the initial embedding; deeper layers shall let masked tokens take part.",
    ),
    "sparsity_object": (
        "What Eq. 3 makes sparse",
        "The formula names the affinity of tokens; Figure 3's words could also mean attention.",
    ),
    "affinity": (
        "Scaling inside the softmax of Eq. 2",
        "None is mentioned; at temperature 1, D^-1/2 or cosine leave L_e and L_r without effect at SimMIM's start.",
    ),
    "temperature": ("A temperature in Eq. 2", "None is mentioned."),
    "tokens": ("Normalisation of the tokens in Eq. 2", "None is mentioned."),
    "position": (
        "Layer 0 before or after the position embedding",
        "The proof needs identical masked tokens, and they are so only before it is added.",
    ),
    "final_norm": ("The last layer before or after the final norm", "Eq. 2 speaks of the layers' own tokens."),
    "batch_reduction": ("Eq. 4 and Eq. 5 over a batch", "Both are written for one image; their mean is taken after."),
    "detach_visible": ("Gradient through the visible tokens of H", "Algorithm 1 updates all parameters."),
    "detach_encoder": ("Gradient into MAE's and BootMAE's encoder", "Algorithm 1 updates all parameters."),
    "streams": ("BootMAE's two decoders", "MTO is adopted for both (Section 5.2); their terms are added."),
    "spa_weight": ("Weight of L_spa", "Algorithm 1 adds the terms without weights."),
    "e_weight": ("Weight of L_e", "Algorithm 1 adds the terms without weights."),
    "r_weight": ("Weight of L_r", "Algorithm 1 adds the terms without weights."),
    "warmup_epochs": ("A warm-up of the weights", "None is mentioned."),
    "eps": ("The ε of Eq. 4", "“A small value”; H stays far above it."),
}


class Choice(NamedTuple):
    """One switch: its value in each of `presets`, as JSON without quotes."""

    key: str
    open: str
    values: list[str]
    why: str


def presets(mto: dict[str, Any]) -> list[str]:
    """The names of a page's presets: the paper's `text` first, then the study's default, then the others.

    Args:
        mto: ``default`` and ``presets`` of a page's job.
    """
    return sorted(mto["presets"], key=lambda name: (name != "text", name != mto["default"], name))


def listed(mto: dict[str, Any]) -> list[Choice]:
    """The switches in the order of CHOICES; one without a reason comes last."""
    keys = sorted(
        mto["presets"][mto["default"]],
        key=lambda key: list(CHOICES).index(key) if key in CHOICES else len(CHOICES),
    )
    return [
        Choice(key, question, [_shown(mto["presets"][name].get(key)) for name in presets(mto)], why)
        for key in keys
        for question, why in [CHOICES.get(key, ("", ""))]
    ]


def disagreeing(mto: dict[str, Any], results: Path) -> list[str]:
    """One sentence for every value that a finished run with MTO has otherwise (its job.json), as after an edit."""
    others: dict[tuple[str, str, str], set[str]] = {}
    for path in sorted(results.glob("pretrain/*-mto*/seed*/epoch*/job.json")):
        run = path.parts[-4]
        preset = Run.parse(run).preset or mto["default"]
        try:
            used = json.loads(path.read_text())["job"]["mto"]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # no job of ours: whoever reads the run's metrics says so
        for key, value in mto["presets"].get(preset, {}).items():
            if used.get(key, value) != value:
                others.setdefault((f"{preset}.{key}", _shown(value), _shown(used[key])), set()).add(run)
    return [
        f"mto.presets.{key} is {here} in config.yaml, but was {there} in {', '.join(sorted(runs))}."
        for (key, here, there), runs in sorted(others.items())
    ]


def _shown(value: Any) -> str:
    return json.dumps(value).strip('"')
