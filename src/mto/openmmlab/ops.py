"""The bridge from mmcv's compiled operators to torchvision's prebuilt ones.

UPerNet and Mask R-CNN need two of mmcv's compiled operators, ``nms`` and ``roi_align``. Compiling mmcv is the field's
worst install, and torchvision ships both for CPU and CUDA. When ``mmcv._ext`` is absent, :func:`install` puts a module
of that name in its place, whose ``nms`` and ``roi_align`` call torchvision and whose every other operator exists (mmcv
asserts at import that it does) but raises when called. A compiled mmcv is left alone.
"""

import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Callable
from typing import NoReturn

import torch
from torch import Tensor


def install() -> bool:
    """Supplies ``mmcv._ext`` if mmcv has no compiled one. Call before importing anything of mmcv, mmdet or mmseg.

    Returns:
        True if the bridge stands in, False if mmcv's own compiled operators are used.
    """
    current = sys.modules.get("mmcv._ext")
    if current is not None:
        return isinstance(current, _Bridge)
    if importlib.util.find_spec("mmcv._ext") is not None:
        return False
    import torchvision  # noqa: F401  (registers torch.ops.torchvision)

    sys.modules["mmcv._ext"] = _Bridge("mmcv._ext")
    return True


class _Bridge(types.ModuleType):
    """Stands in for mmcv's extension module, under mmcv's own calling conventions."""

    def __init__(self, name: str) -> None:
        super().__init__(name, __doc__)
        self.__spec__ = importlib.machinery.ModuleSpec(name, loader=None)

    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*args: object, **kwargs: object) -> NoReturn:
            raise NotImplementedError(
                f"mmcv operator '{name}' is not bridged: only nms and roi_align are taken from torchvision; compile "
                "mmcv with its operators (MMCV_WITH_OPS=1 pip install --no-build-isolation onedl-mmcv) to use it"
            )

        return missing

    @staticmethod
    def nms(boxes: Tensor, scores: Tensor, *, iou_threshold: float, offset: int) -> Tensor:
        """Returns the indices kept, by falling score. With ``offset`` 1 a far edge is a pixel (mmcv's old way)."""
        if offset:
            boxes = torch.cat([boxes[:, :2], boxes[:, 2:] + offset], dim=1)
        return torch.ops.torchvision.nms(_at_least_float32(boxes), _at_least_float32(scores), iou_threshold)

    @staticmethod
    def roi_align_forward(
        images: Tensor, rois: Tensor, output: Tensor, argmax_y: Tensor, argmax_x: Tensor,
        *, aligned_height: int, aligned_width: int, spatial_scale: float, sampling_ratio: int, pool_mode: int,
        aligned: bool,
    ) -> None:  # fmt: skip
        """Fills ``output`` (K, C, aligned_height, aligned_width) from ``images`` (B, C, H, W) and ``rois`` (K, 5)."""
        _average_only(pool_mode)
        output.copy_(
            torch.ops.torchvision.roi_align(
                _at_least_float32(images),
                _at_least_float32(rois),
                spatial_scale,
                aligned_height,
                aligned_width,
                sampling_ratio,
                aligned,
            )
        )

    @staticmethod
    def roi_align_backward(
        grad_output: Tensor, rois: Tensor, argmax_y: Tensor, argmax_x: Tensor, grad_input: Tensor,
        *, aligned_height: int, aligned_width: int, spatial_scale: float, sampling_ratio: int, pool_mode: int,
        aligned: bool,
    ) -> None:  # fmt: skip
        """Fills ``grad_input`` (B, C, H, W) from ``grad_output`` (K, C, aligned_height, aligned_width)."""
        _average_only(pool_mode)
        grad_input.copy_(
            torch.ops.torchvision._roi_align_backward(
                _at_least_float32(grad_output),
                _at_least_float32(rois),
                spatial_scale,
                aligned_height,
                aligned_width,
                *grad_input.shape,
                sampling_ratio,
                aligned,
            )
        )


def _at_least_float32(x: Tensor) -> Tensor:
    """Gives torchvision one type for all arguments, and no bfloat16; copying out rounds to the caller's type."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _average_only(pool_mode: int) -> None:
    if pool_mode != 1:
        raise NotImplementedError(
            "mmcv operator 'roi_align' is bridged for pool_mode='avg' only; compile mmcv with its operators for 'max'"
        )
