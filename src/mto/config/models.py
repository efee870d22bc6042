"""config.yaml as one strict model: MTO, hardware, data and analysis here, study and recipes beside.

What single blocks cannot know of each other is in `agreement`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    SerializerFunctionWrapHandler,
    create_model,
    model_serializer,
    model_validator,
)

from mto.config import fields, parts
from mto.config.classes import Classes
from mto.config.fields import Count, Seed, SomeBaselines, different
from mto.config.layers import merge
from mto.config.model import Model, settings
from mto.config.prices import Plan
from mto.config.recipe import Backbone, BaselineConfig, Baselines
from mto.config.study_plan import StudyPlan
from mto.losses.switches import SWITCHES
from mto.names import PRESET, STAGES, Memory, Stage

# --------------------------------------------------------------------------------------------------------------- MTO
Balance: Any = settings(parts.Balance)
_FIELDS: Any = {name: (parts.hint(switch), ...) for name, switch in SWITCHES.items()}
_Switches: Any = create_model("Switches", __base__=Model, **_FIELDS)


class Preset(_Switches):  # type: ignore[misc]
    """A full set of switches: the arguments of `mto.MaskedTokenOptimization`, but for the terms of a run's name.

    Its keys are `mto.losses.switches.SWITCHES`. In a file it may name a `base`, another preset, which has the switches
    that it does not name itself.

    `balance` makes shares of the three weights; `starts_at` is this preset's own epoch of `mto.starts_at`. Without them
    a preset has no such keys, in a job either: a job that was finished before there were any stays what it was.
    """

    balance: Balance | None = None
    starts_at: Annotated[int, Field(ge=0)] | None = None

    @model_serializer(mode="wrap")
    def _without_none(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if value is not None}

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, given: Any) -> Any:
        required = [name for name, field in cls.model_fields.items() if field.is_required()]
        if isinstance(given, dict) and (lacking := [name for name in required if name not in given]):
            raise ValueError(f"lacks {', '.join(lacking)}; add base: <a preset>, which has what this one does not name")
        return given


class Mto(Model):
    """The presets, and which of them a run has whose name says none; how runs with MTO are watched, in no job.

    `starts_at` is the epoch at which MTO is switched on, 0: the first. Until then a run with MTO is the run without it,
    whose segments, jobs and files it shares. A preset may name its own.
    """

    default: str
    starts_at: Annotated[int, Field(ge=0)] = 0
    guard: Count | None
    gradient_interval: Count | None
    presets: Annotated[dict[str, Preset], Field(min_length=1)]

    @model_validator(mode="before")
    @classmethod
    def _switches_are_a_presets(cls, given: Any) -> Any:
        """A switch of a preset is looked for at the top first."""
        of_a_preset = Preset.model_fields.keys() - Mto.model_fields.keys()
        if isinstance(given, dict) and (misplaced := sorted(given.keys() & of_a_preset)):
            raise ValueError(
                f"{', '.join(misplaced)}: a switch belongs to a preset, as mto.presets.text.{misplaced[0]}"
            )
        return given

    @model_validator(mode="after")
    def _names(self) -> Mto:
        for name in self.presets:
            if not re.fullmatch(PRESET, name):
                raise ValueError(f"presets.{name}: a preset's name is made of a-z, 0-9 and _")
        if self.default not in self.presets:
            raise ValueError(f"default: no such preset: '{self.default}' (mto.presets has: {', '.join(self.presets)})")
        return self


class Pilot(Model):
    """`snakemake pilot`: the first `epochs` of the schedule, for each baseline without MTO and with each preset."""

    baselines: SomeBaselines
    presets: Annotated[list[str], Field(min_length=1)]
    epochs: Count


# ---------------------------------------------------------------------------------------------------------- the whole
class Resources(Model):
    """The hardware of one stage. Changing it re-queues nothing: the global batch is kept by accumulation."""

    gpu: Annotated[int, Field(ge=0)]
    nodes: Count = 1
    cpus_per_task: Count
    mem_mb: Count
    runtime: Count
    workers: Annotated[int, Field(ge=0)]
    micro_batch: Count | None
    compile: bool = True
    deterministic: Literal[True, False, "warn"] = True
    memory: Memory = "fast"

    @property
    def kernels(self) -> Literal["strict", "warn", "off"]:
        """`deterministic` as the tasks' command line has it."""
        return "warn" if self.deterministic == "warn" else "strict" if self.deterministic else "off"

    @model_validator(mode="after")
    def _even(self) -> Resources:
        if self.nodes > 1 and (not self.gpu or self.gpu % self.nodes):
            raise ValueError(f"gpu {self.gpu} must be a multiple of nodes {self.nodes}")
        return self


class WarnedResources(Resources):
    """The hardware of a stage with operators that have no deterministic form on a GPU."""

    deterministic: Literal[True, False, "warn"] = "warn"


class _AllResources(Model):
    """The hardware of each stage, and of the jobs that make or check a dataset."""

    @model_validator(mode="before")
    @classmethod
    def _as_another(cls, given: Any) -> Any:
        """A stage whose resources are not named has those of the stage that it is like."""
        if not isinstance(given, dict):
            return given
        like = {name: given[stage.like] for name, stage in STAGES.items() if stage.like in given}
        return {**like, **{name: asked for name, asked in given.items() if asked is not None or name not in like}}


def _hardware(stage: Stage) -> Any:
    """Returns the field of a stage's resources; it may be left out where the stage is like another."""
    kind: Any = Resources if stage.kernels == "strict" else WarnedResources
    return (kind, ...) if stage.like is None else (kind | None, None)


_KEYS: dict[str, Any] = {name: _hardware(stage) for name, stage in STAGES.items()}
AllResources: Any = create_model("AllResources", __base__=_AllResources, **_KEYS, dataset=(Resources, ...))


Neighbours: Any = settings(parts.Neighbours)
Make: Any = settings(parts.Make)
Cache: Any = settings(parts.Cache)
Evaluation: Any = settings(parts.Evaluation)
Variant: Any = settings(parts.Variant)


class Dataset(Model):
    """Where a dataset lies; `make` holds the arguments of its maker, or null for a dataset that must be there.

    `title` is what captions call it.

    How it is checked and what becomes of a bad file is no part of any job: it alters no run but one that meets such a
    file, whose metrics say so.
    """

    title: Annotated[str, Field(min_length=1)]
    root: Annotated[str, Field(min_length=1)]
    num_classes: Annotated[int, Field(ge=2)]
    make: Make | None
    verify: Literal["fast", "full"]
    bad_files: Literal["stop", "skip"]
    bad_files_limit: Count


class ImageNet(Dataset):
    """`classes` names the class folders that are looked at, null: all. The others may be there, and are passed over.

    It alters what is trained and measured, and so it is a part of every job that reads images. `cache.side` alters what
    is trained on, and is a part of the jobs that train; so is `decode: device`, of those that it alters.

    `convert` names the folder of a copy of parquet shards as tar shards, which the dataset's job makes; it alters no
    result.
    """

    classes: Classes | None = None
    cache: Cache | None = None
    convert: Annotated[str, Field(min_length=1)] | None = None
    decode: Literal["workers", "device"] = "workers"

    @model_validator(mode="after")
    def _classes_are_there(self) -> ImageNet:
        if self.classes is not None and self.make is not None:
            raise ValueError("classes: must be null where the dataset is made, which has classes of its own")
        if self.classes is not None and len(self.classes) != self.num_classes:
            raise ValueError(f"num_classes {self.num_classes} must be {len(self.classes)}, as many as classes names")
        return self

    @model_validator(mode="after")
    def _one_way_to_read(self) -> ImageNet:
        if self.cache is not None and self.decode == "device":
            raise ValueError("decode: device wants files, and cache holds pixels: set decode: workers, or cache: null")
        return self


class Datasets(Model):
    imagenet: ImageNet
    ade20k: Dataset
    coco: Dataset


class Analysis(Model):
    """The heterogeneity jobs: how many validation images, and which affinities for Eq. 2."""

    images: Count
    affinity_images: Count
    variants: Annotated[list[Variant], Field(min_length=1)]


class Config(Model):
    """config.yaml after its overrides were merged."""

    scale: Annotated[str, Field(pattern="^[a-z0-9_]+$")]
    recipe: Literal["paper", "official"]
    seeds: Annotated[list[Seed], Field(min_length=1), AfterValidator(different)]
    study: StudyPlan
    img_size: Count
    patch_size: Count
    backbones: dict[fields.Backbone, Backbone]
    mto: Mto
    pilot: Pilot
    plan: Plan
    baselines: Baselines
    evaluation: Evaluation
    analysis: Analysis
    knn: Neighbours = Neighbours()
    precision: Literal["fp32", "bf16", "fp16"]
    log: Annotated[list[fields.Tracker], AfterValidator(different)]
    log_interval: Count
    eval_interval: Count
    datasets: Datasets
    resources: AllResources
    code_version: Count

    def of(self, baseline: str, backbone: str) -> BaselineConfig:
        """Returns the recipe of a baseline, with its backbone's overrides."""
        recipe = getattr(self.baselines, baseline)
        over = recipe.backbones[backbone]
        return type(recipe).model_validate(merge(recipe.model_dump(), over)) if over else recipe
