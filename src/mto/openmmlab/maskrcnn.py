"""Mask R-CNN on COCO, as mmdetection builds it: the model, the two pipelines and the dataset of a job.

The recipe is MIMDet's "Benchmarking" one for plain ViTs (MIMDet:configs/benchmarking/, models/benchmarking.py):
attention in windows but for every third block, FPN with norm, RPN of 2 convolutions, box head of 4 convolutions and a
layer, large-scale jitter at 1024, all as detectron2 runs it. Import this after
``mto.openmmlab.libraries.load_mmdet()``.
"""

from pathlib import Path
from typing import Any

from mmcv.transforms import RandomResize
from mmdet.datasets import CocoDataset
from mmdet.datasets.transforms import (
    FilterAnnotations,
    PackDetInputs,
    Pad,
    RandomCrop,
    RandomFlip,
    Resize,
)
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.models.dense_heads import RPNHead
from mmdet.models.detectors import MaskRCNN
from mmdet.models.necks import FPN
from mmdet.models.roi_heads import ConvFCBBoxHead, FCNMaskHead, SingleRoIExtractor, StandardRoIHead
from mmengine.config import ConfigDict
from torch import Tensor, nn

from mto.config.job import CocoJob
from mto.config.parts import Detector as Sizes
from mto.data import coco
from mto.errors import UserError
from mto.openmmlab.annotations import Annotations, LoadMasks
from mto.openmmlab.backbone import PlainViT
from mto.openmmlab.loading import LoadImage
from mto.training.contract import Trainable

NORM = {"type": "BN"}  # the task turns it into SyncBN on several GPUs
GREY = {"img": 128}  # detectron2's padding, before normalisation


class PreciseRoIExtractor(SingleRoIExtractor):
    """mmdet's extractor, on float32 features.

    It casts boxes to the features' type, and bfloat16 has 8 bits for a coordinate of up to 1024.
    """

    def forward(self, feats: tuple[Tensor, ...], rois: Tensor, roi_scale_factor: float | None = None) -> Tensor:
        return super().forward(tuple(feature.float() for feature in feats), rois, roi_scale_factor)


class MaskHead(FCNMaskHead):
    """mmdet's mask head with detectron2's first logits, near zero (detectron2:modeling/roi_heads/mask_head.py:261)."""

    def init_weights(self) -> None:
        super().init_weights()
        nn.init.normal_(self.conv_logits.weight, std=0.001)


class TestPad(Pad):
    """Pads, but boxes are still clipped to the image, as detectron2's post-processing does."""

    def _pad_img(self, results: dict[str, Any]) -> None:
        shape = results["img_shape"]
        super()._pad_img(results)
        results["img_shape"] = shape


class Detector(MaskRCNN, Trainable):
    """mmdet's Mask R-CNN, as the training loop wants it."""


def build_model(job: CocoJob, weights: dict[str, Tensor] | None) -> Detector:
    """Builds the detector of a job, on a pre-trained encoder's ``weights``."""
    detector, patch = job.detector, job.encoder.patch_size
    channels = detector.channels
    strides = [patch * scale for scale in (0.25, 0.5, 1, 2, 4)]
    if any(stride < 1 for stride in strides):
        raise UserError(f"coco: patch_size {patch} has no level at a quarter of a patch; use at least 4")
    return Detector(
        data_preprocessor={
            "type": DetDataPreprocessor,
            "mean": [255 * m for m in job.data.mean],
            "std": [255 * s for s in job.data.std],
            "bgr_to_rgb": True,
        },
        backbone={
            "type": PlainViT,
            "encoder": job.encoder.written(),
            "weights": weights,
            "image_size": job.image_size,
            "out_indices": job.out_indices,
            "init_values": job.layer_scale,
            "relative": "shared",
            "position": job.position,
            "class_token": False,
            "window_size": job.window_size,
            "global_blocks": job.global_blocks,
            "norm": "group",
        },
        neck={
            "type": FPN,
            "in_channels": [job.encoder.embed_dim] * 4,
            "out_channels": channels,
            "num_outs": 5,
            "norm_cfg": NORM,
            "init_cfg": {"type": "Caffe2Xavier", "layer": "Conv2d"},  # detectron2:modeling/backbone/fpn.py:81
        },
        rpn_head={
            "type": RPNHead,
            "in_channels": channels,
            "feat_channels": channels,
            "num_convs": detector.rpn_convs,
            "anchor_generator": {
                "type": "AnchorGenerator",
                "scales": [detector.anchor_scale],
                "ratios": [0.5, 1.0, 2.0],
                "strides": [int(stride) for stride in strides],
            },
            "bbox_coder": _box_coder([1.0, 1.0, 1.0, 1.0]),
            "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": True, "loss_weight": 1.0},
            "loss_bbox": {"type": "L1Loss", "loss_weight": 1.0},
        },
        roi_head=_roi_head(job, [int(stride) for stride in strides[:4]]),
        train_cfg=ConfigDict(_train_cfg(detector)),
        test_cfg=ConfigDict(
            {
                "rpn": _proposals(detector.proposals_before_nms_test, detector.proposals_test),
                "rcnn": {
                    "score_thr": 0.05,
                    "nms": {"type": "nms", "iou_threshold": 0.5},
                    "max_per_img": 100,
                    "mask_thr_binary": 0.5,
                },
            }
        ),
    )


def _roi_head(job: CocoJob, strides: list[int]) -> dict[str, Any]:
    detector, classes = job.detector, job.data.num_classes
    channels = detector.channels

    def extractor(size: int) -> dict[str, Any]:
        return {
            "type": PreciseRoIExtractor,
            "roi_layer": {"type": "RoIAlign", "output_size": size, "sampling_ratio": detector.roi_sampling_ratio},
            "out_channels": channels,
            "featmap_strides": strides,
            # RoIs up to 2 * this on a side use the finest level: 56 at stride 4 in FPN
            "finest_scale": 14 * strides[0],
        }

    return {
        "type": StandardRoIHead,
        "bbox_roi_extractor": extractor(7),
        "bbox_head": {
            "type": ConvFCBBoxHead,
            "num_shared_convs": detector.box_convs,
            "num_shared_fcs": 1,
            "in_channels": channels,
            "conv_out_channels": channels,
            "fc_out_channels": detector.fc_channels,
            "roi_feat_size": 7,
            "num_classes": classes,
            "norm_cfg": NORM,
            "bbox_coder": _box_coder([0.1, 0.1, 0.2, 0.2]),
            "reg_class_agnostic": False,
            # detectron2:modeling/roi_heads/box_head.py:79, fast_rcnn.py:219
            "init_cfg": [
                {"type": "Normal", "std": 0.01, "override": {"name": "fc_cls"}},
                {"type": "Normal", "std": 0.001, "override": {"name": "fc_reg"}},
                {"type": "Caffe2Xavier", "override": {"name": "shared_fcs"}},
            ],
            "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": False, "loss_weight": 1.0},
            "loss_bbox": {"type": "L1Loss", "loss_weight": 1.0},
        },
        "mask_roi_extractor": extractor(14),
        "mask_head": {
            "type": MaskHead,
            "norm_cfg": NORM,
            "num_convs": detector.mask_convs,
            "in_channels": channels,
            "conv_out_channels": channels,
            "num_classes": classes,
            "loss_mask": {"type": "CrossEntropyLoss", "use_mask": True, "loss_weight": 1.0},
        },
    }


def _train_cfg(detector: Sizes) -> dict[str, Any]:
    """Returns detectron2's values; the numbers of samples and proposals are the job's."""

    def assigner(positive: float, negative: float, low_quality: bool) -> dict[str, Any]:
        # With low quality allowed, a box gets its best anchor however little they overlap: small ones have no other.
        least = 1e-6 if low_quality else negative
        thresholds = {"pos_iou_thr": positive, "neg_iou_thr": negative, "min_pos_iou": least}
        return {"type": "MaxIoUAssigner", **thresholds, "match_low_quality": low_quality, "ignore_iof_thr": -1}

    def sampler(number: int, positive: float, with_truth: bool) -> dict[str, Any]:
        return {
            "type": "RandomSampler",
            "num": number,
            "pos_fraction": positive,
            "neg_pos_ub": -1,
            "add_gt_as_proposals": with_truth,
        }

    return {
        "rpn": {
            "assigner": assigner(0.7, 0.3, True),
            "sampler": sampler(detector.rpn_samples, 0.5, False),
            "allowed_border": -1,
            "pos_weight": -1,
            "debug": False,
        },
        "rpn_proposal": _proposals(detector.proposals_before_nms_train, detector.proposals_train),
        "rcnn": {
            "assigner": assigner(0.5, 0.5, False),
            "sampler": sampler(detector.roi_samples, 0.25, True),
            "mask_size": 28,
            "pos_weight": -1,
            "debug": False,
        },
    }


def _proposals(before: int, after: int) -> dict[str, Any]:
    """Returns the settings of proposals: their number a level before non-maximum suppression, and an image after it."""
    return {"nms_pre": before, "max_per_img": after, "nms": {"type": "nms", "iou_threshold": 0.7}, "min_bbox_size": 0}


def _box_coder(stds: list[float]) -> dict[str, Any]:
    return {"type": "DeltaXYWHBBoxCoder", "target_means": [0.0] * 4, "target_stds": stds}


def annotation_file(job: CocoJob, split: str) -> Path:
    """Returns the path of the annotations of a split, "train2017" or "val2017"."""
    return Path(job.data.root) / "annotations" / f"instances_{split}.json"


class Dataset(CocoDataset):
    """mmdet's COCO dataset, on annotations that were completed and checked."""

    COCOAPI = Annotations


def build_dataset(job: CocoJob, split: str) -> Dataset:
    """Builds mmdet's COCO dataset with a job's pipeline; a label is a category's place in the order of their ids.

    Args:
        split: "train2017" or "val2017".

    Raises:
        UserError: the annotations name another number of classes than the job, or other classes than the validation's;
            or training or evaluation would fail on them (`mto.data.coco`).
    """
    path = annotation_file(job, "val2017")  # the small one: 20 MB against 450
    categories = coco.read(path)["categories"]  # in the order of their ids
    if len(categories) != job.data.num_classes:
        raise UserError(
            f"{path}: {len(categories)} categories, but datasets.coco.num_classes is {job.data.num_classes}"
        )
    train = split == "train2017"
    dataset = Dataset(
        data_root=job.data.root,
        ann_file=f"annotations/instances_{split}.json",
        data_prefix={"img": f"{split}/"},
        metainfo={"classes": tuple(category["name"] for category in categories)},
        filter_cfg={"filter_empty_gt": True} if train else None,
        pipeline=_train_pipeline(job) if train else _test_pipeline(job),
        test_mode=not train,
    )
    if dataset.cat_ids != [category["id"] for category in categories]:
        raise UserError(f"{path.parent}: train2017 and val2017 have different categories")
    return dataset


def _train_pipeline(job: CocoJob) -> list[dict[str, Any]]:
    """Builds large-scale jitter: resize by ``resize_ratio``, crop and pad to the image size, flip the whole square.

    Boxes are those of the polygons, which bitmaps would round to pixels. Pillow averages when it shrinks an image,
    where OpenCV aliases.
    """
    size = (job.image_size, job.image_size)
    return [
        {"type": LoadImage},
        {"type": LoadMasks, "with_bbox": True, "with_mask": True, "poly2mask": False},
        {
            "type": RandomResize,
            "resize_type": Resize,
            "scale": size,
            "ratio_range": tuple(job.resize_ratio),
            "keep_ratio": True,
            "backend": "pillow",
        },
        {
            "type": RandomCrop,
            "crop_type": "absolute",
            "crop_size": size,
            "recompute_bbox": True,
            "allow_negative_crop": True,
        },
        {"type": Pad, "size": size, "pad_val": GREY},
        {"type": FilterAnnotations, "min_gt_bbox_wh": (1e-2, 1e-2)},
        {"type": RandomFlip, "prob": job.hflip},
        {"type": PackDetInputs},
    ]


def _test_pipeline(job: CocoJob) -> list[dict[str, Any]]:
    size = (job.image_size, job.image_size)
    return [
        {"type": LoadImage},
        {"type": Resize, "scale": size, "keep_ratio": True, "backend": "pillow"},
        {"type": TestPad, "size": size, "pad_val": GREY},
        {"type": PackDetInputs, "meta_keys": ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")},
    ]
