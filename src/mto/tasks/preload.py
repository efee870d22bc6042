"""``python -m mto preload SOCKET``: imports what tasks on a CPU import, and forks them (`mto.runtime.preloaded`).

Snakemake starts it beside a study whose stages all run on CPUs, and it ends with Snakemake.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from mto.names import STAGES
from mto.runtime.preloaded import Forks
from mto.training.startup import lean, uncollected

#: What tasks import as they run, and the reports.
LATE = (
    *("mto.openmmlab.fit", "mto.openmmlab.upernet", "mto.openmmlab.maskrcnn", "mto.openmmlab.coco_metric"),
    *("mto.report.tables", "mto.report.figures.style", "mto.report.profiles", "mto.report.page.render"),
)


def main(argv: Sequence[str]) -> int:
    """Serves until standard input ends; in a forked child, runs its task."""
    (path,) = argv
    with uncollected():
        lean()
        for name in ("data", *STAGES):
            import_module(f"mto.tasks.{name}")
        libraries = import_module("mto.openmmlab.libraries")
        libraries.import_mmseg()
        libraries.import_mmdet()
        for name in LATE:
            import_module(name)
    Forks(Path(path), import_module("mto.__main__").main).serve()
    return 0
