"""The paper's claims that this study's own runs can answer: what was measured, by which steps, and a verdict.

The audit (`mto.report.audit`) has the same claims, judged by the numbers that the paper prints. Here each is asked of
the scale's own accuracies, seed by seed: it holds where it holds in every seed that is finished.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from mto.names import BASELINES, TERMS, Run, Step
from mto.report import printed, sources
from mto.report.labels import baseline_name, full_name, signed, with_mto
from mto.report.metrics import PAPER_EPOCHS, mean
from mto.report.page.findings import Answer, Findings
from mto.report.rauc import gains
from mto.report.sheet import spread
from mto.report.verdict import Kind

#: A number of the page: ([task, run, epoch], metric).
Asked = tuple[tuple[str, str, int], str]
#: Seed to value.
Values = dict[int, float]
DEPTH = re.compile(r"(?:(?P<stream>\w+)/)?heterogeneity_(?P<layer>\d+)")


@dataclass(frozen=True)
class Claim:
    """One claim of the paper, asked of this study.

    Attributes:
        steps: what a link to its steps is called, and where they are listed (`mto.report.sources`).
    """

    claim: str
    where: str
    measured: str
    verdict: Kind
    steps: tuple[tuple[str, str], ...]


def claims(found: Findings) -> list[Claim]:
    """Returns the claims whose numbers the study measures, in the paper's order; those not finished yet are open."""
    parts: tuple[Callable[[Findings], Iterator[Claim]], ...] = (
        *(_layers, _rauc, _epochs_saved, _probes, _objectives, _transfer, _architectures, _depth),
    )
    return [claim for part in parts for claim in part(found)]


# ---------------------------------------------------------------------------------------------------- numbers and words
def _cells(found: Findings, name: str, task: str) -> list[tuple[str, int]]:
    """Returns (run, epoch) of a table's or figure's cells of one task, those from scratch left out."""
    return [(run, epoch) for t, run, epoch in found.job["cells"].get(name, []) if t == task and epoch]


def _values(found: Findings, asked: Asked) -> Values:
    (task, run, epoch), metric = asked
    records = {seed: found.records.get(Step(task, run, seed, epoch)) for seed in found.job["seeds"]}
    values = {seed: record["metrics"].get(metric) for seed, record in records.items() if record}
    return {seed: value for seed, value in values.items() if value is not None}


def _links(asked: Iterable[Asked]) -> tuple[tuple[str, str], ...]:
    named = {
        f"{full_name(run)}, epoch {epoch}": sources.of(Step(task, run, 0, epoch)).value
        for (task, run, epoch), _ in asked
    }
    return tuple(named.items())


def _kind(holds: list[bool]) -> Kind:
    return "open" if not holds else "yes" if all(holds) else "mixed" if any(holds) else "no"


def _compared(found: Findings, claim: str, where: str, ours: Asked, base: Asked, *, equal: bool = False) -> Claim:
    """Judges the claim that one number is above another in every seed; with `equal`, that it is no lower."""
    high, low = _values(found, ours), _values(found, base)
    gains = [high[seed] - low[seed] for seed in high if seed in low]
    text = "not measured yet"
    if gains:
        shared = [seed for seed in high if seed in low]
        first, second = spread([high[seed] for seed in shared]), spread([low[seed] for seed in shared])
        text = f"{first} against {second}: {signed(mean(gains), 2)}"
    holds = [gain >= 0 if equal else gain > 0 for gain in gains]
    return Claim(claim, where, text, _kind(holds), _links((ours, base)))


# --------------------------------------------------------------------------------------------------- claims of the text
def _layers(found: Findings) -> Iterator[Claim]:
    """Yields the claim of Figure 1 (a) for each converged model."""
    cells = _cells(found, "fig1_heterogeneity", "heterogeneity")
    final = max((epoch for _, epoch in cells), default=0)
    for run in dict.fromkeys(run for run, epoch in cells if epoch == final):
        told, holds = [], []
        for seed in found.job["seeds"]:
            for profile in _profiles(found.records.get(Step("heterogeneity", run, seed, final))):
                steps = [after - before for before, after in pairwise(profile)]
                falling = sum(step < 0 for step in steps)
                holds.append(max(profile) == profile[0] and falling == len(steps))
                told.append(f"{profile[0]:.2f} to {profile[-1]:.2f}, lower in {falling} of {len(steps)} steps")
        yield Claim(
            f"{full_name(run)}: H is highest at the initial embedding and falls with depth once it has converged",
            "Section 3.2, Figure 1 (a)",
            "; ".join(told) or "not measured yet",
            _kind(holds),
            _links([(("heterogeneity", run, final), "")]),
        )


def _profiles(record: dict[str, Any] | None) -> list[list[float]]:
    """Returns H from the first to the last layer, of each stream of a heterogeneity step."""
    streams: dict[str, dict[int, float]] = {}
    for name, value in (record or {"metrics": {}})["metrics"].items():
        if (match := DEPTH.fullmatch(name)) and value is not None:
            streams.setdefault(match["stream"] or "", {})[int(match["layer"])] = value
    return [[layers[depth] for depth in sorted(layers)] for layers in streams.values() if len(layers) > 1]


def _rauc(found: Findings) -> Iterator[Claim]:
    """Yields the claims on RAUC over the paper's windows that the scale has, by the baselines that have learnt."""
    void = {answer.baseline for answer in found.answers if answer.verdict == "void"}
    table = printed.load("table1_rauc")
    for window in ("200-400", "100-400"):
        shares = [int(end) / PAPER_EPOCHS for end in window.split("-")]
        first, last = (share * found.job["pretrain_epochs"] for share in shares)
        told, holds, steps = [], [], []
        for run in dict.fromkeys(run for run, _ in table):
            plain = Run.parse(run).plain.name
            pairs = [(found.curve(plain, seed), found.curve(run, seed)) for seed in found.job["seeds"]]
            areas = [
                gains(*pair, (int(first), int(last))) for pair in pairs if all({first, last} <= set(c) for c in pair)
            ]
            if not areas or baseline_name(plain) in void or min(base for base, _ in areas) <= 0:
                continue
            ratios = [mto / base for base, mto in areas]
            ours, theirs = (signed(100 * (r - 1), 0) for r in (mean(ratios), float(table[run, f"rauc@{window}"])))
            told.append(f"{baseline_name(plain)} {ours} % (paper: {theirs} %)")
            holds += [ratio > 1 for ratio in ratios]
            steps.append((baseline_name(plain), sources.of(Step("finetune", plain, 0, 0)).curves))
        if any(plain_epoch == first for _, plain_epoch in _cells(found, "table1_rauc", "finetune")):
            claim = f"MTO raises RAUC over the epochs that stand for the paper's {window.replace('-', ' to ')}"
            yield Claim(claim, "Section 5.3 and Table 1", "; ".join(told) or "no ratio yet", _kind(holds), tuple(steps))


def _epochs_saved(found: Findings) -> Iterator[Claim]:
    theirs = {run: float(value) for (run, _), value in printed.load("fig4_epochs").items()}
    runs = {baseline_name(run): run for run in theirs}
    for answer in found.answers:
        if answer.baseline in runs:
            percent = theirs[runs[answer.baseline]]
            yield Claim(
                f"{answer.baseline} needs fewer epochs with MTO (the paper: {percent:.0f} %)",
                "Section 5.3",
                _saved(answer),
                answer.verdict,
                ((f"fine-tuning of {answer.baseline}", answer.places[0]),),
            )
    shares = [answer.share for answer in found.answers if answer.verdict == "yes" and answer.share is not None]
    claimed = float(printed.load("quoted")["all", "saved_percent"])
    if found.answers:
        saved = [100 * (1 - share) for share in shares]
        told = [answer.verdict for answer in found.answers]
        unanswered = not shares and not {"no", "mixed"} & set(told)
        yield Claim(
            f"MTO saves pre-training epochs for every baseline (the paper: approximately {claimed:.0f} %)",
            "Abstract",
            f"saved by {len(shares)} of {len(told)} baselines" + (f", {mean(saved):.0f} % on average" if saved else ""),
            "open" if unanswered else _kind([kind == "yes" for kind in told if kind not in ("open", "void")]),
            tuple((answer.baseline, answer.places[0]) for answer in found.answers),
        )


def _saved(answer: Answer) -> str:
    if answer.verdict == "yes":
        return f"{answer.percent} % {answer.sentence}"
    return answer.sentence if answer.verdict in ("void", "open") else f"{answer.to_match}; {answer.sentence}"


def _probes(found: Findings) -> Iterator[Claim]:
    cells = _cells(found, "table2_linear", "linear")
    final = max((epoch for _, epoch in cells), default=0)
    for run, epoch in cells:
        if not Run.parse(run).terms and (with_mto(run), epoch) in cells:
            text = "with MTO highly surpasses its baseline" if epoch < final else "is better with MTO"
            name = f"{baseline_name(run)}: linear probing after {epoch} epochs {text}"
            ours, base = (("linear", with_mto(run), epoch), "top1"), (("linear", run, epoch), "top1")
            yield _compared(found, name, "Section 5.3 and Table 2", ours, base)


def _objectives(found: Findings) -> Iterator[Claim]:
    cells = _cells(found, "table3_objectives", "finetune")
    asked = {Run.parse(run).terms: (("finetune", run, epoch), "top1") for run, epoch in cells if Run.parse(run).terms}
    if TERMS not in asked or len(asked) < 2:
        return
    values = {terms: _values(found, one) for terms, one in asked.items()}
    where = "Section 5.4 and Table 3"
    seeds = [seed for seed in values[TERMS] if all(seed in value for value in values.values())]
    wins, effects = [], []
    for seed in seeds:
        wins.append(all(values[TERMS][seed] > one[seed] for terms, one in values.items() if terms != TERMS))
        effects += [
            values[terms][seed] > values[fewer][seed]
            for terms in values
            for left in terms
            if (fewer := tuple(term for term in terms if term != left)) in values
        ]
    others = {terms: mean([one[seed] for seed in seeds]) for terms, one in values.items() if terms != TERMS and seeds}
    text = effect = "not measured yet"
    if others:
        best = max(others, key=lambda terms: others[terms])
        ours = mean([values[TERMS][seed] for seed in seeds])
        text = f"{ours:.2f} against at most {others[best]:.2f}, with {', '.join(f'L_{term}' for term in best)}"
        effect = f"adding a term is better in {sum(effects)} of {len(effects)} pairs of rows"
    yield Claim("All three objectives together are best", where, text, _kind(wins), _links(asked.values()))
    yield Claim("Each objective contributes notably", where, effect, _kind(effects), _links(asked.values()))


# ------------------------------------------------------------------------------------- claims of the supplementary text
def _transfer(found: Findings) -> Iterator[Claim]:
    tables = (
        ("tableS1_ade20k", "ade20k", {"mIoU": "mIoU"}),
        ("tableS2_coco", "coco", {"box_ap": "box AP", "mask_ap": "mask AP"}),
    )
    for name, task, metrics in tables:
        cells = _cells(found, name, task)
        where = f"Supplementary Section 1 and Table {'1' if task == 'ade20k' else '2'}"
        for run in dict.fromkeys(run for run, _ in cells if not Run.parse(run).terms):
            ours, final = with_mto(run), max(epoch for other, epoch in cells if other == run)
            for metric, words in metrics.items():
                what = f"{baseline_name(run)} on {'ADE20K' if task == 'ade20k' else 'COCO'}, {words}"
                base = ((task, run, final), metric)
                for epoch in sorted(epoch for other, epoch in cells if other == ours and epoch <= final):
                    if epoch == final:
                        said = "MTO improves the converged performance"
                    elif task == "ade20k":
                        said = f"{epoch} epochs with MTO match {final} without"
                    else:
                        continue  # of COCO the paper does not say it
                    asked = ((task, ours, epoch), metric)
                    yield _compared(found, f"{what}: {said}", where, asked, base, equal=epoch < final)


def _architectures(found: Findings) -> Iterator[Claim]:
    cells = _cells(found, "table2_linear", "linear")
    final = max((epoch for _, epoch in cells), default=0)
    plain = [run for run, epoch in cells if epoch == final and Run.parse(run).plain.name == run]
    style = {run: BASELINES[Run.parse(run).baseline].masked_in for run in plain if Run.parse(run).backbone == "vitb"}
    asked = {run: (("linear", run, final), "top1") for run in style}
    if {"encoder", "decoder"} <= set(style.values()):
        values = {run: _values(found, one) for run, one in asked.items()}
        holds = [
            min(values[run][seed] for run in style if style[run] == "decoder")
            > max(values[run][seed] for run in style if style[run] == "encoder")
            for seed in found.job["seeds"]
            if all(seed in value for value in values.values())
        ]
        told = [f"{baseline_name(run)} ({style[run]}) {spread(list(values[run].values()))}" for run in style]
        yield Claim(
            "Decoder-style methods have a superior linear probing accuracy to the inpainting-style ones",
            "Supplementary Section 2, main Table 2",
            "; ".join(told) if holds else "not measured yet",
            _kind(holds),
            _links(asked.values()),
        )
    cells = _cells(found, "figS1_architectures", "finetune")
    final = max((epoch for _, epoch in cells), default=0)
    ours, base = (f"{name}-vitb-mto" for name in ("simmim", "mae"))
    if {(ours, final), (base, final)} <= set(cells):
        yield _compared(
            found,
            f"After {final} epochs SimMIM with MTO is overwhelmingly better than MAE with MTO",
            "Supplementary Section 2, Figure 1",
            (("finetune", ours, final), "top1"),
            (("finetune", base, final), "top1"),
        )


def _depth(found: Findings) -> Iterator[Claim]:
    """Yields the claims of supplementary Figure 2: at which depths an accuracy is highest, as the paper says it."""
    said = {
        "finetune": ('Fine-tuning "reached its pinnacle when the number of layers was set to either 2 or 8"', {2, 8}),
        "linear": ("Linear probing has superior results with 8 layers or more", {8, 12}),
    }
    for task, (claim, best) in said.items():
        cells = _cells(found, "figS2_decoder_depth", task)
        depths = {Run.parse(run).decoder_depth: ((task, run, epoch), "top1") for run, epoch in cells}
        if None in depths or not best <= depths.keys():
            continue  # other depths than the paper's
        values = {depth: _values(found, one) for depth, one in depths.items()}
        seeds = [seed for seed in found.job["seeds"] if all(seed in value for value in values.values())]
        holds = [max(values, key=lambda depth: values[depth][seed]) in best for seed in seeds]
        told = [f"{depth}: {spread([value[seed] for seed in seeds])}" for depth, value in values.items()]
        text = "; ".join(told) if seeds else "not measured yet"
        yield Claim(claim, "Supplementary Section 3, Figure 2", text, _kind(holds), _links(depths.values()))
