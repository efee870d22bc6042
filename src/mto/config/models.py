"""The blocks of config.yaml as strict models: each key, its type, and what makes it impossible."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

Unit = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Epoch = Annotated[int, Field(ge=1)]
Term = Literal["spa", "e", "r"]
Baseline = Literal[
    "simmim-vitb",
    "mae-vitb",
    "bootmae-vitb",
    "conmim-vitb",
    "simmim-vitl",
    "mae-vitl",
    "bootmae-vitl",
    "conmim-vitl",
]


def _rising(values: list[float]) -> list[float]:
    if any(later <= earlier for earlier, later in pairwise(values)):
        raise ValueError(f"must rise, without repeats: {values}")
    return values


def _ordered(values: list[float]) -> list[float]:
    if values[0] > values[1]:
        raise ValueError(f"the first must not be above the second: {values}")
    return values


Epochs = Annotated[list[Epoch], Field(min_length=1), AfterValidator(_rising)]
SomeBaselines = Annotated[list[Baseline], Field(min_length=1)]
Range = Annotated[list[Positive], Field(min_length=2, max_length=2), AfterValidator(_ordered)]
Taps = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=4, max_length=4), AfterValidator(_rising)]


class Model(BaseModel):
    """A block of config.yaml: immutable, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


# ------------------------------------------------------------------------------------------------------------- study
class Curve(Model):
    """Accuracies of several baselines, without and with MTO, at several pre-training epochs."""

    baselines: SomeBaselines
    epochs: Epochs


class Rauc(Curve):
    """Tables 1 and 2: the baseline's accuracy at `baseline_epoch` is a second level for Eq. 6 to subtract."""

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


class Models(Model):
    """Figures 1 and 2: the epochs at which each run is looked at."""

    models: Annotated[dict[str, Epochs], Field(min_length=1)]


class Depths(Model):
    """Supplementary Figure 2: decoder depths of a decoder-style baseline with MTO."""

    baseline: Baseline
    depths: Annotated[list[Count], Field(min_length=1), AfterValidator(_rising)]
    epoch: Epoch


class Empty(Model):
    """A drawing that needs no run."""


class StudyPlan(Model):
    """What the paper measures: every table and figure, and the epochs it needs."""

    pretrain_epochs: Count
    measured_epochs: Epochs
    table1_rauc: Rauc
    table2_linear: Rauc
    table3_objectives: Objectives
    tableS1_ade20k: Transfer
    tableS2_coco: Transfer
    fig1_heterogeneity: Models
    fig2_affinity: Models
    fig4_epochs: Curve
    figS1_architectures: Empty
    figS2_decoder_depth: Depths

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
        return {
            "table1_rauc": self.table1_rauc.epochs + [e for e in [self.table1_rauc.baseline_epoch] if e],
            "table2_linear": self.table2_linear.epochs + [e for e in [self.table2_linear.baseline_epoch] if e],
            "table3_objectives": [self.table3_objectives.epoch],
            "tableS1_ade20k": self.tableS1_ade20k.baseline_epochs + self.tableS1_ade20k.mto_epochs,
            "tableS2_coco": self.tableS2_coco.baseline_epochs + self.tableS2_coco.mto_epochs,
            "fig1_heterogeneity": [e for epochs in self.fig1_heterogeneity.models.values() for e in epochs],
            "fig2_affinity": [e for epochs in self.fig2_affinity.models.values() for e in epochs],
            "fig4_epochs": self.fig4_epochs.epochs,
            "figS2_decoder_depth": [self.figS2_decoder_depth.epoch],
        }


# ----------------------------------------------------------------------------------------------------------- recipes
class Backbone(Model):
    """A vision transformer's size, in timm's names."""

    embed_dim: Count
    depth: Count
    num_heads: Count
    mlp_ratio: Positive

    @model_validator(mode="after")
    def _heads_divide(self) -> Backbone:
        if self.embed_dim % self.num_heads or self.embed_dim % 4:
            raise ValueError(f"embed_dim {self.embed_dim} must be a multiple of num_heads {self.num_heads} and of 4")
        return self


class LearningRate(Model):
    """Peak = base · batch_size / per; `per: null` means that `base` is the peak."""

    base: Positive
    per: Count | None

    def peak(self, batch_size: int) -> float:
        """The rate handed to the optimiser."""
        return self.base * batch_size / self.per if self.per else self.base


class Schedule(Model):
    """The learning rate over training, in epochs of the stage (iterations for ADE20K and COCO's warm-up)."""

    kind: Literal["cosine", "multistep", "poly"]
    warmup_epochs: NonNegative = 0
    warmup_lr: NonNegative = 0
    min_lr: NonNegative = 0
    milestones: list[NonNegative] = []
    gamma: Positive = 0.1
    warmup_prefix: bool = True
    warmup_inclusive: bool = False
    scale_min_lr: bool = False
    total_epochs: Count | None = None
    by_epoch: bool = False

    @model_validator(mode="after")
    def _milestones(self) -> Schedule:
        if self.kind == "multistep" and not self.milestones:
            raise ValueError("kind multistep needs milestones: without one the rate never falls")
        return self


class Pixels(Model):
    """Per-channel normalisation of RGB in [0, 1]."""

    mean: Annotated[list[float], Field(min_length=3, max_length=3)]
    std: Annotated[list[Positive], Field(min_length=3, max_length=3)]


class Mask(Model):
    """How masks are drawn; see mto.methods.masking."""

    sampler: Literal["random", "cells", "block", "block_random"]
    ratio: Annotated[float, Field(gt=0, lt=1)]
    cell_size: Count | None = None
    block_patches: Count | None = None
    min_block: Count | None = None
    max_block: Count | None = None


class TeacherView(Model):
    """ConMIM's colour change of the teacher's view (ConMIM:datasets.py:22-54)."""

    jitter: Annotated[list[NonNegative], Field(min_length=4, max_length=4)]
    jitter_prob: Unit
    gray_prob: Unit
    blur_prob: Unit
    solarize_prob: Unit


class Augment(Model):
    """Random resized crop and horizontal flip."""

    crop_scale: Range
    interpolation: Literal["bilinear", "bicubic"]
    hflip: Unit


class PretrainAugment(Augment):
    teacher: TeacherView | None = None


class FinetuneAugment(Augment):
    color_jitter: NonNegative | None
    rand_augment: Annotated[str, Field(pattern=r"^rand-")] | None
    reprob: Unit
    mixup: NonNegative
    cutmix: NonNegative
    mixup_prob: Unit
    mixup_switch_prob: Unit
    smoothing: Unit


class LinearAugment(Augment):
    crop: Literal["no_retry", "torchvision"]


class Pretrain(Model):
    augment: PretrainAugment
    batch_size: Count
    lr: LearningRate
    betas: tuple[Share, Share]
    weight_decay: NonNegative
    clip_grad: Positive | None
    no_decay: list[str]
    schedule: Schedule


class Finetune(Model):
    epochs: Count
    batch_size: Count
    lr: LearningRate
    betas: tuple[Share, Share]
    weight_decay: NonNegative
    clip_grad: Positive | None
    layer_decay: Annotated[float, Field(gt=0, le=1)]
    drop_path: Share
    ema_decay: Share | None
    schedule: Schedule
    augment: FinetuneAugment


class Probe(Model):
    """Which feature a linear probe reads; see mto.tasks.linear."""

    feature: Literal["cls", "mean", "cls_mean"]
    layer: Count | Literal["last", "all"]
    norm: bool | Literal["fresh"]
    batch_norm: bool
    head_std: Positive


class Linear(Model):
    probe: Probe
    epochs: Count
    batch_size: Count
    optimizer: Literal["lars", "adamw"]
    lr: LearningRate
    weight_decay: NonNegative
    momentum: Unit
    schedule: Schedule
    augment: LinearAugment


class TransferSchedule(Model):
    """Learning rate of the dense tasks, per iteration."""

    kind: Literal["poly", "cosine"]
    warmup_iterations: Annotated[int, Field(ge=0)]
    warmup_ratio: Unit
    min_lr: NonNegative
    power: Positive = 1.0


class TransferStage(Model):
    """What UPerNet and Mask R-CNN share."""

    batch_size: Count
    lr: LearningRate
    betas: tuple[Share, Share]
    weight_decay: NonNegative
    clip_grad: Positive | None
    layer_decay: Annotated[float, Field(gt=0, le=1)]
    drop_path: Share
    schedule: TransferSchedule


class UperHead(Model):
    """UPerNet's decode head and its auxiliary FCN."""

    channels: Count
    pool_scales: list[Count]
    dropout: Unit
    aux_channels: Count
    aux_weight: NonNegative


class Ade20k(TransferStage):
    """UPerNet on ADE20K; see mto.openmmlab.upernet. Sizes in pixels, blocks counted from 0."""

    iterations: Count
    crop_size: Count
    slide_stride: Count
    resize: Annotated[list[Count], Field(min_length=2, max_length=2)]
    resize_ratio: Range
    hflip: Unit
    out_indices: Taps
    layer_scale: Positive | None
    head: UperHead
    save_interval: Count

    @model_validator(mode="after")
    def _windows_overlap(self) -> Ade20k:
        if self.slide_stride > self.crop_size:
            raise ValueError(
                f"slide_stride {self.slide_stride} leaves gaps between windows of crop_size {self.crop_size}"
            )
        return self


class Detector(Model):
    """Mask R-CNN's sizes and sampling."""

    channels: Count
    fc_channels: Count
    rpn_convs: Count
    box_convs: Count
    mask_convs: Count
    anchor_scale: Count
    roi_sampling_ratio: Annotated[int, Field(ge=0)]
    rpn_samples: Count
    roi_samples: Count
    proposals_before_nms_train: Count
    proposals_train: Count
    proposals_before_nms_test: Count
    proposals_test: Count


class Coco(TransferStage):
    """Mask R-CNN on COCO; see mto.openmmlab.maskrcnn. Sizes in pixels (windows in patches), blocks counted from 0."""

    epochs: Count
    image_size: Count
    resize_ratio: Range
    hflip: Unit
    window_size: Count
    global_blocks: list[Annotated[int, Field(ge=0)]]
    position: Literal["row_first", "own", "resized"]
    out_indices: Taps
    layer_scale: Positive | None
    detector: Detector


# --------------------------------------------------------------------------------------------------------------- MTO
AS_PRINTED = {"rank_direction": "as_printed", "rank_reduction": "sum", "sparsity_reduction": "sum"}


class Mto(Model):
    """The arguments of `mto.MaskedTokenOptimization`; `preset: as_printed` overrides three of them (Eq. 3 and 5)."""

    preset: Literal["default", "as_printed"]
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

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments that a run with MTO is given, preset applied."""
        preset = AS_PRINTED if self.preset == "as_printed" else {}
        return {**self.model_dump(exclude={"preset"}), **preset}


# ---------------------------------------------------------------------------------------------------------- the whole
def merge(base: Any, over: Any) -> Any:
    """`over` laid onto `base`: mappings are merged, anything else is replaced."""
    if isinstance(base, dict) and isinstance(over, dict):
        return {**base, **{key: merge(base.get(key), value) for key, value in over.items()}}
    return copy.deepcopy(over)


class BaselineConfig(Model):
    """Everything that one baseline does; `backbones` holds what a backbone changes of it."""

    backbones: Annotated[dict[Literal["vitb", "vitl"], dict[str, Any]], Field(min_length=1)]
    mask: Mask
    pixels: Pixels
    pretrain: Pretrain
    finetune: Finetune
    linear: Linear
    ade20k: Ade20k
    coco: Coco


class SimmimMethod(Model):
    drop_path: Share
    init_values: Positive


class MaeMethod(Model):
    decoder_embed_dim: Count
    decoder_depth: Count
    decoder_num_heads: Count
    norm_pix: bool

    @model_validator(mode="after")
    def _heads_divide(self) -> MaeMethod:
        if self.decoder_embed_dim % self.decoder_num_heads or self.decoder_embed_dim % 4:
            raise ValueError(
                f"decoder_embed_dim {self.decoder_embed_dim} must be a multiple of decoder_num_heads "
                f"{self.decoder_num_heads} and of 4"
            )
        return self


class BootmaeMethod(Model):
    decoder_embed_dim: Annotated[int, Field(ge=4, multiple_of=4)]
    decoder_depth: Count


class ConmimMethod(Model):
    init_values: Positive
    projector_dim: Count
    output_dim: Count
    temperature: Positive


class Simmim(BaselineConfig):
    method: SimmimMethod


class Mae(BaselineConfig):
    method: MaeMethod


class Bootmae(BaselineConfig):
    method: BootmaeMethod


class Conmim(BaselineConfig):
    method: ConmimMethod

    @model_validator(mode="after")
    def _teacher_has_a_view(self) -> Conmim:
        if self.pretrain.augment.teacher is None:
            raise ValueError("pretrain.augment.teacher is required: ConMIM's teacher sees another view")
        return self


class Baselines(Model):
    simmim: Simmim
    mae: Mae
    bootmae: Bootmae
    conmim: Conmim


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
                if self.mto.sparsity_layers != "all" and any(
                    not -layers <= x <= layers for x in self.mto.sparsity_layers
                ):
                    raise ValueError(f"mto.sparsity_layers {self.mto.sparsity_layers}: {name} has layers 0 to {layers}")
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
        # A recipe's blocks are ViT-B's; a backbone that no transfer table asks for need not have them.
        if backbone == "vitb" and max(indices, default=0) >= depth:
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
