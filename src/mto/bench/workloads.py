"""The training steps of the study at their true shapes, on made-up images: what the bench runs and the plan counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from mto.bench.cases import STAGES
from mto.config.job import (
    Ade20kJob,
    CocoJob,
    FinetuneJob,
    HeterogeneityJob,
    Job,
    KnnJob,
    LinearJob,
    LoggedJob,
    PretrainJob,
    read,
)
from mto.data.imagenet import collate
from mto.data.rng import generator, seeded
from mto.data.transforms import (
    Transform,
    eval_transform,
    finetune_train_transform,
    linear_train_transform,
    pretrain_transform,
)
from mto.names import Step
from mto.study.study import Study


@dataclass
class Workload:
    """A model, and a micro-batch for it as the loader would give it."""

    job: LoggedJob
    model: Any  # a `mto.training.contract.Trainable`
    batch: Any
    images: int


def job_of(study: Study, stage: str, baseline: str, depth: int | None = None) -> LoggedJob:
    """Returns the job of a stage of the bench, with fewer encoder blocks if asked (`shallower`)."""
    task, suffix = STAGES[stage]
    job: Any = study.job(
        Step(task, f"{baseline}-vitb{suffix}", study.config.seeds[0], study.config.study.measured_epochs[0])
    )
    sized = job.method if isinstance(job, PretrainJob) else job.encoder
    return job if depth is None or depth >= sized.depth else shallower(job, depth)


def shallower(job: LoggedJob, depth: int) -> LoggedJob:
    """Returns the job with fewer encoder blocks; a decoder keeps its share of them."""
    made = job.plain()
    sized = made["method"] if job.task == "pretrain" else made["encoder"]
    full, sized["depth"] = sized["depth"], depth
    if "decoder_depth" in sized:
        sized["decoder_depth"] = max(1, sized["decoder_depth"] * depth // full)
    if "probe" in made:
        layers = made["probe"]["layer"]
        made["probe"]["layer"] = [n for n in layers if n <= depth] if isinstance(layers, list) else min(layers, depth)
    for key in ("out_indices", "global_blocks"):
        if key in made:  # four of them, as evenly spread as they were
            made[key] = [min(depth - 1, index * depth // full) for index in made[key]]
    return cast(LoggedJob, read(made))


def build(job: LoggedJob, images: int) -> Workload:
    """Builds the model of a job with fresh weights, and a micro-batch of made-up images on the CPU."""
    with seeded(job.seed, "init"):
        model = model_of(job)
        if job.task in ("ade20k", "coco"):
            _initialise(model)
        return Workload(job, model.train(), batch_of(job, images), images)


# ------------------------------------------------------------------------------------------------------------- models
def model_of(job: Job) -> nn.Module:
    """Builds the very model that the job's task trains; a dense task's heads are still to be initialised."""
    return _MODELS[job.task](job)


def _pretrained(job: PretrainJob | HeterogeneityJob) -> nn.Module:
    from mto.tasks.pretrain import build_model

    model = build_model(job)
    model.measure = False  # as in all steps but one of every log_interval
    model.mto._validate = False  # a look at the first mask's values; these are our own, and a dry run has none
    if isinstance(job, PretrainJob):
        model.progress = float(job.epochs)
        model.epoch_inputs = model.method.epoch_inputs(job.epochs - 1, job.epochs)
    return model


def _finetuned(job: FinetuneJob) -> nn.Module:
    from mto.tasks.finetune import build_model

    return build_model(job, None)


def _probed(job: LinearJob) -> nn.Module:
    from mto.tasks.linear import build_model

    return build_model(job, None)


def _compared(job: KnnJob) -> Any:
    from mto.methods.encoder import build_encoder

    return build_encoder(**job.encoder.written())


def _upernet(job: Ade20kJob) -> nn.Module:
    from mto.openmmlab.libraries import load_mmseg

    load_mmseg()
    from mto.openmmlab.upernet import build_model

    return _dense(build_model, job)


def _maskrcnn(job: CocoJob) -> nn.Module:
    from mto.openmmlab.libraries import load_mmdet

    load_mmdet()
    from mto.openmmlab.maskrcnn import build_model

    return _dense(build_model, job)


def _dense(build_model: Any, job: Job) -> nn.Module:
    from mto.openmmlab.libraries import quiet

    with quiet():
        return build_model(job, None)


def _initialise(model: Any) -> None:
    from mto.openmmlab.libraries import quiet

    with quiet():
        model.init_weights()


_MODELS: dict[str, Callable[[Any], Any]] = {
    "pretrain": _pretrained,
    "heterogeneity": _pretrained,
    "finetune": _finetuned,
    "linear": _probed,
    "knn": _compared,
    "ade20k": _upernet,
    "coco": _maskrcnn,
}


# ------------------------------------------------------------------------------------------------------------ batches
def batch_of(job: Job, images: int) -> dict[str, Any]:
    """Makes a micro-batch as the loader of the job's task would give it, on the CPU."""
    if job.task in _VIEWS:
        made_up = np.random.randint(256, size=(images, *2 * [job.img_size], 3), dtype=np.uint8)  # noqa: NPY002
        view = _VIEWS[job.task](job.reading(decode="workers"))  # there is no file to decode
        batch = collate([view(image) for image in made_up])
        if isinstance(job, PretrainJob | HeterogeneityJob):
            return batch | {"mask": _masks(job, images)}
        return batch | {"label": torch.arange(images) % job.data.num_classes}
    return _segmented(job, images) if isinstance(job, Ade20kJob) else _detected(cast(CocoJob, job), images)


_VIEWS: dict[str, Callable[[Any], Transform]] = {
    "pretrain": pretrain_transform,
    "heterogeneity": eval_transform,
    "finetune": finetune_train_transform,
    "linear": linear_train_transform,
    "knn": eval_transform,
}


def _masks(job: PretrainJob | HeterogeneityJob, images: int) -> Tensor:
    from mto.methods.masking import build_mask_sampler

    sampler = build_mask_sampler(job.method.img_size, job.method.patch_size, **job.mask.written())
    return torch.stack([sampler(generator(job.seed, "mask", index)) for index in range(images)])


def _segmented(job: Ade20kJob, images: int) -> dict[str, Any]:
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    side = job.crop_size
    samples = []
    for _ in range(images):
        labels = torch.randint(job.data.num_classes, (1, side, side))
        shape = {"img_shape": (side, side), "ori_shape": (side, side), "pad_shape": (side, side)}
        samples.append(SegDataSample(gt_sem_seg=PixelData(data=labels), metainfo=shape))
    return {"inputs": _bytes(images, side), "data_samples": samples}


def _detected(job: CocoJob, images: int) -> dict[str, Any]:
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    side, objects = job.image_size, 8
    samples = []
    for _ in range(images):
        corner = torch.rand(objects, 2) * side * 0.6
        boxes = torch.cat([corner, corner + side * (0.1 + 0.3 * torch.rand(objects, 2))], dim=1)
        masks = torch.zeros(objects, side, side, dtype=torch.uint8)
        for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
            mask[top:bottom, left:right] = 1
        instances = InstanceData(
            bboxes=boxes,
            labels=torch.randint(job.data.num_classes, (objects,)),
            masks=BitmapMasks(masks.numpy(), side, side),
        )
        shape = {"img_shape": (side, side), "ori_shape": (side, side), "scale_factor": (1.0, 1.0)}
        samples.append(DetDataSample(gt_instances=instances, metainfo=shape))
    return {"inputs": _bytes(images, side), "data_samples": samples}


def _bytes(images: int, side: int) -> list[Tensor]:
    return [torch.randint(256, (3, side, side), dtype=torch.uint8) for _ in range(images)]
