"""Settings that a user wrote and that nothing uses: no job, table or figure at this scale. A start names them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mto.config.layers import EACH, Part, Place, reaches
from mto.config.reading import Resolved
from mto.names import STAGES
from mto.study.study import Study


def unused(study: Study, resolved: Resolved) -> list[str]:
    """Returns a line for each setting without effect: file and line, key, and why.

    Args:
        study: the plan of the settings.
        resolved: the layers that they consist of.
    """
    idle = Idle(study)
    lines = list(_past_the_last_epoch(study, resolved))
    own = [part for part in resolved.stack.parts if not part.file.shipped]
    for number, part in enumerate(own):
        told: dict[Place, list[str | None]] = {}  # by the place in the file: each_baseline is one for several baselines
        for leaf in _leaves(part.node):
            place = part.at + leaf
            within, why = idle.why(place) or _overruled(place, part, own[number + 1 :]) or (place, None)
            told.setdefault(part.inside + within[len(part.at) :], []).append(why)
        for inside, reasons in told.items():
            if None not in reasons and (EACH not in inside or _is_idle_for_all(inside, own, idle)):
                line = part.file.line(inside)
                where = part.file.name if line is None else f"{part.file.name}:{line}"
                lines.append(
                    f"{where}: {'.'.join(map(str, inside))} has no effect at scale {resolved.scale}: {reasons[0]}"
                )
    return list(dict.fromkeys(lines))


def _past_the_last_epoch(study: Study, resolved: Resolved) -> Iterator[str]:
    """Yields a line if no table asks for the last epoch, so that the learning rate's schedule is cut short."""
    plan = study.config.study
    asked = [epoch for epochs in plan.asked().values() for epoch in epochs]
    if asked and max(asked) < plan.pretrain_epochs:
        yield resolved.told(
            ("study", "measured_epochs"),
            f": no table or figure asks for epoch {plan.pretrain_epochs}, so that no job goes past epoch {max(asked)} "
            f"of {plan.pretrain_epochs} and the rate never reaches its end; name it in the tables' epochs",
        )


def _overruled(place: Place, part: Part, later: list[Part]) -> tuple[Place, str] | None:
    """Returns a setting that the same file sets again below `scales`, and the key that has the last word; or None.

    What the command line sets again is meant to overrule the file, and is no such setting.
    """
    over = [other for other in later if other.file == part.file and other.reaches(place)]
    if not over:
        return None
    key = ".".join(map(str, over[-1].inside + place[len(over[-1].at) :]))
    return place, f"{key} has the last word"


def _is_idle_for_all(inside: Place, own: list[Part], idle: Idle) -> bool:
    """Returns whether what a file says of each baseline is used by none of them."""
    parts = [part for part in own if part.inside and part.inside == inside[: len(part.inside)]]
    return all(idle.why(part.at + inside[len(part.inside) :]) for part in parts)


class Idle:
    """Knows what a study has no use for.

    Args:
        study: the plan.
    """

    def __init__(self, study: Study) -> None:
        self.study, self.config = study, study.config
        runs = study.runs() | set(study.pilot_runs())
        self.baselines = {run.baseline for run in runs}
        self.networks = {(run.baseline, run.backbone) for run in runs}
        self.presets = {run.preset or self.config.mto.default for run in runs if run.terms}
        steps = [*study.segments(), *study.steps()]
        self.stages = {step.task for step in steps} | {"pretrain", "dataset"}
        self.measured = {(step.task, step.run.split("-")[0]) for step in steps}
        self.epochs = {epoch for epochs in self.config.study.asked().values() for epoch in epochs}

    def why(self, place: Place) -> tuple[Place, str] | None:
        """Returns the block around a setting that has no effect, and the reason; None of one that has some."""
        match place:
            case ("study", "measured_epochs"):
                odd = [epoch for epoch in self.config.study.measured_epochs if epoch not in self.epochs]
                odd = [epoch for epoch in odd if epoch != self.config.study.pretrain_epochs]  # of which more is said
                return (place, f"no table or figure asks for epoch {', '.join(map(str, odd))}") if odd else None
            case ("baselines", baseline, *_) if baseline not in self.baselines:
                return place[:2], "no table, figure or pilot has a run of it"
            case ("baselines", baseline, "backbones", backbone, *_) if (baseline, backbone) not in self.networks:
                return place[:4], "no table, figure or pilot has a run of it"
            case ("baselines", baseline, "backbones", _, *rest):
                return self._of_recipe(place[:4], baseline, rest)
            case ("baselines", baseline, *rest):
                return self._of_recipe(place[:2], baseline, rest) or self._own(baseline, place)
            case ("backbones", backbone, *_) if backbone not in {network for _, network in self.networks}:
                return place[:2], "no table, figure or pilot has a run of it"
            case ("mto", "presets", preset, *_) if preset not in self.presets:
                return place[:3], "no table, figure or pilot has a run with this preset"
            case ("mto", "guard" | "gradient_interval") if not self.presets:
                return place, "no run has MTO"
            case ("resources", stage, *_) if stage not in self.stages:
                return place[:2], "the study has no such job"
            case ("datasets", dataset, *_) if dataset not in self.study.datasets:
                return place[:2], "no job reads it"
            case ("analysis", *_) if "heterogeneity" not in self.stages:
                return place[:1], "neither Figure 1 nor Figure 2 is made"
            case ("evaluation" | "eval_interval", *_) if not self.stages & {"finetune", "linear", "knn"}:
                return place[:1], "nothing is fine-tuned or probed"
        return None

    def _of_recipe(self, above: Place, baseline: str, rest: list[Any]) -> tuple[Place, str] | None:
        recipe = getattr(self.config.baselines, baseline)
        match rest:
            case [stage, *_] if stage in STAGES and stage != "pretrain" and not self._uses(stage, baseline):
                return (*above, stage), f"no table has a {stage} of it"
            case [stage, "schedule", "milestones" | "gamma"] if stage in STAGES:
                kind = getattr(recipe, stage).schedule.kind
                return ((*above, *rest), f"the schedule's kind is {kind}") if kind != "multistep" else None
            case ["mask", "cell_size"] if recipe.mask.sampler != "cells":
                return (*above, *rest), f"the sampler is {recipe.mask.sampler}"
            case ["mask", "block_patches" | "min_block" | "max_block"] if not recipe.mask.sampler.startswith("block"):
                return (*above, *rest), f"the sampler is {recipe.mask.sampler}"
        return None

    def _uses(self, stage: str, baseline: str) -> bool:
        """Returns whether a baseline has jobs of the stage, or of one that takes its settings."""
        return any((name, baseline) in self.measured for name in STAGES if stage in (name, STAGES[name].like))

    def _own(self, baseline: str, place: Place) -> tuple[Place, str] | None:
        """Returns a baseline's setting and the reason if each backbone in use has a value of its own; else None."""
        blocks = getattr(self.config.baselines, baseline).backbones
        used = [backbone for name, backbone in self.networks if name == baseline]
        if all(reaches(blocks[backbone], place[2:]) for backbone in used):
            return place, f"its backbones' own values have the last word ({', '.join(sorted(used))})"
        return None


def _leaves(node: Any, place: Place = ()) -> Iterator[Place]:
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from _leaves(value, (*place, key))
    else:
        yield place
