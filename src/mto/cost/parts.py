"""The study cut in several ways, and what each part costs: alone, and as what the study would save without it.

Stages, methods and backbones divide the jobs among them. Tables and figures share them: a table alone costs its own
measurements and their runs' pre-training up to its last epoch; left out, it saves only what nothing else needs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from mto.config.study_plan import REPORTS
from mto.cost.estimate import COUNTED, FINISHED, LIKE, PREFLIGHT, SCALED, Cost
from mto.names import BASELINES, STAGES, Run, Step
from mto.study.study import Study

Costs = Mapping[Step, Cost]


class Part(NamedTuple):
    """Holds what a part of the study costs.

    Attributes:
        jobs: what it costs alone.
        rest: what the study would still run without it.
    """

    kind: str
    name: str
    jobs: frozenset[Step]
    rest: frozenset[Step]


def parts(study: Study) -> list[Part]:
    """Returns every stage, method, backbone, table and figure that has a job; and the whole."""
    every = frozenset(study.segments()) | frozenset(study.steps())
    found = []
    name_of: Any
    for kind, name_of in (("stage", _stage), ("method", _method), ("backbone", _backbone)):
        for name in dict.fromkeys(map(name_of, sorted(every, key=_order))):
            own = frozenset(step for step in every if name_of(step) == name)
            # Without pre-training what is from scratch is left; without anything else, what fed it alone goes too.
            others = [
                step for step in study.steps() if name_of(step) != name and not (name == "pretrain" and step.epoch)
            ]
            found.append(Part(kind, name, own, needed(study, others)))
    reports = {name: frozenset(study.steps(name)) for name in REPORTS}
    for name, steps in reports.items():
        rest = frozenset().union(*(other for report, other in reports.items() if report != name))
        found.append(Part("table", name, needed(study, steps), needed(study, rest)))
    found.append(Part("all", "the study", every, frozenset()))
    return [part for part in found if part.jobs]


def _stage(step: Step) -> str:
    return step.task


def _method(step: Step) -> str:
    return Run.parse(step.run).baseline


def _backbone(step: Step) -> str:
    return Run.parse(step.run).backbone


def _order(step: Step) -> tuple[int, int, str]:
    return list(STAGES).index(step.task), list(BASELINES).index(_method(step)), _backbone(step)


def needed(study: Study, steps: Iterable[Step]) -> frozenset[Step]:
    """Returns measuring steps, and the segments that lead to them."""
    steps = frozenset(steps)
    ends = {step._replace(task="pretrain") for step in steps if step.epoch}
    return steps | ends.union(*map(study.chain, ends))


def row(part: Part, costs: Costs, gpus: int, price: float) -> dict[str, Any]:
    """Returns one row of the plan.

    Args:
        gpus: how many work at once; where a job that is left to do asks for more, `days_left` is infinite.
        price: of a GPU-hour.
    """
    own = [costs[step] for step in part.jobs]
    left = [cost for cost in own if cost.left]
    hours, hours_left = total(own, "gpu_hours"), total(left, "gpu_hours")
    saved = total((cost for step, cost in costs.items() if step not in part.rest), "gpu_hours")
    return {
        "kind": part.kind,
        "part": part.name,
        "jobs": len(own),
        "jobs_left": len(left),
        "gpu_hours": hours,
        "gpu_hours_left": hours_left,
        "gpu_hours_saved_without": saved,
        "evaluation_gpu_hours": total(own, "evaluation_hours"),
        "mto_gpu_hours": total(own, "mto_hours"),
        "days_left": max(longest(left), in_turn(left, gpus)) / 24,
        "longest_chain_days_left": longest(left) / 24,
        "disk_gb": total(own, "disk_bytes") / 1e9,
        "peak_disk_gb": (total(own, "disk_bytes") + running(left, gpus)) / 1e9,
        "read_tb": total(own, "read_bytes") / 1e12,
        "cost": hours * price,
        "cost_left": hours_left * price,
        "cost_saved_without": saved * price,
        "basis": basis(own),
    }


def total(costs: Iterable[Cost], name: str) -> float:
    return sum(getattr(cost, name) for cost in costs)


def longest(costs: Iterable[Cost]) -> float:
    """Returns the hours of the longest chain: a run's segments follow each other, each measurement its segment."""
    chains: dict[tuple[str, int], list[Cost]] = {}
    for cost in costs:
        chains.setdefault((cost.step.run, cost.step.seed), []).append(cost)
    ends = [0.0]
    for chain in chains.values():
        for cost in chain:
            before = (c.wall_hours for c in chain if c.step.task == "pretrain" and c.step.epoch <= cost.step.epoch)
            ends.append(sum(before) + (cost.wall_hours if cost.step.task != "pretrain" else 0.0))
    return max(ends)


def in_turn(costs: Iterable[Cost], gpus: int) -> float:
    """Returns the hours by the clock in which so many GPUs get through the jobs, each on as many as it asks for.

    GPUs that are too few for one more job stand idle; infinite where they are too few for a single one.
    """
    return sum(cost.wall_hours / (gpus // cost.gpus) if cost.gpus <= gpus else math.inf for cost in costs)


def running(costs: Iterable[Cost], gpus: int) -> float:
    """Returns the bytes of the checkpoints of as many of these jobs as run at once, the largest first."""
    largest = sorted(costs, key=lambda cost: cost.running_bytes, reverse=True)
    used, held = 0, 0.0
    for cost in largest:
        if used and used + cost.gpus > gpus:
            break
        used, held = used + cost.gpus, held + cost.running_bytes
    return held


def basis(costs: Iterable[Cost]) -> str:
    """Returns what the costs rest on: `counted`, or `12 finished, 3 finished alike, 45 preflight`."""
    given = [cost.basis for cost in costs]
    counts = {name: given.count(name) for name in (FINISHED, LIKE, PREFLIGHT, SCALED, COUNTED) if name in given}
    return next(iter(counts)) if len(counts) == 1 else ", ".join(f"{number} {name}" for name, number in counts.items())
