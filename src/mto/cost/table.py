"""The plan as a table that a person reads, and the sentences below it. No torch."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from mto.config.prices import Plan
from mto.cost.estimate import COUNTED, Cost
from mto.names import STAGES

Row = dict[str, Any]
TITLES = {"stage": "Stage", "method": "Method", "backbone": "Backbone", "table": "Table or figure, alone", "all": "All"}


def markdown(
    rows: list[Row],
    pilot: Row,
    cards: dict[str, list[Row]],
    costs: Iterable[Cost],
    plan: Plan,
    scale: str,
    foreign: Iterable[str],
    copied: float = 0.0,
) -> str:
    """Returns the plan as Markdown: a table for each way to cut the study, one of the cards, and notes on them.

    Args:
        pilot: the row of the pilot.
        cards: on each card, the rows of the stages and of the whole.
        copied: bytes of the copy of ImageNet that `datasets.imagenet.convert` asks for.
    """
    hours = _unit(plan)
    lines = [f"# The plan of scale {scale}, on {plan.gpus} x {plan.card}", ""]
    for kind, title in TITLES.items():
        chosen = [row for row in rows if row["kind"] == kind]
        if not chosen:
            continue
        heads = [title, "jobs", "left to do", hours, "left to do", "saved without", "days left", "disk, GB", "read, TB"]
        heads += [plan.currency, "left to do", "saved without", "from"]
        lines += [_line(heads), _line([":--", *["--:"] * 11, ":--"])]
        lines += [_line(_cells(row)) for row in chosen]
        lines.append("")
    if len(cards) > 1:
        lines += [*_compare(cards, plan), ""]
    whole = rows[-1]
    lines += [f"- {note}" for note in notes(whole, pilot, list(costs), plan, sorted(foreign))]
    if copied:
        lines.append(f"- Disk: `datasets.imagenet.convert` takes {copied / 1e9:,.0f} GB more, for good.")
    return "\n".join(lines) + "\n"


def _compare(cards: dict[str, list[Row]], plan: Plan) -> list[str]:
    """Returns the table of what is left to do on each card: hours of each stage and of the whole, days and money."""
    stages = [f"{row['part']}, hours" for row in next(iter(cards.values()))]
    heads = ["Left to do on", *stages, f"days on {plan.gpus}", plan.currency, "from"]
    lines = [_line(heads), _line([":--", *["--:"] * (len(stages) + 2), ":--"])]
    for card, rows in cards.items():
        whole = rows[-1]
        hours = (_number(row["gpu_hours_left"]) for row in rows)
        lines.append(_line([card, *hours, _number(whole["days_left"]), _number(whole["cost_left"]), whole["basis"]]))
    return lines


def _cells(row: Row) -> list[str]:
    return [
        *(row["part"], str(row["jobs"]), str(row["jobs_left"])),
        *(_number(row[key]) for key in ("gpu_hours", "gpu_hours_left", "gpu_hours_saved_without")),
        *(_number(row[key]) for key in ("days_left", "disk_gb", "read_tb")),
        *(_number(row[key]) for key in ("cost", "cost_left", "cost_saved_without")),
        row["basis"],
    ]


def notes(whole: Row, pilot: Row, costs: list[Cost], plan: Plan, foreign: list[str]) -> list[str]:
    card = plan.cards[plan.card]
    price, hours = f"{card.price_per_gpu_hour:g} {plan.currency}", _unit(plan)
    said = [
        "Stages, methods and backbones divide the jobs among them. Tables and figures share them: each is given as if "
        "it were made alone, so that their sum exceeds the whole; `saved without` is what nothing else needs.",
        _days(whole, costs, plan),
        f"Of the {_number(whole['gpu_hours'])} hours, evaluation takes {_number(whole['evaluation_gpu_hours'])} and "
        f"MTO's losses {_number(whole['mto_gpu_hours'])}.",
        "Disk: encoders, training states and logs, without the datasets and a cache of their images; "
        f"{_number(whole['peak_disk_gb'])} GB while jobs run.",
        f"Money: {price} for an hour of one {plan.card} (plan.cards in config.yaml); storage, traffic and failed "
        "attempts come on top.",
        f"`snakemake pilot`, before the study, comes on top: {pilot['jobs']} jobs, {_number(pilot['gpu_hours'])} "
        f"{hours}, {_number(pilot['cost'])} {plan.currency}.",
    ]
    if any(cost.basis == COUNTED for cost in costs):
        said.append(
            f"Counted: floating-point operations at {card.utilisation:.0%} of {card.tflops:g} TFLOP/s, or the loader's "
            "images_per_core where those are slower. A guess within a factor of two; `snakemake preflight` measures."
        )
    if foreign:
        said.append(
            f"Measured on {', '.join(foreign)}, which is no {plan.card}, and left out: name the card in plan.card."
        )
    return said


def _unit(plan: Plan) -> str:
    return "core-hours" if plan.card == "cpu" else "GPU-hours"


def _days(whole: Row, costs: list[Cost], plan: Plan) -> str:
    units = "cores" if plan.card == "cpu" else "GPUs"
    asked = {cost.gpus for cost in costs if cost.left}
    if max(asked, default=0) > plan.gpus:
        larger = {cost.step.task for cost in costs if cost.left and cost.gpus > plan.gpus}
        stages = [stage for stage in STAGES if stage in larger]
        return (
            f"Days: plan.gpus is {plan.gpus}, and a job of {', '.join(stages)} takes up to {max(asked)} {units} "
            "(resources in config.yaml): no such job would start. Raise plan.gpus, or lower the gpu of these stages."
        )
    idle = ", whole jobs at a time, so that some stand idle" if any(plan.gpus % gpus for gpus in asked) else ""
    return (
        f"Days: on {plan.gpus} {units} at once{idle}, and never less than the longest "
        f"chain of jobs, which wait for each other: {whole['longest_chain_days_left']:.1f} days."
    )


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _number(value: float) -> str:
    """Returns three figures, with commas from a thousand on; a dash for infinity."""
    if math.isinf(value):
        return "—"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
