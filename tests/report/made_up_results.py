"""A made-up results tree: every cell of the real plan, measured by arithmetic."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

from mto.config import load
from mto.names import BASELINES, Run, Step
from mto.study.study import Study

CONFIG = Path(__file__).parents[2] / "config.yaml"
CEILING = {"finetune": 83.0, "linear": 65.0, "ade20k": 47.0, "coco": 46.0}


def accuracy(run: str, seed: int, share: float, ceiling: float) -> float:
    """A rising curve that MTO lifts; `share` is the part of pre-training done."""
    parsed = Run.parse(run)
    rate = 1.5 + 0.6 * len(parsed.terms) + 0.2 * len(parsed.baseline)
    return ceiling - 4 * math.exp(-rate * share) + 0.05 * seed - 0.3 * abs((parsed.decoder_depth or 8) - 8) ** 0.5


def record(study: Study, task: str, run: str, seed: int, epoch: int) -> dict:
    """A metrics.json of that step."""
    parsed = Run.parse(run)
    value = accuracy(run, seed, epoch / study.config.study.pretrain_epochs, CEILING.get(task, 80.0))
    named = {
        "ade20k": {"mIoU": value, "mAcc": value + 10},
        "coco": {"box_ap": value, "mask_ap": value - 5},
        "pretrain": {"loss": 1 - value / 100, **signs(parsed, 1 - value / 100)},
        "heterogeneity": {"H": 0.5},
    }
    return {
        **{"task": task, "scale": study.config.scale, "run": run, "baseline": parsed.baseline},
        **{"backbone": parsed.backbone, "seed": seed, "epoch": epoch},
        "metrics": named.get(task, {"top1": value, "top1_best": value + 0.25, "top5": value + 10}),
        "provenance": {
            **{"commit": "0123abc", "device": "cpu", "gpus": 0, "versions": {"torch": "2"}},
            **{"wall_seconds": 12.5, "gpu_hours": 1.5, "images_per_second": 100.0},
        },
    }


def signs(run: Run, loss: float) -> dict[str, float]:
    """What the table of presets shows of a pre-training, by its names."""
    baseline = BASELINES[run.baseline]
    stream = f"{baseline.stream}/" if baseline.stream else ""
    collapse = {f"{stream}masked_cosine": 0.5, f"{stream}modal_share": 0.1}
    return {baseline.loss: loss, "constant_ratio": 0.7, **collapse}


def write_analysis(out: Path, run: str, variants: list[str]) -> None:
    """heterogeneity.csv and affinity.npz: the first variant falls with depth, the others rise."""
    rng = np.random.default_rng(0)
    streams, layers = {"mae": (["decoder"], 4), "bootmae": (["pixel", "feature"], 2)}.get(
        Run.parse(run).baseline, (["encoder"], 6)
    )
    lines = ["stream,layer,variant,image,H,H_over_lnV,saturated"]
    arrays = {"num_masked": np.array(27)}
    for stream in streams:
        for layer in range(layers + 1):
            for number, variant in enumerate(variants):
                for image in range(8):
                    ratio = 0.95 - 0.9 * layer / (layers + 2) if number == 0 else 0.3 + 0.08 * layer
                    ratio += 0.02 * rng.standard_normal()
                    lines.append(f"{stream},{layer},{variant},{image},{ratio * 2.2:.6f},{ratio:.6f},0.0")
            arrays[f"{stream}/{layer}"] = rng.random((2, 36, 36)).astype(np.float32)
    (out / "heterogeneity.csv").write_text("\n".join(lines) + "\n")
    np.savez(out / "affinity.npz", **arrays)


def make_tree(root: Path, scale: str, seeds: list[int]) -> tuple[Study, Path]:
    """The plan at a scale, and a results folder with every file that its reports read."""
    config = load(CONFIG, scale=scale).model_copy(update={"seeds": seeds})
    study = Study(config)
    results = root / study.results
    variants = [
        "-".join(map(str, variant.model_dump(exclude_none=True).values())) for variant in config.analysis.variants
    ]
    for task, run, seed, epoch in [*study.segments(), *study.steps()]:
        out = results / Step(task, run, seed, epoch).folder
        out.mkdir(parents=True)
        (out / "metrics.json").write_text(json.dumps(record(study, task, run, seed, epoch)))
        if task == "heterogeneity":
            write_analysis(out, run, variants)
    return study, results
