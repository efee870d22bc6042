"""UPerNet on ADE20K, as mmsegmentation builds it: the model, the two pipelines and the dataset of a job.

Source: MAEseg:configs/mae/upernet_mae_base_12_512_slide_160k_ade20k.py and configs/_base_/models/upernet.py;
BootMAE:Segmentation/configs/bootmae/BootMAE_Base_800_PT.py and BEiT's differ in the optimiser alone. Import this after
``mto.openmmlab.libraries.load_mmseg()``.
"""

from pathlib import Path
from typing import Any

import torch
from mmcv.transforms import RandomResize
from mmengine.config import ConfigDict
from mmengine.structures import PixelData
from mmseg.datasets import ADE20KDataset
from mmseg.datasets.transforms import (
    LoadAnnotations,
    PackSegInputs,
    PhotoMetricDistortion,
    RandomCrop,
    RandomFlip,
    Resize,
)
from mmseg.models import EncoderDecoder, FCNHead, SegDataPreProcessor, UPerHead
from mmseg.structures import SegDataSample
from torch import Tensor

from mto.config.job import Ade20kJob
from mto.errors import UserError
from mto.openmmlab.backbone import PlainViT
from mto.openmmlab.loading import PATIENT, LoadImage
from mto.openmmlab.upsampling import resize
from mto.training.contract import Trainable

CLASSES_AT_ONCE = 16


class Segmentor(EncoderDecoder, Trainable):
    """mmseg's segmentor, but its prediction keeps each pixel's class and no logits: at full size, gigabytes an image.

    Its classes are mmseg's to the last pixel. It serves samples that carry their original size, unpadded and unflipped,
    as this project's test pipeline makes them.
    """

    def postprocess_result(self, seg_logits: Tensor, data_samples: list[SegDataSample]) -> list[SegDataSample]:
        """Gives each sample ``pred_sem_seg``, (1, H, W) at its ``ori_shape``, from logits (B, classes, h, w)."""
        for logits, sample in zip(seg_logits, data_samples, strict=True):
            sample.pred_sem_seg = PixelData(data=largest(logits, sample.ori_shape)[None])
        return data_samples


def largest(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Returns each pixel's class of the largest logit, the first of equals, at ``size``: (classes, h, w) -> (H, W)."""

    def of_part(start: int) -> tuple[Tensor, Tensor]:
        part = logits[None, start : start + CLASSES_AT_ONCE]
        value, label = resize(part, size=size, mode="bilinear", align_corners=False)[0].max(dim=0)
        return value, label + start

    best, first = of_part(0)
    for start in range(CLASSES_AT_ONCE, len(logits), CLASSES_AT_ONCE):
        value, label = of_part(start)
        first = torch.where(value > best, label, first)
        best = torch.maximum(best, value)
    return first


def build_model(job: Ade20kJob, weights: dict[str, Tensor] | None) -> Segmentor:
    """Builds the segmentor of a job, on a pre-trained encoder's ``weights``."""
    head, dim, classes = job.head, job.encoder.embed_dim, job.data.num_classes
    shared = {
        "num_classes": classes,
        "norm_cfg": {"type": "BN"},  # the task turns it into SyncBN on several GPUs
        "dropout_ratio": head.dropout,
        "align_corners": False,
    }
    crop = (job.crop_size, job.crop_size)
    return Segmentor(
        data_preprocessor={
            "type": SegDataPreProcessor,
            "mean": [255 * m for m in job.data.mean],
            "std": [255 * s for s in job.data.std],
            "bgr_to_rgb": True,
            "size": crop,  # training crops of smaller images are padded; test images are not
        },
        backbone={
            "type": PlainViT,
            "encoder": job.encoder.written(),
            "weights": weights,
            "image_size": job.crop_size,
            "out_indices": job.out_indices,
            "init_values": job.layer_scale,
            "relative": "block",
            "norm": "batch",
        },
        decode_head={
            "type": UPerHead,
            "in_channels": [dim] * 4,
            "in_index": [0, 1, 2, 3],
            "pool_scales": head.pool_scales,
            "channels": head.channels,
            "loss_decode": {"type": "CrossEntropyLoss", "loss_weight": 1.0},
            **shared,
        },
        auxiliary_head={
            "type": FCNHead,
            "in_channels": dim,
            "in_index": 2,
            "channels": head.aux_channels,
            "num_convs": 1,
            "concat_input": False,
            "loss_decode": {"type": "CrossEntropyLoss", "loss_weight": head.aux_weight},
            **shared,
        },
        test_cfg=ConfigDict(mode="slide", crop_size=crop, stride=(job.slide_stride, job.slide_stride)),
    )


def build_dataset(job: Ade20kJob, split: str) -> ADE20KDataset:
    """Builds mmseg's own ADE20K dataset with a job's pipeline.

    Args:
        split: "training" or "validation".

    Raises:
        UserError: the folder holds no image.
    """
    root = Path(job.data.root)
    if next((root / "images" / split).glob("*.jpg"), None) is None:
        raise UserError(
            f"{root}/images/{split}: no .jpg image; set datasets.ade20k.root in config.yaml to ADE20K's folder"
        )
    return ADE20KDataset(
        data_root=str(root),
        data_prefix={"img_path": f"images/{split}", "seg_map_path": f"annotations/{split}"},
        metainfo={"classes": ADE20KDataset.METAINFO["classes"][: job.data.num_classes]},
        pipeline=_train_pipeline(job) if split == "training" else _test_pipeline(job),
        test_mode=split != "training",
    )


def _train_pipeline(job: Ade20kJob) -> list[dict[str, Any]]:
    crop = job.crop_size
    return [
        {"type": LoadImage},
        {"type": LoadAnnotations, "reduce_zero_label": True, "backend_args": PATIENT},
        {
            "type": RandomResize,
            "resize_type": Resize,
            "scale": tuple(job.resize),
            "ratio_range": tuple(job.resize_ratio),
            "keep_ratio": True,
        },
        {"type": RandomCrop, "crop_size": (crop, crop), "cat_max_ratio": 0.75},
        {"type": RandomFlip, "prob": job.hflip},
        {"type": PhotoMetricDistortion},
        {"type": PackSegInputs},
    ]


def _test_pipeline(job: Ade20kJob) -> list[dict[str, Any]]:
    return [
        {"type": LoadImage},
        {"type": Resize, "scale": tuple(job.resize), "keep_ratio": True},
        {"type": LoadAnnotations, "reduce_zero_label": True, "backend_args": PATIENT},
        {"type": PackSegInputs},
    ]
