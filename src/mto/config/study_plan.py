"""The block `study` of config.yaml: every table and figure, and the epochs that they need."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from mto.config.fields import Baseline, Count, Epoch, Epochs, Model, SomeBaselines, Term, Window, rising


class Curve(Model):
    """Accuracies of several baselines, without and with MTO, at several pre-training epochs."""

    baselines: SomeBaselines
    epochs: Epochs


class Rauc(Curve):
    """Table 1: RAUC over each window of epochs, and for the baselines of `saved` the epochs that MTO saves.

    Both are read off the curves at `epochs`, which `windows` must begin and end at.
    """

    windows: Annotated[list[Window], Field(min_length=1)]
    saved: SomeBaselines

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


class Objectives(Model):
    """Table 3: the subsets of MTO's terms."""

    baseline: Baseline
    subsets: Annotated[list[Annotated[list[Term], Field(min_length=1)]], Field(min_length=1)]
    epoch: Epoch


class Transfer(Model):
    """Supplementary Tables 1 and 2: rows without MTO at `baseline_epochs`, with MTO at `mto_epochs`."""

    baselines: SomeBaselines
    baseline_epochs: Epochs
    mto_epochs: Epochs


class Presets(Model):
    """Ours: presets of MTO side by side, beside the runs without MTO."""

    baselines: SomeBaselines
    presets: Annotated[list[str], Field(min_length=1)]
    epochs: Epochs


class Models(Model):
    """Figures 1 and 2: the epochs at which each run is looked at."""

    models: Annotated[dict[str, Epochs], Field(min_length=1)]


class Depths(Model):
    """Supplementary Figure 2: decoder depths of a decoder-style baseline with MTO."""

    baseline: Baseline
    depths: Annotated[list[Count], Field(min_length=1), AfterValidator(rising)]
    epoch: Epoch


class Empty(Model):
    """A drawing that needs no run."""


class StudyPlan(Model):
    """What the paper measures: every table and figure (null: not at this scale), and the epochs it needs."""

    pretrain_epochs: Count
    measured_epochs: Epochs
    from_scratch: bool
    table1_rauc: Rauc | None
    table2_linear: Probes | None
    table3_objectives: Objectives | None
    tableS1_ade20k: Transfer | None
    tableS2_coco: Transfer | None
    table_presets: Presets | None
    fig1_heterogeneity: Models | None
    fig2_affinity: Models | None
    fig3_method: Empty | None
    fig4_epochs: Curve | None
    figS1_architectures: Curve | None
    figS2_decoder_depth: Depths | None

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
        """The epochs that each table and figure asks for."""
        return {name: _epochs(plan) for name, plan in self if isinstance(plan, Model)}


def _epochs(plan: Any) -> list[int]:
    """Every key that names epochs, of any table or figure."""
    given = plan.model_dump()
    several = [given.get(key) or [] for key in ("epochs", "baseline_epochs", "mto_epochs")]
    single = [[given[key]] for key in ("epoch", "baseline_epoch") if given.get(key)]
    return [epoch for epochs in (*several, *single, *given.get("models", {}).values()) for epoch in epochs]
