"""Reading for mmseg's and mmdet's pipelines: by the readers that `mto.data.verify` and the ImageNet stages have.

mmcv's own turns images by their EXIF, and knows other formats than the check does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform
from mmengine.fileio import LocalBackend, register_backend

from mto.data.images import contents, read, read_for, size_of

#: mmengine's name for files that are read again where the storage fails for a moment.
PATIENT = {"backend": "patient"}


@register_backend("patient", force=True)
class Patient(LocalBackend):
    """mmengine's own reader of files, by `mto.data.images.contents`."""

    def get(self, filepath: str | Path) -> bytes:
        """Returns a file's bytes."""
        return contents(filepath)


class LoadImage(BaseTransform):
    """The image of a sample, (H, W, 3) uint8 in BGR, as its annotations see it (`mto.data.images.read_for`)."""

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Adds ``img``, ``img_shape`` and ``ori_shape``, as mmcv's LoadImageFromFile."""
        path, annotation = results["img_path"], results.get("seg_map_path")
        size = (results["width"], results["height"]) if "width" in results else None
        if annotation:
            size = size_of(annotation)
        pixels = read(path) if size is None else read_for(path, size)
        results["img"] = np.ascontiguousarray(pixels[..., ::-1])
        results["img_shape"] = results["ori_shape"] = pixels.shape[:2]
        return results
