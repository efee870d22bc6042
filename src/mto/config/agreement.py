"""What the blocks of config.yaml must agree on, which no block alone can know: each disagreement, and where it is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from pydantic import ValidationError

from mto.config.models import Config, Resources
from mto.config.recipe import BaselineConfig, Mask
from mto.names import BASELINES, TRAINED

#: COCO's training images, where none are made.
COCO_IMAGES = 118_287
#: ImageNet-1K's training images, of each of its classes.
IMAGES_PER_CLASS = 1281


class Disagreement(NamedTuple):
    """Where a value stands, as a path from the top, the value as it is shown (if it is), and what is wrong."""

    place: tuple[Any, ...]
    value: str
    message: str


def disagreements(config: Config) -> Iterator[Disagreement]:
    """Yields each disagreement between the blocks; only one where img_size is no multiple of patch_size."""

    def wrong(place: str, value: Any, message: str) -> Disagreement:
        return Disagreement(tuple(place.split(".")), "" if value is None else f" {value}", message)

    size, patch = config.img_size, config.patch_size
    if size % patch:
        yield wrong("img_size", size, f"must be a multiple of patch_size {patch}")
        return  # nothing about patches can be said
    look = config.evaluation
    if look.crop != size:
        yield wrong("evaluation.crop", look.crop, f"must be img_size, {size}: the networks take no other")
    cache = config.datasets.imagenet.cache
    if cache is not None and cache.side < size:
        yield wrong(
            "datasets.imagenet.cache.side", cache.side, f"must be at least img_size, {size}: images only shrink"
        )
    if look.resize < look.crop:
        yield wrong("evaluation.resize", look.resize, f"must be at least evaluation.crop, {look.crop}")
    yield from _warm_starts(config)
    for name, baseline in config.baselines:
        place = f"baselines.{name}"
        for backbone in baseline.backbones:
            if backbone not in config.backbones:
                yield wrong(f"{place}.backbones.{backbone}", None, f"backbones has no {backbone}")
                continue
            try:
                recipe = config.of(name, backbone)
            except ValidationError as error:
                for problem in error.errors():
                    message = "unknown key" if problem["type"] == "extra_forbidden" else problem["msg"]
                    where = (*place.split("."), "backbones", backbone, *problem["loc"])
                    yield Disagreement(where, "", f"{message} (the keys are those of {place})")
                continue
            for key, value, message in _recipe(config, name, recipe, backbone):
                yield wrong(key if key.startswith("mto.") else f"{place}.{key}", value, message)


def _warm_starts(config: Config) -> Iterator[Disagreement]:
    """Yields the epochs at which MTO is to be switched on and no segment ends."""
    starts = {"mto.starts_at": config.mto.starts_at}
    starts |= {f"mto.presets.{name}.starts_at": preset.starts_at or 0 for name, preset in config.mto.presets.items()}
    ends = config.study.measured_epochs[:-1]
    for place, epoch in starts.items():
        if epoch and epoch not in ends:
            known = ", ".join(map(str, ends))
            message = f"must be 0 or one of study.measured_epochs before the last ({known}), where a segment ends"
            yield Disagreement(tuple(place.split(".")), f" {epoch}", message)


Found = Iterator[tuple[str, Any, str]]


def _recipe(config: Config, name: str, recipe: BaselineConfig, backbone: str) -> Found:
    """Yields the disagreements of one baseline with one backbone: key, value, message."""
    depth = config.backbones[backbone].depth  # type: ignore[index]
    yield from _mask(name, recipe.mask, config.img_size, config.patch_size)
    yield from _layers(config, recipe, backbone, depth)
    layers = getattr(recipe.method, "decoder_depth", None) or depth  # type: ignore[attr-defined]
    for preset_name, preset in config.mto.presets.items():
        looked_at = preset.sparsity_layers
        if looked_at != "all" and any(not -layers <= layer <= layers for layer in looked_at):
            yield f"mto.presets.{preset_name}.sparsity_layers", looked_at, f"{name} has layers 0 to {layers}"
    yield from _lengths(config, recipe)
    yield from _labels(config, recipe)
    for stage in TRAINED:
        yield from _batch(stage, getattr(recipe, stage), getattr(config.resources, stage))


def _mask(name: str, mask: Mask, img_size: int, patch_size: int) -> Found:
    """Yields masks that the patch grid does not hold, that show or hide too little, or that the method cannot take."""
    side = img_size // patch_size
    patches = side * side
    if mask.sampler == "cells":
        cell = mask.cell_size
        if cell is None or cell % patch_size or img_size % cell:
            message = f"must be a multiple of patch_size {patch_size} and divide img_size {img_size}"
            yield "mask.cell_size", cell if cell else "null", message
            return
        cells = (img_size // cell) ** 2
        masked = math.ceil(cells * mask.ratio) * (cell // patch_size) ** 2
    else:
        masked = patches - int(patches * (1 - mask.ratio))
    if mask.sampler == "block" and BASELINES[name].masked_in == "decoder":
        yield (
            "mask.sampler",
            "block",
            f"masks a varying number of patches, but {name} drops a fixed one: use block_random",
        )
    if mask.sampler in ("block", "block_random"):
        yield from _blocks(mask, side, masked)
    if masked < 1 or patches - masked < 2:
        yield (
            "mask.ratio",
            mask.ratio,
            f"leaves {patches - masked} of {patches} patches visible: at least 2, and 1 masked",
        )


def _blocks(mask: Mask, side: int, masked: int) -> Found:
    """Yields blocks that `mto.methods.masking` would refuse, with its own proportions for what is not given."""
    patches = side * side

    def in_proportion(official: int) -> int:
        return max(1, round(official * patches / 196))

    whole = mask.block_patches or (max(int(mask.ratio * patches), 1) if mask.sampler == "block" else in_proportion(120))
    least = mask.min_block or min(whole, in_proportion(16))
    most = mask.max_block or (whole if mask.sampler == "block" else in_proportion(60))
    if least > most:
        yield "mask.min_block", least, f"must not be above max_block, {most}"
    if least > (side - 1) ** 2:
        yield "mask.min_block", least, f"must be at most {(side - 1) ** 2} on a grid of {side}×{side} patches"
    if whole >= patches:
        yield "mask.block_patches", whole, f"must leave a patch of the {patches} visible"
    elif mask.sampler == "block_random" and whole > masked:
        yield "mask.block_patches", whole, f"is more than ratio {mask.ratio} masks in all, {masked}"


def _layers(config: Config, recipe: BaselineConfig, backbone: str, depth: int) -> Found:
    """Yields layers and blocks that the backbone lacks; of the transfers only where the study has their table."""
    layer = recipe.linear.probe.layer
    if isinstance(layer, int) and layer > depth:
        yield "linear.probe.layer", layer, f"is above {backbone}'s depth {depth}"
    blocks: dict[str, list[int]] = {}
    if config.study.tableS1_ade20k:
        blocks |= {"ade20k.out_indices": recipe.ade20k.out_indices}
    if config.study.tableS2_coco:
        blocks |= {"coco.out_indices": recipe.coco.out_indices, "coco.global_blocks": recipe.coco.global_blocks}
    for key, indices in blocks.items():
        if max(indices, default=0) >= depth:
            yield key, indices, f"{backbone} has blocks 0 to {depth - 1} (backbones.{backbone}.depth)"


def _lengths(config: Config, recipe: BaselineConfig) -> Found:
    """Yields schedules that end before they have begun, or before they are measured."""
    total = recipe.pretrain.schedule.total_epochs
    last = config.study.measured_epochs[-1]
    if total is not None and total < last:
        yield "pretrain.schedule.total_epochs", total, f"ends before epoch {last}, which study.measured_epochs asks for"
    lengths = {
        "pretrain": total or config.study.pretrain_epochs,
        "finetune": recipe.finetune.epochs,
        "linear": recipe.linear.epochs,
    }
    for stage, epochs in lengths.items():
        schedule, peak = getattr(recipe, stage).schedule, _peak(getattr(recipe, stage))
        if schedule.min_lr > peak:
            yield f"{stage}.schedule.min_lr", schedule.min_lr, f"is above the peak rate, {peak}"
        if stage != "pretrain" and schedule.total_epochs is not None:
            yield f"{stage}.schedule.total_epochs", schedule.total_epochs, f"is pretrain's alone: set {stage}.epochs"
        if schedule.warmup_epochs >= epochs:
            yield f"{stage}.schedule", None, f"warmup_epochs {schedule.warmup_epochs} of only {epochs} epochs"
        if schedule.kind == "multistep" and schedule.milestones[-1] >= epochs:
            yield f"{stage}.schedule.milestones", schedule.milestones, f"must lie before the last of {epochs} epochs"
    made = config.datasets.coco.make
    images = made.train if made else COCO_IMAGES
    iterations = {
        "ade20k": recipe.ade20k.iterations,
        "coco": recipe.coco.epochs * (images // recipe.coco.batch_size),
    }
    for stage, length in iterations.items():
        warmup = getattr(recipe, stage).schedule.warmup_iterations
        if warmup >= length:
            yield f"{stage}.schedule", None, f"warmup_iterations {warmup} of only {length} iterations"


def _labels(config: Config, recipe: BaselineConfig) -> Found:
    """Yields shares of labels that do not fill one batch; without made images, by ImageNet's number for each class."""
    source = config.datasets.imagenet
    images = source.make.train if source.make else source.num_classes * IMAGES_PER_CLASS
    for stage, asked in (("finetune", recipe.finetune), ("linear", recipe.linear)):
        left = max(round(asked.labels * images), source.num_classes)
        if asked.labels < 1 and left < asked.batch_size:
            message = f"leaves {left} of {images} training images, which do not fill {stage}.batch_size"
            yield f"{stage}.labels", asked.labels, f"{message} {asked.batch_size}"


def _peak(stage: Any) -> float:
    return stage.lr.peak(stage.batch_size)


def _batch(stage: str, recipe: Any, resources: Resources) -> Found:
    """Yields batches that gpu · micro_batch does not divide, with the nearest that it does; or too small passes."""
    batch_size, gpus = recipe.batch_size, max(resources.gpu, 1)
    share = max(batch_size // gpus, 1)
    micro = min(resources.micro_batch or share, share)
    place = f"{stage}.batch_size"
    given = f"gpu {resources.gpu} × micro_batch {resources.micro_batch} (resources.{stage})"
    if stage == "ade20k" and gpus * micro == 1:
        message = "UPerNet's batch norms see one image a pass: gpu × micro_batch (resources.ade20k) must be 2 or more"
        yield place, batch_size, message
    if stage == "linear" and recipe.probe.batch_norm and micro == 1:
        yield place, batch_size, f"is one image a pass with {given}: the probe's batch norm needs 2 or more"
    if stage == "finetune" and (recipe.augment.mixup or recipe.augment.cutmix) and micro % 2:
        yield place, batch_size, f"is {micro} images a pass with {given}: mixup takes them in pairs, an even number"
    if resources.micro_batch is None:
        return
    unit = gpus * micro
    if batch_size % unit:
        below = max(batch_size // unit, 1) * unit
        message = f"cannot be made of {given}; the nearest that can: {below} or {below + unit}"
        yield place, batch_size, message
