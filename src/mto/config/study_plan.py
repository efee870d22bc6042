"""The block `study` of config.yaml: every table and figure, each declared once, with the cells that it shows.

A table or figure is a field of `StudyPlan`, annotated with its `About`. Its model yields its cells. What draws it is
found by its name, in `mto.report.tables` or `mto.report.figures`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, NamedTuple, Protocol

from pydantic import AfterValidator, Field, model_validator

from mto.config.fields import Baseline, Count, Epoch, Epochs, SomeBaselines, Term, Window, rising
from mto.config.model import Model
from mto.errors import UserError
from mto.names import TERMS, Cell, Run


class About(NamedTuple):
    """What a table or figure reproduces.

    Attributes:
        number: its place in the paper, or a name where it is ours.
        shows: what is in it.
        equations: those behind it.
        ours: whether it goes beyond the paper.
    """

    number: str
    shows: str
    equations: tuple[int, ...] = ()
    ours: bool = False


class Names(Protocol):
    """What cells depend on besides their own settings; the study knows it."""

    def with_mto(self, plain: Run, preset: str) -> Run: ...

    def decoder_depth(self, run: Run) -> int | None: ...


class Shown(Model):
    """The settings of a table or figure."""

    def cells(self, names: Names) -> Iterator[Cell]:
        """Yields the values that it shows, in its order."""
        raise NotImplementedError


class Curve(Shown):
    """Fine-tuning accuracies of several baselines, without and with MTO, at several pre-training epochs."""

    baselines: SomeBaselines
    epochs: Epochs

    def cells(self, names: Names) -> Iterator[Cell]:
        yield from _curve(self.baselines, self.epochs, "finetune")


def _curve(baselines: Iterable[str], epochs: Iterable[int], task: str) -> Iterator[Cell]:
    for baseline in baselines:
        plain = Run.parse(baseline)
        for run in (plain, plain.with_mto):
            for epoch in epochs:
                yield Cell(task, run.name, epoch, "top1")


class Rauc(Curve):
    """Table 1: RAUC over each window of epochs, and for the baselines of `saved` the epochs that MTO saves.

    Both are read off the curves at `epochs`, which `windows` must begin and end at.
    """

    windows: Annotated[list[Window], Field(min_length=1)]
    saved: SomeBaselines

    def cells(self, names: Names) -> Iterator[Cell]:
        yield from _curve(dict.fromkeys([*self.baselines, *self.saved]), self.epochs, "finetune")

    @model_validator(mode="after")
    def _windows_are_measured(self) -> Rauc:
        for window in self.windows:
            if lacking := [epoch for epoch in window if epoch not in self.epochs]:
                raise ValueError(f"windows: {window} begins or ends at {lacking[0]}, which epochs lacks: {self.epochs}")
        return self


class Probes(Curve):
    """Table 2: `baseline_epoch` is a second level for Eq. 6 to subtract, the baseline's accuracy at that epoch."""

    epochs: Annotated[Epochs, Field(min_length=2)]
    baseline_epoch: Epoch | None

    def cells(self, names: Names) -> Iterator[Cell]:
        yield from _curve(self.baselines, self.epochs, "linear")
        if self.baseline_epoch is not None and self.baseline_epoch not in self.epochs:
            for baseline in self.baselines:
                yield Cell("linear", Run.parse(baseline).name, self.baseline_epoch, "top1")


class Neighbours(Curve):
    """Ours: the accuracy of the nearest neighbours' vote, without and with MTO."""

    def cells(self, names: Names) -> Iterator[Cell]:
        yield from _curve(self.baselines, self.epochs, "knn")


class Objectives(Shown):
    """Table 3: the subsets of MTO's terms."""

    baseline: Baseline
    subsets: Annotated[list[Annotated[list[Term], Field(min_length=1)]], Field(min_length=1)]
    epoch: Epoch

    def cells(self, names: Names) -> Iterator[Cell]:
        base = Run.parse(self.baseline)
        for subset in self.subsets:
            terms = tuple(term for term in TERMS if term in subset)
            yield Cell("finetune", Run(base.baseline, base.backbone, terms).name, self.epoch, "top1")


class Transfer(Shown):
    """Supplementary Tables 1 and 2: rows without MTO at `baseline_epochs`, with MTO at `mto_epochs`."""

    baselines: SomeBaselines
    baseline_epochs: Epochs
    mto_epochs: Epochs

    def rows(self, task: str, *metrics: str) -> Iterator[Cell]:
        """Yields the metrics of each row."""
        for baseline in self.baselines:
            plain = Run.parse(baseline)
            rows = [(plain, e) for e in self.baseline_epochs] + [(plain.with_mto, e) for e in self.mto_epochs]
            for run, epoch in rows:
                for metric in metrics:
                    yield Cell(task, run.name, epoch, metric)


class Segmentation(Transfer):
    """Supplementary Table 1."""

    def cells(self, names: Names) -> Iterator[Cell]:
        yield from self.rows("ade20k", "mIoU")


class Detection(Transfer):
    """Supplementary Table 2."""

    def cells(self, names: Names) -> Iterator[Cell]:
        yield from self.rows("coco", "box_ap", "mask_ap")


class Presets(Shown):
    """Ours: presets of MTO side by side, beside the runs without MTO."""

    baselines: SomeBaselines
    presets: Annotated[list[str], Field(min_length=1)]
    epochs: Epochs

    def cells(self, names: Names) -> Iterator[Cell]:
        for baseline in self.baselines:
            plain = Run.parse(baseline)
            for run in (plain, *(names.with_mto(plain, preset) for preset in self.presets)):
                for epoch in self.epochs:
                    yield Cell("finetune", run.name, epoch, "top1")
                    yield Cell("linear", run.name, epoch, "top1")


class Models(Shown):
    """Figures 1 and 2: the epochs at which each run is looked at."""

    models: Annotated[dict[str, Epochs], Field(min_length=1)]

    def cells(self, names: Names) -> Iterator[Cell]:
        for run, epochs in self.models.items():
            for epoch in epochs:
                yield Cell("heterogeneity", Run.parse(run).name, epoch, "H")


class Depths(Shown):
    """Supplementary Figure 2: decoder depths of a decoder-style baseline with MTO."""

    baseline: Baseline
    depths: Annotated[list[Count], Field(min_length=1), AfterValidator(rising)]
    epoch: Epoch

    def cells(self, names: Names) -> Iterator[Cell]:
        base = Run.parse(self.baseline)
        default = names.decoder_depth(base)
        if default is None:
            raise UserError(
                f"config.yaml: study.figS2_decoder_depth.baseline: {self.baseline} has no decoder (use mae-vitb)"
            )
        for depth in self.depths:
            run = Run(base.baseline, base.backbone, TERMS, None if depth == default else depth)
            yield Cell("finetune", run.name, self.epoch, "top1")
            yield Cell("linear", run.name, self.epoch, "top1")


class Empty(Shown):
    """A drawing that needs no run."""

    def cells(self, names: Names) -> Iterator[Cell]:
        yield from ()


class StudyPlan(Model):
    """What the paper measures: every table and figure (null: not at this scale), and the epochs it needs."""

    pretrain_epochs: Count
    measured_epochs: Epochs
    from_scratch: bool
    table1_rauc: Annotated[
        Rauc | None, About("Table 1", "Fine-tuning over pre-training: RAUC, and the epochs that MTO saves", (6,))
    ]
    table2_linear: Annotated[
        Probes | None, About("Table 2", "Linear probes without and with MTO, and their RAUC", (6,))
    ]
    table3_objectives: Annotated[Objectives | None, About("Table 3", "Which of MTO's three terms", (3, 4, 5))]
    tableS1_ade20k: Annotated[Segmentation | None, About("Supplementary Table 1", "Semantic segmentation on ADE20K")]
    tableS2_coco: Annotated[
        Detection | None, About("Supplementary Table 2", "Detection and instance segmentation on COCO")
    ]
    table_presets: Annotated[
        Presets | None, About("Presets", "MTO's presets side by side; ours, beyond the paper", ours=True)
    ]
    table_knn: Annotated[
        Neighbours | None,
        About("Nearest neighbours", "The vote of the nearest training images; ours, beyond the paper", ours=True),
    ]
    fig1_heterogeneity: Annotated[
        Models | None,
        About("Figure 1", "Heterogeneity H of every layer, of converged models and an early one", (2,)),
    ]
    fig2_affinity: Annotated[
        Models | None,
        About("Figure 2", "Affinity between all tokens, layer by layer; H is its masked-visible part", (2,)),
    ]
    fig3_method: Annotated[Empty | None, About("Figure 3", "Where MTO acts: on an encoder, or on a decoder", (3, 4, 5))]
    fig4_epochs: Annotated[
        Curve | None,
        About("Figure 4", "Fine-tuning accuracy over pre-training, and the epochs that MTO saves (Table 1)", (6,)),
    ]
    figS1_architectures: Annotated[
        Curve | None, About("Supplementary Figure 1", "An encoder-style method beside a decoder-style one")
    ]
    figS2_decoder_depth: Annotated[
        Depths | None, About("Supplementary Figure 2", "The depth of MAE's decoder, with MTO")
    ]

    @model_validator(mode="after")
    def _epochs_are_measured(self) -> StudyPlan:
        measured = self.measured_epochs
        if measured[-1] != self.pretrain_epochs:
            raise ValueError(
                f"measured_epochs must end at pretrain_epochs ({self.pretrain_epochs}), not {measured[-1]}"
            )
        for table, epochs in self.asked().items():
            for epoch in epochs:
                if epoch not in measured:
                    raise ValueError(
                        f"{table} asks for epoch {epoch}, which nobody measures (measured_epochs: {measured})"
                    )
        return self

    def asked(self) -> dict[str, list[int]]:
        """Returns the epochs that each table and figure asks for."""
        return {name: _epochs(plan) for name, plan in self if isinstance(plan, Model)}


def _epochs(plan: Any) -> list[int]:
    """Returns the epochs that any key of a table or figure names."""
    given = plan.model_dump()
    several = [given.get(key) or [] for key in ("epochs", "baseline_epochs", "mto_epochs")]
    single = [[given[key]] for key in ("epoch", "baseline_epoch") if given.get(key)]
    return [epoch for epochs in (*several, *single, *given.get("models", {}).values()) for epoch in epochs]


#: Every table and figure of the study, in the paper's order.
REPORTS: dict[str, About] = {
    name: about
    for name, field in StudyPlan.model_fields.items()
    for about in field.metadata
    if isinstance(about, About)
}
