"""The training steps of the study at their true shapes, on made-up images: what `mto.bench` and its tests run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import Tensor

from mto.data.rng import generator, seeded
from mto.study import Step, Study

Job = dict[str, Any]
BASELINES = ("simmim", "mae", "bootmae", "conmim")
#: name -> the task, and what the run's name adds to ``<baseline>-vitb``.
STAGES = {
    "pretrain": ("pretrain", ""),
    "pretrain-mto": ("pretrain", "-mto"),
    "finetune": ("finetune", "-mto"),
    "linear": ("linear", "-mto"),
    "ade20k": ("ade20k", "-mto"),
    "coco": ("coco", "-mto"),
}


@dataclass
class Workload:
    """A model, and a micro-batch for it as the loader would give it."""

    name: str
    job: Job
    model: BaseModel
    batch: Any
    images: int


def job_of(study: Study, stage: str, baseline: str, depth: int | None = None) -> Job:
    """The job of a stage, with fewer encoder blocks if asked; a decoder keeps its share of them."""
    task, suffix = STAGES[stage]
    job = study.job(
        Step(task, f"{baseline}-vitb{suffix}", study.config.seeds[0], study.config.study.measured_epochs[0])
    )
    sized = job["method"] if task == "pretrain" else job["encoder"]
    if depth is None or depth >= sized["depth"]:
        return job
    full, sized["depth"] = sized["depth"], depth
    if "decoder_depth" in sized:
        sized["decoder_depth"] = max(1, sized["decoder_depth"] * depth // full)
    if "probe" in job:
        layers = job["probe"]["layer"]
        job["probe"]["layer"] = [n for n in layers if n <= depth] if isinstance(layers, list) else min(layers, depth)
    for key in ("out_indices", "global_blocks"):
        if key in job:  # four of them, as evenly spread as they were
            job[key] = [min(depth - 1, index * depth // full) for index in job[key]]
    return job


def build(job: Job, images: int, *, name: str = "") -> Workload:
    """The model of a job with fresh weights, and a micro-batch of made-up images on the CPU."""
    with seeded(job["seed"], "init"):
        model, batch = _BUILDERS[job["task"]](job, images)
    return Workload(name or job["task"], job, model.train(), batch, images)


def _pictures(images: int, side: int) -> Tensor:
    return torch.randn(images, 3, side, side)


def _pretrain(job: Job, images: int) -> tuple[BaseModel, dict[str, Tensor]]:
    from mto.methods.build import build_method
    from mto.methods.masking import build_mask_sampler
    from mto.objectives import MaskedTokenOptimization
    from mto.training.mim import MaskedImageModel

    method = job["method"]
    sampler = build_mask_sampler(method["img_size"], method["patch_size"], **job["mask"])
    mask = torch.stack([sampler(generator(job["seed"], "mask", index)) for index in range(images)])
    counted = int(mask[0].sum()) if job["mask"]["sampler"] != "block" else None
    model = MaskedImageModel(build_method(job), MaskedTokenOptimization(**job["mto"]), counted)
    model.measure = False  # as in all steps but one of every log_interval
    model.progress = float(job["epochs"])
    model.epoch_inputs = model.method.epoch_inputs(job["epochs"] - 1, job["epochs"])
    batch = {"image": _pictures(images, method["img_size"]), "mask": mask}
    if "teacher" in job["data"]:
        batch["teacher_image"] = _pictures(images, method["img_size"])
    return model, batch


def _labelled(job: Job, images: int) -> dict[str, Tensor]:
    labels = torch.arange(images) % job["data"]["num_classes"]
    return {"image": _pictures(images, job["encoder"]["img_size"]), "label": labels}


def _finetune(job: Job, images: int) -> tuple[BaseModel, dict[str, Tensor]]:
    from mto.methods.encoder import build_classifier
    from mto.training.classifier import FineTuned

    data = job["data"]
    net = build_classifier(**job["encoder"], num_classes=data["num_classes"])
    model = FineTuned(
        net,
        num_classes=data["num_classes"],
        augment=data["augment"],
        ema_decay=job["ema_decay"],
        precision=job["precision"],
    )
    return model, _labelled(job, images)


def _linear(job: Job, images: int) -> tuple[BaseModel, dict[str, Tensor]]:
    from mto.methods.encoder import build_encoder
    from mto.training.classifier import LinearProbe

    probe = job["probe"]
    model = LinearProbe(
        build_encoder(**job["encoder"]),
        num_classes=job["data"]["num_classes"],
        feature=probe["feature"],
        layers=probe["layer"] if isinstance(probe["layer"], list) else [probe["layer"]],
        norm=probe["norm"],
        batch_norm=probe["batch_norm"],
        std=probe["head_std"],
        precision=job["precision"],
    )
    return model, _labelled(job, images)


def _ade20k(job: Job, images: int) -> tuple[BaseModel, dict[str, Any]]:
    from mto.openmmlab.libraries import load_mmseg, quiet

    load_mmseg()
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    from mto.openmmlab.upernet import build_model

    with quiet():
        model = build_model(job, None)
        model.init_weights()
    side = job["crop_size"]
    samples = []
    for _ in range(images):
        labels = torch.randint(job["data"]["num_classes"], (1, side, side))
        shape = {"img_shape": (side, side), "ori_shape": (side, side), "pad_shape": (side, side)}
        samples.append(SegDataSample(gt_sem_seg=PixelData(data=labels), metainfo=shape))
    return model, {"inputs": _bytes(images, side), "data_samples": samples}


def _coco(job: Job, images: int) -> tuple[BaseModel, dict[str, Any]]:
    from mto.openmmlab.libraries import load_mmdet, quiet

    load_mmdet()
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    from mto.openmmlab.maskrcnn import build_model

    with quiet():
        model = build_model(job, None)
        model.init_weights()
    side, objects = job["image_size"], 8
    samples = []
    for _ in range(images):
        corner = torch.rand(objects, 2) * side * 0.6
        boxes = torch.cat([corner, corner + side * (0.1 + 0.3 * torch.rand(objects, 2))], dim=1)
        masks = torch.zeros(objects, side, side, dtype=torch.uint8)
        for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
            mask[top:bottom, left:right] = 1
        instances = InstanceData(
            bboxes=boxes,
            labels=torch.randint(job["data"]["num_classes"], (objects,)),
            masks=BitmapMasks(masks.numpy(), side, side),
        )
        shape = {"img_shape": (side, side), "ori_shape": (side, side), "scale_factor": (1.0, 1.0)}
        samples.append(DetDataSample(gt_instances=instances, metainfo=shape))
    return model, {"inputs": _bytes(images, side), "data_samples": samples}


def _bytes(images: int, side: int) -> list[Tensor]:
    return [torch.randint(256, (3, side, side), dtype=torch.uint8) for _ in range(images)]


_BUILDERS = {"pretrain": _pretrain, "finetune": _finetune, "linear": _linear, "ade20k": _ade20k, "coco": _coco}
