"""Importing mmsegmentation and mmdetection: with the operator bridge, quietly, and without what they do not need here.

Both import every model they have. What costs most are optional packages of models that are not ours: mmseg imports
all of mmdet for Mask2Former, mmdet imports transformers for its language models and scikit-learn for a tracker. Each is
guarded by a ``try``, so hiding them during the import saves seconds a process.
"""

import contextlib
import io
import sys
import warnings
from collections.abc import Iterator

from mmengine.registry import init_default_scope

from mto.openmmlab import upsampling
from mto.openmmlab.ops import install
from mto.training.startup import placeholder

#: Modules of mmdet's for lines, tracks and crowds, each with what mmdet takes from it. They import imgaug, scipy's
#: statistics and matplotlib's plots.
UNUSED = {
    "mmdet.datasets.transforms.generate_line": ("ImageAug", "LinesToArray", "PackLineDetectionInputs"),
    "mmdet.evaluation.metrics.crowdhuman_metric": ("CrowdHumanMetric",),
    "mmdet.evaluation.metrics.culane_metric": ("CULaneMetric",),
    "mmdet.models.dense_heads.clr_head": ("CLRHead",),
    "mmdet.utils.mot_error_visualize": ("imshow_mot_errors",),
}


def load_mmseg() -> None:
    """Imports mmseg's models, datasets and metrics, and makes it the scope in which names of classes are looked up."""
    install()
    with _hidden("mmdet", "transformers", "sklearn"), quiet():
        import mmseg.datasets
        import mmseg.evaluation
        import mmseg.models  # noqa: F401
    upsampling.install()
    init_default_scope("mmseg")


def load_mmdet() -> None:
    """Imports mmdet's models, datasets and metrics, and makes it the scope in which names of classes are looked up."""
    install()
    for module, names in UNUSED.items():
        if module not in sys.modules:
            sys.modules[module] = placeholder(module, *names)
    with _hidden("transformers", "sklearn", "numba"), quiet():
        import mmdet.datasets
        import mmdet.evaluation
        import mmdet.models  # noqa: F401
    init_default_scope("mmdet")


@contextlib.contextmanager
def _hidden(*packages: str) -> Iterator[None]:
    """Packages look uninstalled: None in ``sys.modules`` is Python's own way to forbid an import."""
    imported = {name: sys.modules[name] for name in packages if name in sys.modules}
    sys.modules.update(dict.fromkeys(packages))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in packages:
            del sys.modules[name]
        sys.modules.update(imported)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what the libraries print and warn of: optional data sources, deprecations, pycocotools' tables."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
