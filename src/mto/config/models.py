"""config.yaml as one strict model: MTO, hardware, data and analysis here, study and recipes beside; what must agree."""

from __future__ import annotations

import copy
import re
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from mto.config.fields import PRESET, Count, Model, NonNegative, Positive
from mto.config.recipe import Backbone, BaselineConfig, Baselines, Mask
from mto.config.study_plan import StudyPlan


# --------------------------------------------------------------------------------------------------------------- MTO
class Preset(Model):
    """One reading of the paper: the arguments of `mto.MaskedTokenOptimization`, but for the terms of a run's name."""

    spa_weight: NonNegative
    e_weight: NonNegative
    r_weight: NonNegative
    warmup_epochs: NonNegative
    rank_direction: Literal["decreasing", "as_printed"]
    rank_reduction: Literal["sum", "mean"]
    sparsity_reduction: Literal["mean", "sum"]
    sparsity_columns: Literal["all", "visible"]
    sparsity_self: Literal["keep", "exclude"]
    sparsity_layers: Annotated[list[int], Field(min_length=1)] | Literal["all"]
    sparsity_object: Literal["affinity", "attention"]
    affinity: Literal["dot", "scaled", "cosine"]
    temperature: Positive
    tokens: Literal["raw", "layernorm", "l2"]
    position: Literal["pre", "post"]
    batch_reduction: Literal["image", "batch"]
    detach_visible: bool
    detach_encoder: bool
    final_norm: bool
    streams: Literal["sum", "mean", "pixel", "feature"]
    eps: Positive


class Mto(Model):
    """The presets, and which of them a run has whose name says none."""

    default: str
    presets: Annotated[dict[str, Preset], Field(min_length=1)]

    @model_validator(mode="before")
    @classmethod
    def _moved(cls, given: Any) -> Any:
        """Say what became of the keys of before there were presets."""
        if not isinstance(given, dict):
            return given
        if "preset" in given:
            raise ValueError(
                f"`preset: {given['preset']}` is gone: set mto.default to a preset's name "
                f"({', '.join(given.get('presets') or ('text', 'as_printed'))}); `preset: default` is now `text`"
            )
        if moved := sorted(given.keys() & Preset.model_fields.keys()):
            raise ValueError(f"{', '.join(moved)}: a switch belongs to a preset, as mto.presets.text.{moved[0]}")
        return given

    @model_validator(mode="after")
    def _names(self) -> Mto:
        for name in self.presets:
            if not re.fullmatch(PRESET, name):
                raise ValueError(f"presets.{name}: a preset's name is made of a-z, 0-9 and _")
        if self.default not in self.presets:
            raise ValueError(f"default: no such preset: '{self.default}' (mto.presets has: {', '.join(self.presets)})")
        return self


# ---------------------------------------------------------------------------------------------------------- the whole
def merge(base: Any, over: Any) -> Any:
    """`over` laid onto `base`: mappings are merged, anything else is replaced."""
    if isinstance(base, dict) and isinstance(over, dict):
        return {**base, **{key: merge(base.get(key), value) for key, value in over.items()}}
    return copy.deepcopy(over)


class Resources(Model):
    """The hardware of one stage. Changing it re-queues nothing: the global batch is kept by accumulation."""

    gpu: Annotated[int, Field(ge=0)]
    cpus_per_task: Count
    mem_mb: Count
    runtime: Count
    workers: Annotated[int, Field(ge=0)]
    micro_batch: Count | None


class AllResources(Model):
    pretrain: Resources
    finetune: Resources
    linear: Resources
    ade20k: Resources
    coco: Resources
    heterogeneity: Resources


class Dataset(Model):
    """Where a dataset lies; `demo` holds the arguments of its maker, or null for a dataset that must be there."""

    root: str
    num_classes: Count
    demo: dict[str, int] | None


class Datasets(Model):
    imagenet: Dataset
    ade20k: Dataset
    coco: Dataset


class Evaluation(Model):
    """Shorter side resized, then a centre crop."""

    resize: Count
    crop: Count
    interpolation: Literal["bilinear", "bicubic"]


class Variant(Model):
    """A reading of Eq. 2; see `mto`."""

    position: Literal["pre", "post"]
    affinity: Literal["dot", "scaled", "cosine"]
    tokens: Literal["raw", "layernorm", "l2"]
    temperature: Positive | None = None


class Analysis(Model):
    """The heterogeneity jobs: how many validation images, and which readings of Eq. 2."""

    images: Count
    affinity_images: Count
    variants: Annotated[list[Variant], Field(min_length=1)]


class Config(Model):
    """config.yaml after its overrides were merged."""

    scale: Literal["demo", "paper"]
    recipe: Literal["paper", "official"]
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    study: StudyPlan
    img_size: Count
    patch_size: Count
    backbones: dict[Literal["vitb", "vitl"], Backbone]
    mto: Mto
    baselines: Baselines
    evaluation: Evaluation
    analysis: Analysis
    precision: Literal["fp32", "bf16", "fp16"]
    log_interval: Count
    eval_interval: Count
    datasets: Datasets
    resources: AllResources
    code_version: Count

    def of(self, baseline: str, backbone: str) -> BaselineConfig:
        """The recipe of a baseline, with its backbone's overrides."""
        recipe = getattr(self.baselines, baseline)
        over = recipe.backbones[backbone]
        return type(recipe).model_validate(merge(recipe.model_dump(), over)) if over else recipe

    @model_validator(mode="after")
    def _whole(self) -> Config:
        if self.img_size % self.patch_size:
            raise ValueError(f"img_size {self.img_size} must be a multiple of patch_size {self.patch_size}")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds repeat: {self.seeds}")
        for name, baseline in self.baselines:
            for backbone in baseline.backbones:
                try:
                    recipe = self.of(name, backbone)
                except ValidationError as error:
                    problem = error.errors()[0]
                    path = ".".join(map(str, ("baselines", name, "backbones", backbone, *problem["loc"])))
                    message = "unknown key" if problem["type"] == "extra_forbidden" else problem["msg"]
                    raise ValueError(f"{path}: {message} (the keys are those of baselines.{name})") from None
                check_mask(f"baselines.{name}.mask", recipe.mask, self.img_size, self.patch_size)
                depth = self.backbones[backbone].depth
                check_depth(name, recipe, backbone, depth)
                layers = getattr(recipe.method, "decoder_depth", depth)  # type: ignore[attr-defined]
                for reading, preset in self.mto.presets.items():
                    looked_at = preset.sparsity_layers
                    if looked_at != "all" and any(not -layers <= layer <= layers for layer in looked_at):
                        raise ValueError(
                            f"mto.presets.{reading}.sparsity_layers {looked_at}: {name} has layers 0 to {layers}"
                        )
                lengths = {"pretrain": self.study.pretrain_epochs, "finetune": recipe.finetune.epochs}
                for stage, epochs in (lengths | {"linear": recipe.linear.epochs}).items():
                    warmup = getattr(recipe, stage).schedule.warmup_epochs
                    if warmup >= epochs:
                        raise ValueError(
                            f"baselines.{name}.{stage}.schedule: warmup_epochs {warmup} of only {epochs} epochs"
                        )
                for stage in ("pretrain", "finetune", "linear", "ade20k", "coco"):
                    batch_size = getattr(recipe, stage).batch_size
                    check_batch(f"baselines.{name}.{stage}", batch_size, getattr(self.resources, stage), stage)
        return self


def check_mask(where: str, mask: Mask, img_size: int, patch_size: int) -> None:
    """Refuse cells that are no whole patches, or that do not tile the image."""
    if mask.sampler != "cells":
        return
    if mask.cell_size is None or mask.cell_size % patch_size or img_size % mask.cell_size:
        raise ValueError(
            f"{where}.cell_size {mask.cell_size} must be a multiple of patch_size {patch_size} and divide "
            f"img_size {img_size}"
        )


def check_depth(name: str, recipe: BaselineConfig, backbone: str, depth: int) -> None:
    """Refuse layers and blocks that the backbone does not have."""
    layer = recipe.linear.probe.layer
    if isinstance(layer, int) and layer > depth:
        raise ValueError(f"baselines.{name}.linear.probe.layer {layer} is above {backbone}'s depth {depth}")
    blocks = {
        "ade20k.out_indices": recipe.ade20k.out_indices,
        "coco.out_indices": recipe.coco.out_indices,
        "coco.global_blocks": recipe.coco.global_blocks,
    }
    for key, indices in blocks.items():
        if max(indices, default=0) >= depth:
            raise ValueError(
                f"baselines.{name}.{key} {indices}: {backbone} has blocks 0 to {depth - 1} (backbones.{backbone}.depth)"
            )


def check_batch(where: str, batch_size: int, resources: Resources, stage: str) -> None:
    """Refuse a batch that gpu · micro_batch does not divide, naming the nearest that it does."""
    if resources.micro_batch is None:
        return
    gpus = max(resources.gpu, 1)
    unit = gpus * min(resources.micro_batch, max(batch_size // gpus, 1))
    if batch_size % unit:
        below = max(batch_size // unit, 1) * unit
        raise ValueError(
            f"{where}.batch_size {batch_size} cannot be made of gpu {resources.gpu} × micro_batch "
            f"{resources.micro_batch} (resources.{stage}); the nearest that can: {below} or {below + unit}"
        )
