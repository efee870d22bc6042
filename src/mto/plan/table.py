"""The plan as a table that a person reads, and the sentences below it. No torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mto.config.cost import Plan
from mto.plan.estimate import COUNTED, Cost

Row = dict[str, Any]
TITLES = {"stage": "Stage", "method": "Method", "backbone": "Backbone", "table": "Table or figure, alone", "all": "All"}


def markdown(
    rows: list[Row], cards: dict[str, list[Row]], costs: Iterable[Cost], plan: Plan, scale: str, foreign: Iterable[str]
) -> str:
    """A heading, a table for each way to cut the study, one of the cards, and what has to be known to read them.

    Args:
        cards: on each card, the rows of the stages and of the whole.
    """
    hours = "core-hours" if plan.card == "cpu" else "GPU-hours"
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
    lines += [f"- {note}" for note in notes(whole, list(costs), plan, sorted(foreign))]
    return "\n".join(lines) + "\n"


def _compare(cards: dict[str, list[Row]], plan: Plan) -> list[str]:
    """What is left to do, on each card: the hours of each stage and of the whole, days and money."""
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


def notes(whole: Row, costs: list[Cost], plan: Plan, foreign: list[str]) -> list[str]:
    card = plan.cards[plan.card]
    price = f"{card.price_per_gpu_hour:g} {plan.currency}"
    said = [
        "Stages, methods and backbones divide the jobs among them. Tables and figures share them: each is given as if "
        "it were made alone, so that their sum exceeds the whole; `saved without` is what nothing else needs.",
        f"Days: on {plan.gpus} {'cores' if plan.card == 'cpu' else 'GPUs'} at once, and never less than the longest "
        f"chain of jobs, which wait for each other: {whole['longest_chain_days_left']:.1f} days.",
        f"Of the {_number(whole['gpu_hours'])} hours, evaluation takes {_number(whole['evaluation_gpu_hours'])} and "
        f"MTO's losses {_number(whole['mto_gpu_hours'])}.",
        "Disk: encoders, training states and logs, without the datasets and a cache of their images; "
        f"{_number(whole['peak_disk_gb'])} GB while jobs run.",
        f"Money: {price} for an hour of one {plan.card} (plan.cards in config.yaml); storage, traffic and failed "
        "attempts come on top.",
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


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _number(value: float) -> str:
    """Three figures, with commas from a thousand on."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
