"""The audit's claims of the supplementary material, by its five sections."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from typing import Any

from auditing import baselines, better, matches, published, short

from mto.names import BASELINES, Run
from mto.report import printed
from mto.report.audit import CONTRADICTED, HOLDS, NOT_FOLLOWING, OPEN, Claim
from mto.report.labels import baseline_name, signed, with_mto

#: The rows of Supplementary Tables 3 to 6, as keys of a recipe: what a table does not print cannot differ from it.
SETTINGS = (
    *("pretrain.lr.base", "pretrain.weight_decay", "pretrain.betas", "pretrain.batch_size"),
    *("pretrain.schedule.kind", "pretrain.schedule.warmup_epochs"),
    *("finetune.lr.base", "finetune.weight_decay", "finetune.betas", "finetune.layer_decay", "finetune.batch_size"),
    *("finetune.schedule.warmup_epochs", "finetune.epochs"),
)
#: What else a single table prints, by its number.
MORE_SETTINGS = {6: ("pretrain.schedule.min_lr", "finetune.schedule.min_lr")}
#: Where the repository has no setting to follow. ConMIM:README.md:53-85; run_conmim_pretraining.py:80-90.
UNPUBLISHED = {
    "conmim-vitb": "the repository publishes no command that pre-trains a ViT-B; its argument for the warm-up is 5 by"
    " default (printed: 10, as in its command for a ViT-L); it fine-tunes at 4e-3 (printed: five rates, 1e-3 to 5e-3)",
}


def claims(recipes: list[list[Any]]) -> Iterator[Claim]:
    """All of them; `recipes` as `audited.claims` takes them."""
    for part in (_ade20k, _coco, _architectures, _decoder_depth):
        yield from part()
    yield from _settings(recipes)
    yield from _proof()


# ------------------------------------------------------------------------------------------------ Section 1: transfer
def _ade20k() -> Iterator[Claim]:
    table = printed.load("tableS1_ade20k")
    runs, where = baselines(table), "Supplementary Section 1 and Table 1"
    for run in runs:
        base, half, full = _transferred(table, run, "mIoU")
        arithmetic, verdict = matches(half, base)
        arithmetic += f'; the text and the caption say "both baselines", the table has {len(runs)}'
        name = f"{baseline_name(run)} on ADE20K, mIoU"
        yield Claim(f"{name}: 400 epochs with MTO match 800 without", where, arithmetic, verdict)
        yield Claim(f"{name}: MTO improves the converged performance", where, *better(full, base))


def _coco() -> Iterator[Claim]:
    """The paper does not say of COCO that 400 epochs match 800: it speaks of efficiency, and concedes MAE's mask AP."""
    table = printed.load("tableS2_coco")
    runs, where = baselines(table), "Supplementary Section 1 and Table 2"
    unknown = "; nothing is printed for 400 epochs without MTO, nor what efficiency is"
    for run, (metric, head) in product(runs, (("box_ap", "box AP"), ("mask_ap", "mask AP"))):
        base, _, full = _transferred(table, run, metric)
        arithmetic, verdict = better(full, base)
        if (run, metric) == ("mae-vitb", "mask_ap"):
            arithmetic += '; the text concedes that here MTO "posed challenges in improving the AP^mk measure"'
        claim = f"{baseline_name(run)} on COCO, {head}: MTO improves the converged performance"
        yield Claim(claim, where, arithmetic, verdict)
    base, half, _ = _transferred(table, "mae-vitb", "box_ap")
    yield Claim(
        'MAE ViT-B on COCO: "enhancing training efficiency on the AP^bb measure"',
        where,
        f"box AP at 400 with MTO against 800 without: {half} − {base} = {signed(half - base)}{unknown}",
        HOLDS if half >= base else OPEN,
    )
    gains = {
        run: [half - base for base, half, _ in (_transferred(table, run, metric) for metric in ("box_ap", "mask_ap"))]
        for run in runs
    }
    told = "; ".join(f"{short(run)} {' and '.join(map(signed, both))}" for run, both in gains.items())
    yield Claim(
        'COCO: MTO "augmented the training efficiency across all baseline methods"',
        where,
        f"box and mask AP at 400 with MTO against 800 without: {told}{unknown}",
        HOLDS if all(gain >= 0 for both in gains.values() for gain in both) else OPEN,
    )


def _transferred(table: dict[tuple[str, str], str], run: str, metric: str) -> tuple[float, float, float]:
    """Without MTO at 800, with it at 400 and at 800."""
    cells = ((run, 800), (with_mto(run), 400), (with_mto(run), 800))
    base, half, full = (float(table[name, f"{metric}@{epoch}"]) for name, epoch in cells)
    return base, half, full


# ------------------------------------------------------------------------------------------- Section 2: architectures
def _architectures() -> Iterator[Claim]:
    table, elsewhere = printed.load("table2_linear"), published("linear")
    probes = {run: float(table[run, "top1@800"]) for run in baselines(table) if Run.parse(run).backbone == "vitb"}
    in_encoder = {name for name, baseline in BASELINES.items() if baseline.masked_in == "encoder"}
    inpainting = {run: value for run, value in probes.items() if Run.parse(run).baseline in in_encoder}
    decoder = {run: value for run, value in probes.items() if run not in inpainting}
    listed = (", ".join(f"{short(run)} {value}" for run, value in style.items()) for style in (decoder, inpainting))
    yield Claim(
        'Decoder-style methods have a "relatively superior linear probing accuracy, a notable advantage over the'
        ' inpainting-style technique"',
        "Supplementary Section 2, main Table 2, SimMIM's author",
        f"ViT-B at 800: {' against '.join(listed)}; SimMIM, inpainting-style too, is not in the table: its author"
        f" reports {elsewhere}",
        HOLDS if min(decoder.values()) > max(elsewhere, *inpainting.values()) else CONTRADICTED,
    )
    yield Claim(
        "At 800 epochs SimMIM with MTO is overwhelmingly better than MAE with MTO",
        "Supplementary Section 2, Figure 1",
        "the figure prints no number",
        OPEN,
    )


# ------------------------------------------------------------------------------------------- Section 3: decoder depth
def _decoder_depth() -> Iterator[Claim]:
    lowest = {row["column"]: row["value"] for row in printed.unassigned("figS2_decoder_depth")}
    probe = printed.load("table2_linear")["mae-vitb-mto", "top1@400"]
    where = "Supplementary Section 3, Figure 2"
    yield Claim(
        'Fine-tuning "reached its pinnacle when the number of layers was set to either 2 or 8"',
        where,
        f"only the figure's lowest accuracy is printed, {lowest['finetune_top1_lowest']}, without its depth",
        OPEN,
    )
    yield Claim(
        'Linear probing has "superior results when the layer count was extended to 8 or more", with "a slight'
        ' diminution" at 12',
        where,
        f"only the figure's lowest accuracy is printed, {lowest['linear_top1_lowest']}, without its depth; the main"
        f" Table 2 has {probe}, with MAE's own decoder",
        OPEN,
    )


# ------------------------------------------------------------------------------------------------ Section 4: settings
def _settings(recipes: list[list[Any]]) -> Iterator[Claim]:
    tables = {"simmim-vitb": 3, "mae-vitb": 4, "mae-vitl": 4, "bootmae-vitb": 5, "conmim-vitb": 6}
    for run, number in tables.items():
        fields = {f"{run}.{key}" for key in (*SETTINGS, *MORE_SETTINGS.get(number, ()))}
        differing = "; ".join(
            f"{key.removeprefix(f'{run}.')} {_value(paper)} for {_value(official)}"
            for key, paper, official in recipes
            if key in fields
        )
        yield Claim(
            f"{baseline_name(run)}: all configs follow the baseline's setting",
            f"Supplementary Table {number} against the official repository",
            differing or UNPUBLISHED.get(run, "no printed field differs, read as `config.yaml` reads the table"),
            CONTRADICTED if differing else OPEN if run in UNPUBLISHED else HOLDS,
        )


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


# --------------------------------------------------------------------------------------------------- Section 5: proof
def _proof() -> Iterator[Claim]:
    on_masked = {n: math.log(n) for n in (1, 2)}  # n equal probabilities 1/n; on one visible token the entropy is 0
    yield Claim(
        "A row's entropy is lower with its maximum on a visible token than on the masked ones, by induction on n ≥ 1",
        "Supplementary Section 5, n = 1",
        f"on masked tokens ln 1 = {on_masked[1]:.2f}, on a visible one 0: equal, as the proof says itself; n = 1 is no"
        " base case",
        HOLDS if on_masked[1] > 0 else NOT_FOLLOWING,
    )
    yield Claim(
        "The same for n ≥ 2 masked tokens with equal weights",
        "Supplementary Section 5, n ≥ 2",
        f"at least ln 2 = {on_masked[2]:.2f} against 0, for rows that put all weight on one kind of token; the row's"
        " own token is such a visible token too",
        HOLDS if on_masked[2] > 0 else CONTRADICTED,
    )
