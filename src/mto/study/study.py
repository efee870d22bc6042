"""The experiment plan: which runs exist, at which epochs they are measured, and which job fills which cell.

Runs, steps and cells are declared in `mto.names`, tables and figures in `mto.config.study_plan`. The Snakefile asks
this module and nothing else; it needs neither torch nor the data.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property
from typing import Any, cast

from mto.config.classes import described
from mto.config.job import DataJob, Job, Mto, PretrainJob, in_order, parse, read
from mto.config.models import Config, Preset, Resources
from mto.config.study_plan import REPORTS
from mto.errors import UserError
from mto.names import BASELINES, STAGES, Cell, Run, Step
from mto.study.jobs import Jobs, cache_of, classes_of, convert_of

#: The audit of the paper's claims is a table that measures nothing.
AUDIT = "audit"
#: The table whose rows are presets, so that its runs with MTO have no preset in common.
PRESETS = "table_presets"
#: Tables beyond the paper, made where they are asked for.
OURS = tuple(name for name, report in REPORTS.items() if report.ours)
TABLES = (*(name for name in REPORTS if name.startswith("table") and not REPORTS[name].ours), AUDIT)
FIGURES = tuple(name for name in REPORTS if name.startswith("fig"))


class Study:
    """Spells out the plan of a config.

    Args:
        config: the validated config.yaml.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self._known: dict[str, list[Cell]] = {}
        self._jobs = Jobs(config, self.preset, self.starts_at)
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
        """Returns the switches of a run with MTO.

        Raises:
            UserError: there is no such preset, or it is the default one, which no name gives: a run has one name.
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
        """Refuses a depth for a method without a decoder, or the recipe's own, which would train one network twice."""
        if run.decoder_depth is None:
            return
        own = self.decoder_depth(run)
        plain = replace(run, decoder_depth=None).name
        if own is None:
            raise UserError(f"config.yaml: study asks for {run.name}, but {run.baseline} has no decoder; take {plain}")
        if own == run.decoder_depth:
            raise UserError(
                f"config.yaml: study asks for {run.name}, but {own} is {run.baseline}'s own depth: that is {plain}"
            )

    def with_mto(self, plain: Run, preset: str) -> Run:
        """Returns the run with MTO's three terms and that preset; its name leaves out the default preset."""
        return replace(plain.with_mto, preset=None if preset == self.config.mto.default else preset)

    def starts_at(self, run: Run) -> int:
        """Returns the epoch at which MTO is switched on in a run; 0: from the first on, or the run has no MTO."""
        if not run.terms:
            return 0
        own = self.preset(run).starts_at
        return self.config.mto.starts_at if own is None else own

    def shared(self, step: Step) -> Step:
        """Returns the step that has a step's files: until MTO is switched on, that of the run without it."""
        run = Run.parse(step.run)
        if not step.epoch or step.epoch > self.starts_at(run):
            return step
        return step._replace(run=run.without_mto.name)

    def require_own(self, step: Step) -> None:
        """Refuses a step whose files are another run's.

        Raises:
            UserError: MTO is not switched on yet at its epoch.
        """
        if (own := self.shared(step)) != step:
            raise UserError(
                f"{step.run} has MTO after epoch {self.starts_at(Run.parse(step.run))} (mto.starts_at in config.yaml) "
                f"and is {own.run} until then; ask for {self.folder(own)}"
            )

    # -------------------------------------------------------------------------------------------- cells and steps
    @property
    def tables(self) -> tuple[str, ...]:
        """The tables that are made at this scale."""
        return tuple(name for name in (*TABLES, *OURS) if name == AUDIT or getattr(self.config.study, name))

    @property
    def figures(self) -> tuple[str, ...]:
        """The figures that are made at this scale."""
        return tuple(name for name in FIGURES if getattr(self.config.study, name))

    def cells(self, report: str) -> list[Cell]:
        """Returns the values that a table or figure shows, in its order; none if it is not made at this scale."""
        if report not in self._known:
            plan = getattr(self.config.study, report)
            self._known[report] = [] if plan is None else list(plan.cells(self))
        return self._known[report]

    def scratch(self, report: str) -> list[Cell]:
        """Returns the cells of a table or figure measured from scratch (epoch 0), where the study asks for them."""
        if not self.config.study.from_scratch:
            return []
        measured = [cell for cell in self.cells(report) if STAGES[cell.task].from_scratch]
        return list(dict.fromkeys(cell._replace(run=Run.parse(cell.run).plain.name, epoch=0) for cell in measured))

    @property
    def datasets(self) -> list[str]:
        """The datasets that the measuring jobs read."""
        read = {STAGES[step.task].dataset for step in self.steps()}
        return [name for name in dict.fromkeys(stage.dataset for stage in STAGES.values()) if name in read]

    def epochs(self, task: str) -> list[int]:
        """Returns the epochs at which a task may be asked for; 0 is from scratch."""
        scratch = self.config.study.from_scratch and STAGES[task].from_scratch
        return [*([0] if scratch else []), *self.config.study.measured_epochs]

    def runs(self) -> set[Run]:
        """Returns every run that a table or figure needs."""
        return {Run.parse(cell.run) for report in REPORTS for cell in self.cells(report)}

    def warm(self, runs: Iterable[Run]) -> dict[str, int]:
        """Returns those of the runs in which MTO is switched on after the first epoch, by name, with that epoch."""
        return {run.name: epoch for run in sorted(runs, key=lambda run: run.name) if (epoch := self.starts_at(run))}

    def steps(self, report: str | None = None) -> list[Step]:
        """Returns the measuring steps of one table or figure (None: of all), over all seeds, without pre-training."""
        reports = REPORTS if report is None else () if report == AUDIT else (report,)
        cells = [cell for name in reports for cell in (*self.cells(name), *self.scratch(name))]
        asked = {Step(c.task, c.run, seed, c.epoch) for c in cells for seed in self.config.seeds}
        return sorted({self.shared(step) for step in asked})

    def segments(self) -> list[Step]:
        """Returns every pre-training segment: a run's chain has one for each epoch at which the run is measured.

        The chain of a run without MTO has one, too, where a run with MTO leaves it.
        """
        measured = {step._replace(task="pretrain") for step in self.steps() if step.epoch}
        return sorted(measured.union(*map(self.chain, measured)))

    def chain(self, step: Step) -> list[Step]:
        """Returns the segments that lead to a segment, the newest first."""
        found: list[Step] = []
        before = self.previous(step)
        while before is not None:
            found.append(before)
            before = self.previous(before)
        return found

    def select(self, target: str) -> list[Step]:
        """Selects the steps behind a target: a stage's name, or a baseline's."""
        every = [*self.segments(), *self.steps()]
        if target in BASELINES:
            return [step for step in every if Run.parse(step.run).baseline == target]
        return [step for step in every if target in (step.task, STAGES[step.task].target)]

    def previous(self, step: Step) -> Step | None:
        """Returns the segment that a segment continues: of its run or, when MTO starts, of the run without MTO.

        For a run that is in no table or figure, a segment ends at each of `measured_epochs`.
        """
        run = Run.parse(step.run)
        starts_at = self.starts_at(run)
        measured = self._epochs.get(step.run, self.config.study.measured_epochs)
        epoch = max((earlier for earlier in measured if starts_at <= earlier < step.epoch), default=starts_at)
        return self.shared(step._replace(task="pretrain", epoch=epoch)) if epoch else None

    @cached_property
    def _epochs(self) -> dict[str, set[int]]:
        """The epochs at which the chain of each run has a link."""
        epochs: dict[str, set[int]] = defaultdict(set)
        for report in REPORTS:
            for cell in self.cells(report):
                step = self.shared(Step("pretrain", cell.run, self.config.seeds[0], cell.epoch))
                epochs[step.run].add(step.epoch)
                if starts_at := self.starts_at(Run.parse(cell.run)):
                    epochs[Run.parse(cell.run).without_mto.name].add(starts_at)
        return epochs

    def is_continued_twice(self, step: Step) -> bool:
        """Returns whether two segments continue the state of a segment, so that neither may prune it."""
        return self._heirs[step] > 1

    @cached_property
    def _heirs(self) -> Counter[Step | None]:
        """How many segments of the study continue each."""
        return Counter(map(self.previous, self.segments()))

    def folder(self, step: Step) -> str:
        """Returns the folder of a step's files: identity only, never a hyper-parameter."""
        return f"{self.results}/{step.folder}"

    def decoder_depth(self, run: Run) -> int | None:
        """Returns the depth of the run's decoder by its recipe; None for a method without one."""
        return getattr(self._jobs.recipe(run).method, "decoder_depth", None)

    def resources(self, stage: str) -> Resources:
        """Returns the hardware of a stage."""
        return getattr(self.config.resources, stage)

    # -------------------------------------------------------------------------------------------------------- jobs
    def job(self, step: Step) -> Job:
        """Returns all that a task sees, resolved. Snakemake reruns a step when its `plain` form changes.

        Raises:
            UserError: there is no such run, or its baseline, preset or epoch is not in the config.
        """
        if step.epoch not in self.epochs(step.task):
            raise UserError(
                f"config.yaml: study.measured_epochs has no epoch {step.epoch} (asked for by {self.folder(step)})"
            )
        self.require_own(step)
        return self._job(step)

    def _job(self, step: Step) -> Job:
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
        return read(job)

    # ------------------------------------------------------------------------------------------------------- the pilot
    def pilot_runs(self) -> list[Run]:
        """Returns the runs of `snakemake pilot`."""
        plan = self.config.pilot
        plain = [Run.parse(baseline) for baseline in plan.baselines]
        return [run for base in plain for run in (base, *(self.with_mto(base, name) for name in plan.presets))]

    def pilot_folders(self) -> list[str]:
        """Returns the folders of the pilot's runs: beside the study's steps, whose chains they never join."""
        seed, epoch = self.config.seeds[0], self.config.pilot.epochs
        return [self.folder(Step("pilot", run.name, seed, epoch)) for run in self.pilot_runs()]

    def pilot_job(self, run: str, seed: int, epoch: int) -> Job:
        """Returns the job of the study's own pre-training, stopped early: the schedule keeps its length.

        MTO acts from the first step in it, whatever `mto.starts_at` is: a pilot is to show what a preset does.

        Raises:
            UserError: there is no such run, or the epoch is not the pilot's.
        """
        if epoch != self.config.pilot.epochs:
            raise UserError(f"config.yaml: pilot.epochs is {self.config.pilot.epochs}, not {epoch}")
        job = cast(PretrainJob, self._job(Step("pretrain", run, seed, epoch)))
        acting = {name: value for name, value in job.mto.written().items() if name != "starts_at"}
        return job.changed(mto=parse(Mto, acting))

    def pilot_report_job(self) -> dict[str, Any]:
        """Returns what the pilot's table is made from, with the warm-up epochs of each run's learning rate."""
        warmups = {run.name: self._jobs.recipe(run).pretrain.schedule.warmup_epochs for run in self.pilot_runs()}
        return {
            "scale": self.config.scale,
            "seed": self.config.seeds[0],
            "epochs": self.config.pilot.epochs,
            "pretrain_epochs": self.config.study.pretrain_epochs,
            "default": self.config.mto.default,
            "runs": warmups,
        }

    def data_job(self, dataset: str) -> DataJob:
        """Returns the job that makes a demo dataset, or checks one that must be there."""
        source = getattr(self.config.datasets, dataset)
        job = {
            "task": "data",
            "scale": self.config.scale,
            "dataset": dataset,
            "root": source.root,
            "num_classes": source.num_classes,
            **classes_of(source),
            **cache_of(source),
            **convert_of(source),
            "make": source.make and source.make.model_dump(exclude_none=True),
        }
        return parse(DataJob, job)

    def report_job(self, report: str) -> dict[str, Any]:
        """Returns what a table or figure is drawn from: its cells, and `pretrain_epochs` against the paper's 800.

        ``mto`` is the preset of its runs with MTO whose name gives none, since their numbers are that preset's.
        """
        plan = {} if report == AUDIT else self._plan(report)
        cells, scratch = ([], []) if report == AUDIT else (self.cells(report), self.scratch(report))
        if report == PRESETS:
            plan["default"] = self.config.mto.default
        return in_order(
            {
                "name": report,
                "scale": self.config.scale,
                "size": self._size_of_scale(),
                "recipe": self.config.recipe,
                "mto": self.config.mto.default if report != PRESETS and _of_the_default(cells) else None,
                "seeds": self.config.seeds if cells else [],  # a drawing is not redrawn for another seed
                "pretrain_epochs": self.config.study.pretrain_epochs,
                "plan": plan,
                "cells": [cell._asdict() for cell in cells],
                "scratch": [cell._asdict() for cell in scratch],
                **self._warm_of(cells),
            }
        )

    def _warm_of(self, cells: Iterable[Cell]) -> dict[str, Any]:
        """Returns what a report has to know of warm starts, where a run of its cells has one."""
        warm = self.warm({Run.parse(cell.run) for cell in cells})
        return {"starts_at": warm} if warm else {}

    def _plan(self, report: str) -> dict[str, Any]:
        plan = getattr(self.config.study, report)
        if plan is None:
            raise UserError(
                f"config.yaml: study.{report} is null at scale {self.config.scale}: there is no such report"
            )
        return plan.model_dump()

    def _size_of_scale(self) -> dict[str, Any]:
        """Returns what captions say of the scale: images, each backbone's width and depth, the labels if not all."""
        used = sorted({run.backbone for run in self.runs()})
        sizes = {name: self.config.backbones[name] for name in used}  # type: ignore[index]
        networks = {name: [size.embed_dim, size.depth] for name, size in sizes.items()}
        source = self.config.datasets.imagenet
        which = "" if source.classes is None else f" ({described(source.classes)})"
        recipes = [self.config.of(run.baseline, run.backbone) for run in self.runs()]
        used_labels = {stage: sorted({getattr(r, stage).labels for r in recipes}) for stage in ("finetune", "linear")}
        few = {stage: shares for stage, shares in used_labels.items() if min(shares, default=1.0) < 1}
        labels: dict[str, Any] = {"labels": few} if few else {}
        return {"images": f"{source.title}{which}", "networks": networks, **labels}


def _of_the_default(cells: Iterable[Cell]) -> bool:
    """Returns whether a cell is of a run that has MTO's default preset."""
    runs = [Run.parse(cell.run) for cell in cells]
    return any(run.terms and run.preset is None for run in runs)
