"""The model card: what the encoder is, how it was trained, what was measured of it, how to load and to cite it."""

from __future__ import annotations

import json
from typing import Any

from mto.export.encoder import Encoder
from mto.names import STAGES
from mto.report.metrics import PAPER_EPOCHS

CITATION = """\
@inproceedings{choi2024emerging,
  title     = {Emerging Property of Masked Token for Effective Pre-training},
  author    = {Choi, Hyesong and Lee, Hunsang and Joung, Seyoung and Park, Hyejin and Kim, Jiyeong and Min, Dongbo},
  booktitle = {European Conference on Computer Vision (ECCV)},
  year      = {2024}
}
"""


def card(encoder: Encoder, library: str, load: str) -> str:
    """Returns the card as Markdown, with the front matter that the Hub reads.

    Args:
        library: `transformers` or `timm`.
        load: code that loads the folder and computes features.
    """
    job, size, made = encoder.job, encoder.size, encoder.record.get("provenance") or {}
    data, versions, terms = job["data"], made.get("versions", {}), job["mto"]["terms"]
    how = f"with Masked Token Optimization (terms {', '.join(terms)})" if terms else "without Masked Token Optimization"
    measured = encoder.measured()
    lines = [
        "---",
        f"library_name: {library}",
        "pipeline_tag: image-feature-extraction",
        "tags: [masked-image-modeling, self-supervised-learning, masked-token-optimization]",
        "---",
        "",
        f"# {encoder.baseline.title} {encoder.name}",
        "",
        f"The encoder of {encoder.baseline.title}, pre-trained {how}, after {job['epoch']} of {job['epochs']} epochs.",
        "It has no head: it gives features, and is meant to be fine-tuned or probed.",
        "",
        *_caveat(job["scale"], job["epochs"]),
        "| | |",
        "|---|---|",
        f"| network | {size['depth']} blocks, width {size['embed_dim']}, {size['num_heads']} heads, patches of "
        f"{size['patch_size']}, images of {size['img_size']} pixels |",
        f"| run, seed, epoch | `{job['run']}`, {job['seed']}, {job['epoch']} of {job['epochs']} |",
        f"| scale, recipe | `{job['scale']}`, `{job['recipe']}` |",
        f"| images | {data['num_classes']} classes; mean {data['mean']}, deviation {data['std']} |",
        f"| trained by | commit `{made.get('commit')}`, torch {versions.get('torch')}, on {made.get('device')} |",
        "",
        "## Load it",
        "",
        "```python",
        load.rstrip(),
        "```",
        "",
        "## What was measured of it",
        "",
    ]
    if measured:
        lines += ["| stage | metric | value |", "|---|---|--:|"]
        lines += [f"| {STAGES[stage].title} | `{metric}` | {value:.4g} |" for stage, metric, value in measured]
    else:
        lines.append("Nothing yet: no fine-tuning, probe or transfer of this step has finished.")
    lines += ["", "## Settings", "", "The whole pre-training job, as `python -m mto pretrain --job` takes it:", ""]
    lines += ["```json", json.dumps(job, indent=1, sort_keys=True), "```", ""]
    lines += ["## Cite", "", "```bibtex", CITATION.rstrip(), "```"]
    return "\n".join(lines) + "\n"


def _caveat(scale: str, epochs: Any) -> list[str]:
    """Returns a paragraph where the scale is not the paper's."""
    if scale == "paper":
        return []
    return [
        f"**Not the paper's scale.** The scale `{scale}` trains for {epochs} epochs where the paper trains for "
        f"{PAPER_EPOCHS},",
        "on other images and with another network. Its numbers say nothing about the paper's.",
        "",
    ]
