"""The experiment plan: which runs exist, at which epochs they are measured, and which job fills which cell.

A *run* is an identity (baseline, backbone, MTO's terms and preset, decoder depth). A *step* is one cached GPU job: a
task on a run, with a seed, at a number of completed pre-training epochs. A *cell* is one measured value of a table or a
figure. The Snakefile asks this module and nothing else; it needs neither torch nor the data.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

from mto.config.models import Config, Preset, Resources
from mto.config.study_plan import Transfer
from mto.errors import UserError
from mto.names import BASELINES, TERMS, Run
from mto.study.jobs import Jobs, cache_of, classes_of

REPORTS = (
    "table1_rauc",
    "table2_linear",
    "table3_objectives",
    "tableS1_ade20k",
    "tableS2_coco",
    "table_presets",
    "fig1_heterogeneity",
    "fig2_affinity",
    "fig3_method",
    "fig4_epochs",
    "figS1_architectures",
    "figS2_decoder_depth",
)
#: A table beyond the paper, made where it is asked for.
PRESETS = "table_presets"
#: The audit of the paper's claims is a table that measures nothing.
AUDIT = "audit"
TABLES = (*(name for name in REPORTS if name.startswith("table") and name != PRESETS), AUDIT)
FIGURES = tuple(name for name in REPORTS if name.startswith("fig"))
STAGES = ("pretrain", "finetune", "linear", "ade20k", "coco", "heterogeneity")
DATASET = {stage: stage if stage in ("ade20k", "coco") else "imagenet" for stage in STAGES}


class Step(NamedTuple):
    """One GPU job, and with it the folder of its files."""

    task: str
    run: str
    seed: int
    epoch: int


@dataclass(frozen=True)
class Cell:
    """One measured value of a table or figure: `metric` of `task` on `run` after `epoch` epochs, over all seeds."""

    task: str
    run: str
    epoch: int
    metric: str


class Study:
    """The plan that a config spells out.

    Args:
        config: the validated config.yaml.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self._known: dict[str, list[Cell]] = {}
        self._jobs = Jobs(config, self.preset)
        self.results = f"results/{config.scale}"
        for run in self.runs() | set(self.pilot_runs()):
            backbones = getattr(config.baselines, run.baseline).backbones
            if run.backbone not in backbones:
                known = ", ".join(backbones)
                raise UserError(
                    f"config.yaml: study asks for {run.name}, but baselines.{run.baseline}.backbones has: {known}"
                )
            self.preset(run)
            self._refuse_depth(run)

    def preset(self, run: Run) -> Preset:
        """The switches of a run with MTO.

        Raises:
            UserError: there is no such preset, or it is the default's, which a name does not say: a run has one name.
        """
        mto = self.config.mto
        if run.preset is not None and run.preset not in mto.presets:
            raise UserError(f"config.yaml: {run.name}: no such preset (mto.presets has: {', '.join(mto.presets)})")
        if run.preset == mto.default:
            name = replace(run, preset=None).name
            raise UserError(
                f"config.yaml: {run.name}: '{run.preset}' is mto.default, so that this run is called {name}"
            )
        return mto.presets[run.preset or mto.default]

    def _refuse_depth(self, run: Run) -> None:
        """A depth of a decoder that is not there, or the recipe's own, which would train one network twice."""
        if run.decoder_depth is None:
            return
        own = getattr(self._jobs.recipe(run).method, "decoder_depth", None)
        plain = replace(run, decoder_depth=None).name
        if own is None:
            raise UserError(f"config.yaml: study asks for {run.name}, but {run.baseline} has no decoder; take {plain}")
        if own == run.decoder_depth:
            raise UserError(
                f"config.yaml: study asks for {run.name}, but {own} is {run.baseline}'s own depth: that is {plain}"
            )

    def with_mto(self, plain: Run, preset: str) -> Run:
        """The run with MTO's three terms and that preset; the default's goes without saying."""
        return replace(plain, terms=TERMS, preset=None if preset == self.config.mto.default else preset)

    # -------------------------------------------------------------------------------------------- cells and steps
    @property
    def tables(self) -> tuple[str, ...]:
        """The tables that are made at this scale."""
        return tuple(name for name in (*TABLES, PRESETS) if name == AUDIT or getattr(self.config.study, name))

    @property
    def figures(self) -> tuple[str, ...]:
        """The figures that are made at this scale."""
        return tuple(name for name in FIGURES if getattr(self.config.study, name))

    def cells(self, report: str) -> list[Cell]:
        """The values that a table or figure shows, in its order; none if it is not made at this scale."""
        if report not in self._known:
            plan = getattr(self.config.study, report)
            self._known[report] = [] if plan is None else list(self._cells(report, plan))
        return self._known[report]

    def scratch(self, report: str) -> list[Cell]:
        """What stands beside them where the study asks for it: the same measured from scratch, which is epoch 0."""
        if not self.config.study.from_scratch:
            return []
        measured = [cell for cell in self.cells(report) if cell.task != "heterogeneity"]
        return list(dict.fromkeys(replace(cell, run=Run.parse(cell.run).plain.name, epoch=0) for cell in measured))

    @property
    def datasets(self) -> list[str]:
        """The datasets that the measuring jobs read."""
        read = {DATASET[step.task] for step in self.steps()}
        return [name for name in dict.fromkeys(DATASET.values()) if name in read]

    def epochs(self, task: str) -> list[int]:
        """The epochs at which a task may be asked for; 0 is from scratch."""
        scratch = self.config.study.from_scratch and task not in ("pretrain", "heterogeneity")
        return [*([0] if scratch else []), *self.config.study.measured_epochs]

    def _cells(self, report: str, plan: Any) -> Iterator[Cell]:
        if report == "table1_rauc":
            named = dict.fromkeys([*plan.baselines, *plan.saved])
            yield from _curve(named, plan.epochs, "finetune")
        elif report in ("fig4_epochs", "figS1_architectures"):
            yield from _curve(plan.baselines, plan.epochs, "finetune")
        elif report == "table2_linear":
            yield from _curve(plan.baselines, plan.epochs, "linear")
            if plan.baseline_epoch is not None and plan.baseline_epoch not in plan.epochs:
                for baseline in plan.baselines:
                    yield Cell("linear", Run.parse(baseline).name, plan.baseline_epoch, "top1")
        elif report == "table3_objectives":
            base = Run.parse(plan.baseline)
            for subset in plan.subsets:
                terms = tuple(term for term in TERMS if term in subset)
                yield Cell("finetune", Run(base.baseline, base.backbone, terms).name, plan.epoch, "top1")
        elif report == "tableS1_ade20k":
            yield from _transfer(plan, "ade20k", ["mIoU"])
        elif report == "tableS2_coco":
            yield from _transfer(plan, "coco", ["box_ap", "mask_ap"])
        elif report in ("fig1_heterogeneity", "fig2_affinity"):
            for run, epochs in plan.models.items():
                for epoch in epochs:
                    yield Cell("heterogeneity", Run.parse(run).name, epoch, "H")
        elif report == PRESETS:
            for baseline in plan.baselines:
                plain = Run.parse(baseline)
                for run in (plain, *(self.with_mto(plain, preset) for preset in plan.presets)):
                    for epoch in plan.epochs:
                        yield Cell("finetune", run.name, epoch, "top1")
                        yield Cell("linear", run.name, epoch, "top1")
        elif report == "figS2_decoder_depth":
            base = Run.parse(plan.baseline)
            default = getattr(self._jobs.recipe(base).method, "decoder_depth", None)
            if default is None:
                raise UserError(
                    f"config.yaml: study.figS2_decoder_depth.baseline: {plan.baseline} has no decoder (use mae-vitb)"
                )
            for depth in plan.depths:
                run = Run(base.baseline, base.backbone, TERMS, None if depth == default else depth)
                yield Cell("finetune", run.name, plan.epoch, "top1")
                yield Cell("linear", run.name, plan.epoch, "top1")

    def runs(self) -> set[Run]:
        """Every run that a table or figure needs."""
        return {Run.parse(cell.run) for report in REPORTS for cell in self.cells(report)}

    def steps(self, report: str | None = None) -> list[Step]:
        """The measuring steps of one table or figure (of all of them: None), over all seeds; no pre-training."""
        reports = REPORTS if report is None else () if report == AUDIT else (report,)
        cells = [cell for name in reports for cell in (*self.cells(name), *self.scratch(name))]
        return sorted({Step(c.task, c.run, seed, c.epoch) for c in cells for seed in self.config.seeds})

    def segments(self) -> list[Step]:
        """Every pre-training segment: a run's chain has a link where something measures that run, and no other."""
        return sorted({step._replace(task="pretrain") for step in self.steps() if step.epoch})

    def select(self, target: str) -> list[Step]:
        """The steps behind a target: a stage's name, or a baseline's."""
        every = [*self.segments(), *self.steps()]
        if target == "analysis":
            return [step for step in every if step.task == "heterogeneity"]
        if target in BASELINES:
            return [step for step in every if Run.parse(step.run).baseline == target]
        return [step for step in every if step.task == target]

    def previous(self, run: str, epoch: int) -> int | None:
        """The epoch before this one at which the run is measured: where the segment that ends here continues.

        Of a run that no table or figure has, asked for by its name, any of `measured_epochs`.
        """
        measured = self._epochs.get(run, self.config.study.measured_epochs)
        return max((earlier for earlier in measured if earlier < epoch), default=None)

    @cached_property
    def _epochs(self) -> dict[str, set[int]]:
        """The epochs at which each run is measured."""
        epochs: dict[str, set[int]] = defaultdict(set)
        for report in REPORTS:
            for cell in self.cells(report):
                epochs[cell.run].add(cell.epoch)
        return epochs

    def folder(self, step: Step) -> str:
        """Where a step's files are: identity only, never a hyper-parameter."""
        return f"{self.results}/{step.task}/{step.run}/seed{step.seed}/epoch{step.epoch:04d}"

    def resources(self, stage: str) -> Resources:
        """The hardware of a stage."""
        return getattr(self.config.resources, stage)

    # -------------------------------------------------------------------------------------------------------- jobs
    def job(self, step: Step) -> dict[str, Any]:
        """All that a task sees: resolved, plain, sorted. Snakemake reruns a step when this changes.

        Raises:
            UserError: if the run is none, or its baseline, preset or epoch is not in the config.
        """
        if step.epoch not in self.epochs(step.task):
            raise UserError(
                f"config.yaml: study.measured_epochs has no epoch {step.epoch} (asked for by {self.folder(step)})"
            )
        return self._job(step)

    def _job(self, step: Step) -> dict[str, Any]:
        run = Run.parse(step.run)
        self.preset(run)
        job = {
            "task": step.task,
            "scale": self.config.scale,
            "recipe": self.config.recipe,
            "run": run.name,
            "baseline": run.baseline,
            "backbone": run.backbone,
            "seed": step.seed,
            "epoch": step.epoch,
            "precision": self.config.precision,
            "code_version": self.config.code_version,
            **self._jobs.of(step.task, run),
        }
        if step.epoch == 0:
            job["method"] = self._jobs.method(run)  # whose first weights the encoder has
        return _sorted(job)

    # ------------------------------------------------------------------------------------------------------- the pilot
    def pilot_runs(self) -> list[Run]:
        """Returns the runs of `snakemake pilot`."""
        plan = self.config.pilot
        plain = [Run.parse(baseline) for baseline in plan.baselines]
        return [run for base in plain for run in (base, *(self.with_mto(base, name) for name in plan.presets))]

    def pilot_folders(self) -> list[str]:
        """Where the pilot's runs are: beside the study's steps, whose chains they never join."""
        seed, epoch = self.config.seeds[0], self.config.pilot.epochs
        return [self.folder(Step("pilot", run.name, seed, epoch)) for run in self.pilot_runs()]

    def pilot_job(self, run: str, seed: int, epoch: int) -> dict[str, Any]:
        """The job of the study's own pre-training, stopped early: the schedule keeps its length.

        Raises:
            UserError: the run is none, or the epoch is not the pilot's.
        """
        if epoch != self.config.pilot.epochs:
            raise UserError(f"config.yaml: pilot.epochs is {self.config.pilot.epochs}, not {epoch}")
        return self._job(Step("pretrain", run, seed, epoch))

    def pilot_report_job(self) -> dict[str, Any]:
        """What the pilot's table is made from; of each run the epochs of the rate's warm-up."""
        warmups = {run.name: self._jobs.recipe(run).pretrain.schedule.warmup_epochs for run in self.pilot_runs()}
        return {
            "scale": self.config.scale,
            "seed": self.config.seeds[0],
            "epochs": self.config.pilot.epochs,
            "pretrain_epochs": self.config.study.pretrain_epochs,
            "default": self.config.mto.default,
            "runs": warmups,
        }

    def data_job(self, dataset: str) -> dict[str, Any]:
        """The job that makes a demo dataset, or checks one that must be there."""
        source = getattr(self.config.datasets, dataset)
        return {
            "task": "data",
            "scale": self.config.scale,
            "dataset": dataset,
            "root": source.root,
            "num_classes": source.num_classes,
            **classes_of(source),
            **cache_of(source),
            "make": source.make and source.make.model_dump(exclude_none=True),
        }

    def report_job(self, report: str) -> dict[str, Any]:
        """What a table or figure is drawn from: its cells, and the scale of its epochs against the paper's 800.

        ``mto`` is the preset of its runs with MTO that name none, since their numbers are that preset's.
        """
        plan = {} if report == AUDIT else self._plan(report)
        cells, scratch = ([], []) if report == AUDIT else (self.cells(report), self.scratch(report))
        if report == PRESETS:
            plan["default"] = self.config.mto.default
        return _sorted(
            {
                "name": report,
                "scale": self.config.scale,
                "size": self._size_of_scale(),
                "recipe": self.config.recipe,
                "mto": self.config.mto.default if report != PRESETS and _of_the_default(cells) else None,
                "seeds": self.config.seeds if cells else [],  # a drawing is not redrawn for another seed
                "pretrain_epochs": self.config.study.pretrain_epochs,
                "plan": plan,
                "cells": [asdict(cell) for cell in cells],
                "scratch": [asdict(cell) for cell in scratch],
            }
        )

    def _plan(self, report: str) -> dict[str, Any]:
        plan = getattr(self.config.study, report)
        if plan is None:
            raise UserError(
                f"config.yaml: study.{report} is null at scale {self.config.scale}: there is no such report"
            )
        return plan.model_dump()

    def _size_of_scale(self) -> dict[str, Any]:
        """What the images are at this scale, and width and depth of each backbone, for the captions."""
        used = sorted({run.backbone for run in self.runs()})
        sizes = {name: self.config.backbones[name] for name in used}  # type: ignore[index]
        networks = {name: [size.embed_dim, size.depth] for name, size in sizes.items()}
        return {"images": self.config.datasets.imagenet.title, "networks": networks}


def _of_the_default(cells: Iterable[Cell]) -> bool:
    """Whether a cell is of a run that has MTO's default preset."""
    runs = [Run.parse(cell.run) for cell in cells]
    return any(run.terms and run.preset is None for run in runs)


def _curve(baselines: Iterable[str], epochs: list[int], task: str) -> Iterator[Cell]:
    for baseline in baselines:
        plain = Run.parse(baseline)
        for run in (plain, Run(plain.baseline, plain.backbone, TERMS)):
            for epoch in epochs:
                yield Cell(task, run.name, epoch, "top1")


def _transfer(plan: Transfer, task: str, metrics: list[str]) -> Iterator[Cell]:
    for baseline in plan.baselines:
        plain = Run.parse(baseline)
        with_mto = Run(plain.baseline, plain.backbone, TERMS)
        rows = [(plain, e) for e in plan.baseline_epochs] + [(with_mto, e) for e in plan.mto_epochs]
        for run, epoch in rows:
            for metric in metrics:
                yield Cell(task, run.name, epoch, metric)


def _sorted(node: Any) -> Any:
    """Mappings sorted by key, tuples as lists: what JSON gives back, so that a job equals itself read from a file."""
    if isinstance(node, dict):
        return {key: _sorted(node[key]) for key in sorted(node)}
    return [_sorted(item) for item in node] if isinstance(node, list | tuple) else node
