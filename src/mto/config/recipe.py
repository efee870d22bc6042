"""The block `baselines` of config.yaml: the recipe of every baseline and stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, create_model, model_validator

from mto.config import fields, parts
from mto.config.fields import Count, Labels, NonNegative, Positive, Range, Share, Taps, Unit
from mto.config.model import Model, settings
from mto.names import BASELINES

Backbone: Any = settings(parts.Backbone)
Schedule: Any = settings(parts.Schedule)
Mask: Any = settings(parts.Mask)
TransferSchedule: Any = settings(parts.TransferSchedule)
UperHead: Any = settings(parts.UperHead)
Detector: Any = settings(parts.Detector)
FinetuneAugment: Any = settings(parts.FinetuneAugment)
TeacherView: Any = settings(parts.TeacherView)
_Augment: Any = settings(parts.Augment)


class LearningRate(Model):
    """Peak = base · batch_size / per; `per: null` means that `base` is the peak."""

    base: Positive
    per: Count | None

    def peak(self, batch_size: int) -> float:
        """Returns the learning rate handed to the optimiser."""
        return self.base * batch_size / self.per if self.per else self.base


class Pixels(Model):
    """Per-channel normalisation of RGB in [0, 1]."""

    mean: Annotated[list[Unit], Field(min_length=3, max_length=3)]
    std: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=3, max_length=3)]


#: The parameters that weight decay would reach, but for weights: named whole, or by their last part.
Spared = Literal["cls_token", "mask_token", "pos_embed", "relative_position_bias_table"]


class PretrainAugment(_Augment):  # type: ignore[misc]
    teacher: TeacherView | None = None


class LinearAugment(_Augment):  # type: ignore[misc]
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
