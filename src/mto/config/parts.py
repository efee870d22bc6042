"""What is the same in a job as in the settings, declared once: parts of jobs, of which `settings` makes models."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Len, Lt, MinLen

from mto.config.fields import Areas, Count, NonNegative, Positive, Seed, Unit, rising
from mto.config.typed import Checked, Part
from mto.losses.switches import LAYERS, POSITIVE, WEIGHT, Switch

#: The hints of switches' values; of another kind it is the kind itself.
_KINDS: dict[Any, Any] = {
    POSITIVE: Positive,
    WEIGHT: NonNegative,
    LAYERS: Annotated[list[int], MinLen(1)] | Literal["all"],
}


def hint(switch: Switch) -> Any:
    """Returns what a switch of MTO may be set to."""
    return _KINDS.get(switch.kind, switch.kind)


class Backbone(Part):
    """A vision transformer's size, in timm's names."""

    embed_dim: Count
    depth: Count
    num_heads: Count
    mlp_ratio: Positive

    def check(self) -> None:
        if self.embed_dim % self.num_heads or self.embed_dim % 4:
            raise ValueError(f"embed_dim {self.embed_dim} must be a multiple of num_heads {self.num_heads} and of 4")


class Schedule(Part):
    """The learning rate over training, in epochs of the stage (iterations for ADE20K and COCO's warm-up)."""

    kind: Literal["cosine", "multistep", "poly"]
    warmup_epochs: NonNegative = 0
    warmup_lr: NonNegative = 0
    min_lr: NonNegative = 0
    milestones: Annotated[list[NonNegative], Checked(rising)] = []  # noqa: RUF012 (frozen)
    gamma: Positive = 0.1
    warmup_prefix: bool = True
    warmup_inclusive: bool = False
    scale_min_lr: bool = False
    total_epochs: Count | None = None
    by_epoch: bool = False

    def check(self) -> None:
        if self.kind == "multistep" and not self.milestones:
            raise ValueError("kind multistep needs milestones: without one the rate never falls")


class Mask(Part):
    """How masks are drawn; see mto.methods.masking."""

    sampler: Literal["random", "cells", "block", "block_random"]
    ratio: Annotated[float, Gt(0), Lt(1)]
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


class TeacherView(Part):
    """ConMIM's colour change of the teacher's view (ConMIM:datasets.py:22-54)."""

    jitter: Annotated[list[NonNegative], Len(4, 4)]
    jitter_prob: Unit
    gray_prob: Unit
    blur_prob: Unit
    solarize_prob: Unit


class Augment(Part):
    """Random resized crop and horizontal flip."""

    crop_scale: Areas
    interpolation: Literal["bilinear", "bicubic"]
    hflip: Unit


class FinetuneAugment(Augment):
    """Fine-tuning's: colours, erasing, mixing and smoothed labels beside the crop and the flip."""

    color_jitter: NonNegative | None
    rand_augment: Annotated[str, Checked(rand_augment)] | None
    reprob: Unit
    mixup: NonNegative
    cutmix: NonNegative
    mixup_prob: Unit
    mixup_switch_prob: Unit
    smoothing: Unit


class TransferSchedule(Part):
    """Learning rate of the dense tasks, per iteration."""

    kind: Literal["poly", "cosine"]
    warmup_iterations: Annotated[int, Ge(0)]
    warmup_ratio: Unit
    min_lr: NonNegative
    power: Positive = 1.0


class UperHead(Part):
    """UPerNet's decode head and its auxiliary FCN."""

    channels: Count
    pool_scales: list[Count]
    dropout: Unit
    aux_channels: Count
    aux_weight: NonNegative


class Detector(Part):
    """Mask R-CNN's sizes and sampling."""

    channels: Count
    fc_channels: Count
    rpn_convs: Count
    box_convs: Count
    mask_convs: Count
    anchor_scale: Count
    roi_sampling_ratio: Annotated[int, Ge(0)]
    rpn_samples: Count
    roi_samples: Count
    proposals_before_nms_train: Count
    proposals_train: Count
    proposals_before_nms_test: Count
    proposals_test: Count


class Balance(Part):
    """How a preset's weights are measured where they are shares: the arguments of `mto.losses.balance.Balance`."""

    interval: Count
    dense: Annotated[int, Ge(0)]
    images: Count
    memory: Annotated[float, Ge(0), Lt(1)]
    largest: Positive


class Neighbours(Part):
    """The vote of the nearest training images; see mto.tasks.knn. DINO:eval_knn.py:31-35 has these values."""

    neighbours: Count = 20
    temperature: Positive = 0.07


class Make(Part):
    """A small dataset that is made: of scikit-learn's digits, or of Fashion-MNIST's four files.

    `files` is the folder that holds those, as torchvision or Debian's dataset-fashion-mnist leave them.
    """

    of: Literal["digits", "fashion_mnist"]
    files: str | None = None
    size: Count
    train: Count
    val: Count
    seed: Seed = 0


class Cache(Part):
    """Training images as bytes, shrunk to `side` pixels at their shorter side; `folder`: null, beside the manifest."""

    side: Annotated[int, Ge(8)]
    folder: Annotated[str, MinLen(1)] | None = None


class Evaluation(Part):
    """Shorter side resized, then a centre crop."""

    resize: Count
    crop: Count
    interpolation: Literal["bilinear", "bicubic"]


class Variant(Part):
    """An affinity for Eq. 2: four of the switches of `mto`."""

    position: Literal["pre", "post"]
    affinity: Literal["dot", "scaled", "cosine"]
    tokens: Literal["raw", "layernorm", "l2"]
    temperature: Positive | None = None
