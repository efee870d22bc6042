"""The datasets' jobs: make one of the demo's datasets, or check that one of the paper's is there.

Job: ``{"task": "data", "dataset": "imagenet" | "ade20k" | "coco", "scale", "root", "demo": {"size": ...} | null}``.
Makes ``manifest.json`` in the output folder, last: counts, class names and the job.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from mto.errors import UserError

Job = dict[str, Any]


def run(job: Job, out: Path) -> None:
    """Make the dataset when the job says how (``demo``), else check the one at ``root``."""
    make(job, out) if job["demo"] is not None else check(job, out)


def make(job: Job, out: Path) -> None:
    """Write a demo dataset into ``out``; a killed job leaves no manifest, and a rerun starts afresh.

    Raises:
        UserError: a key or value under ``datasets.<dataset>.demo`` that the maker does not take.
    """
    from mto.data import demo

    maker, classes = {
        "imagenet": (demo.make_imagenet, demo.IMAGENET_CLASSES),
        "ade20k": (demo.make_ade20k, demo.ADE20K_CLASSES),
        "coco": (demo.make_coco, demo.COCO_CLASSES),
    }[job["dataset"]]
    out.mkdir(parents=True, exist_ok=True)
    (out / "manifest.json").unlink(missing_ok=True)
    making = out / ".making"
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir()
    try:
        counts = maker(making, **job["demo"])
    except (TypeError, ValueError) as error:
        raise UserError(f"config.yaml: datasets.{job['dataset']}.demo {job['demo']}: {error}") from error
    for part in making.iterdir():
        if (out / part.name).exists():
            shutil.rmtree(out / part.name)
        part.rename(out / part.name)
    making.rmdir()
    _write_manifest(job, out, counts, classes)
    print(f"{job['dataset']}: {', '.join(f'{n} in {split}' for split, n in counts.items())}, in {out}", flush=True)


def check(job: Job, out: Path) -> None:
    """Count what the paper's dataset holds.

    Raises:
        UserError: it is missing or incomplete.
    """
    from mto.data import layout

    counts = layout.check(job["dataset"], job["root"])
    _write_manifest(job, out, counts, None)
    print(
        f"{job['dataset']}: {', '.join(f'{n} in {split}' for split, n in counts.items())}, in {job['root']}", flush=True
    )


def _write_manifest(job: Job, out: Path, counts: dict[str, int], classes: list[str] | None) -> None:
    out.mkdir(parents=True, exist_ok=True)
    partial = out / "manifest.json.tmp"
    partial.write_text(json.dumps({"job": job, "counts": counts, "classes": classes}, indent=1, sort_keys=True) + "\n")
    os.replace(partial, out / "manifest.json")
