"""Importing mmsegmentation and mmdetection: with the operator bridge, quietly, and without what they do not need here.

Both import every model they have. What costs most are optional packages of models that are not ours: mmseg imports
all of mmdet for Mask2Former, mmdet imports transformers for its language models and scikit-learn for a tracker. Each is
guarded by a ``try``, so hiding them during the import saves seconds a process.
"""

import contextlib
import io
import sys
import warnings
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

from mmengine.registry import init_default_scope

from mto.openmmlab import upsampling
from mto.openmmlab.ops import install
from mto.training.startup import uncollected

#: Modules of networks and datasets that are not ours, and of runners, each with what is taken from it. They import
#: imgaug and matplotlib's plots, and torch's FSDP with its distributed tensors and sympy; a tokenizer reads its
#: vocabulary.
UNUSED = {
    "mmengine.model.wrappers.fully_sharded_distributed": ("MMFullyShardedDataParallel",),
    "mmengine.runner._flexible_runner": ("FlexibleRunner",),
    "mmseg.utils.tokenizer": ("tokenize",),
    "mmdet.datasets.transforms.generate_line": ("ImageAug", "LinesToArray", "PackLineDetectionInputs"),
    "mmdet.evaluation.metrics.crowdhuman_metric": ("CrowdHumanMetric",),
    "mmdet.evaluation.metrics.culane_metric": ("CULaneMetric",),
    "mmdet.models.dense_heads.clr_head": ("CLRHead",),
    "mmdet.utils.mot_error_visualize": ("imshow_mot_errors",),
}
#: Parts of scipy that only such networks and transforms use.
SCIPY = {
    "scipy.interpolate": (),
    "scipy.ndimage": ("distance_transform_edt", "gaussian_filter"),
    "scipy.optimize": ("linear_sum_assignment",),
}


def load_mmseg() -> None:
    """Imports mmseg's models, datasets and metrics, and makes it the scope in which names of classes are looked up."""
    import_mmseg()
    init_default_scope("mmseg")


def import_mmseg() -> None:
    """Imports mmseg alone, which a process may do that imports mmdet too: a scope can be chosen once."""
    install()
    with _only_what_is_used("mmseg", hidden=("mmdet", "transformers", "sklearn", "torch.distributed.optim")):
        import mmseg.datasets
        import mmseg.evaluation
        import mmseg.models  # noqa: F401
    upsampling.install()


def load_mmdet() -> None:
    """Imports mmdet's models, datasets and metrics, and makes it the scope in which names of classes are looked up."""
    import_mmdet()
    init_default_scope("mmdet")


def import_mmdet() -> None:
    """Imports mmdet alone, as `import_mmseg` does mmseg."""
    install()
    with _only_what_is_used("mmdet", hidden=("transformers", "sklearn", "numba", "torch.distributed.optim")):
        import mmdet.datasets
        import mmdet.evaluation
        import mmdet.models  # noqa: F401


@contextlib.contextmanager
def _only_what_is_used(library: str, hidden: Sequence[str]) -> Iterator[None]:
    """Lets the library be imported without its unused modules; meanwhile ``hidden`` packages look uninstalled.

    None in ``sys.modules`` is Python's own way to forbid an import.
    """
    for module, names in UNUSED.items():
        if module.startswith((f"{library}.", "mmengine.")) and module not in sys.modules:
            sys.modules[module] = placeholder(module, *names)
    instead: dict[str, Any] = dict.fromkeys(hidden)
    instead |= {module: placeholder(module, *names) for module, names in SCIPY.items() if module not in sys.modules}
    imported = {name: sys.modules[name] for name in instead if name in sys.modules}
    sys.modules.update(instead)
    try:
        with uncollected(), quiet():
            yield
    finally:
        for name in instead:
            del sys.modules[name]
        sys.modules.update(imported)


def placeholder(module: str, *names: str) -> ModuleType:
    """Returns a module that has empty classes of these names, for whoever imports them and never makes one."""
    made = ModuleType(module)
    for name in names:
        setattr(made, name, type(name, (), {}))
    return made


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences what the libraries print and warn of: optional data sources, deprecations, pycocotools' tables."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
