"""The block `baselines` of config.yaml: the recipe of every baseline and stage."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, create_model, model_validator

from mto.config import fields
from mto.config.fields import Areas, Count, Model, NonNegative, Positive, Range, Share, Taps, Unit, rising
from mto.names import BASELINES


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
    milestones: Annotated[list[NonNegative], AfterValidator(rising)] = Field(default=[])
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

    mean: Annotated[list[Unit], Field(min_length=3, max_length=3)]
    std: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=3, max_length=3)]


class Mask(Model):
    """How masks are drawn; see mto.methods.masking."""

    sampler: Literal["random", "cells", "block", "block_random"]
    ratio: Annotated[float, Field(gt=0, lt=1)]
    cell_size: Count | None = None
    block_patches: Count | None = None
    min_block: Count | None = None
    max_block: Count | None = None


def rand_augment(text: str) -> str:
    """Checks timm's words: magnitude, its deviation and bound, layers, probability, rising severity, weighted choice.

    timm passes over what it does not know (`rand-foo` is magnitude 10).
    """
    words = r"m\d+|mstd\d+(\.\d+)?|mmax\d+|n[1-9]\d*|p(0(\.\d+)?|1(\.0+)?)|inc[01]|t(weights|3aw?)"
    if not re.fullmatch(rf"rand(-({words}))+", text) or not re.search(r"-m\d", text):
        raise ValueError(f"must be timm's, such as rand-m9-mstd0.5-inc1, not {text!r}")
    return text


#: The parameters that weight decay would reach, but for weights: named whole, or by their last part.
Spared = Literal["cls_token", "mask_token", "pos_embed", "relative_position_bias_table"]


class TeacherView(Model):
    """ConMIM's colour change of the teacher's view (ConMIM:datasets.py:22-54)."""

    jitter: Annotated[list[NonNegative], Field(min_length=4, max_length=4)]
    jitter_prob: Unit
    gray_prob: Unit
    blur_prob: Unit
    solarize_prob: Unit


class Augment(Model):
    """Random resized crop and horizontal flip."""

    crop_scale: Areas
    interpolation: Literal["bilinear", "bicubic"]
    hflip: Unit


class PretrainAugment(Augment):
    teacher: TeacherView | None = None


class FinetuneAugment(Augment):
    color_jitter: NonNegative | None
    rand_augment: Annotated[str, AfterValidator(rand_augment)] | None
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
    betas: Annotated[list[Share], Field(min_length=2, max_length=2)]
    weight_decay: NonNegative
    clip_grad: Positive | None
    no_decay: list[Spared]
    schedule: Schedule


#: The share of each class's training images whose labels are used; see mto.data.labels.
Labels = Annotated[float, Field(gt=0, le=1)]


class Finetune(Model):
    epochs: Count
    labels: Labels
    batch_size: Count
    lr: LearningRate
    betas: Annotated[list[Share], Field(min_length=2, max_length=2)]
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
    labels: Labels
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
    betas: Annotated[list[Share], Field(min_length=2, max_length=2)]
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


class BaselineConfig(Model):
    """Everything that one baseline does; `backbones` holds what a backbone changes of it."""

    backbones: Annotated[dict[fields.Backbone, dict[str, Any]], Field(min_length=1)]
    mask: Mask
    pixels: Pixels
    pretrain: Pretrain
    finetune: Finetune
    linear: Linear
    ade20k: Ade20k
    coco: Coco


#: The kinds of a method's own settings, which its baseline declares (`mto.names.Baseline.settings`).
KINDS: dict[str, Any] = {
    "bool": bool,
    "count": Count,
    "fourfold": Annotated[int, Field(ge=4, multiple_of=4)],
    "positive": Positive,
    "share": Share,
}


class Method(Model):
    """The settings of a method's own network."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Method:
        width, heads = getattr(self, "decoder_embed_dim", 0), getattr(self, "decoder_num_heads", None)
        if heads is not None and (width % heads or width % 4):
            raise ValueError(f"decoder_embed_dim {width} must be a multiple of decoder_num_heads {heads} and of 4")
        return self


def _recipe(name: str, settings: Mapping[str, str]) -> type[BaselineConfig]:
    """Returns the model of a baseline's recipe, with the settings of its method."""
    keys: dict[str, Any] = {key: (KINDS[kind], ...) for key, kind in settings.items()}
    method = create_model(f"{name.capitalize()}Method", __base__=Method, **keys)
    return create_model(name.capitalize(), __base__=RECIPES.get(name, BaselineConfig), method=(method, ...))


class Conmim(BaselineConfig):
    """ConMIM's recipe, whose teacher needs a view of its own."""

    @model_validator(mode="after")
    def _teacher_has_a_view(self) -> Conmim:
        if self.pretrain.augment.teacher is None:
            raise ValueError("pretrain.augment.teacher is required: ConMIM's teacher sees another view")
        return self


#: The baselines whose recipes are checked beyond their keys.
RECIPES: dict[str, type[BaselineConfig]] = {"conmim": Conmim}
_KEYS: dict[str, Any] = {name: (_recipe(name, baseline.settings), ...) for name, baseline in BASELINES.items()}
Baselines: Any = create_model("Baselines", __base__=Model, **_KEYS)
