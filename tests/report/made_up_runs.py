"""What a report page reads beside metrics: the histories of made-up runs, and the job that each remembers."""

from __future__ import annotations

import json
import math
from pathlib import Path

from made_up_results import record

from mto.names import Run, Step
from mto.study.study import Study

LOSSES = {"conmim": ["contrastive"], "bootmae": ["pixel", "feature"]}
STREAMS = {"bootmae": {"pixel/": 2, "feature/": 2}, "mae": {"": 8}}
ROWS = 200  # over the whole schedule


def write_runs(study: Study, results: Path) -> None:
    """metrics.json, history.jsonl and job.json of every pre-training segment of the plan."""
    for step in study.segments():
        out = results / step.folder
        out.mkdir(parents=True, exist_ok=True)
        (out / "metrics.json").write_text(json.dumps(record(study, *step)))
        (out / "job.json").write_text(json.dumps({"task": "pretrain", "job": study.job(step).plain(), "inputs": {}}))
        previous = study.previous(step)
        begin = previous.epoch if previous else 0
        write_history(out / "history.jsonl", step, begin, study.config.study.pretrain_epochs)


def write_history(path: Path, step: Step, begin: int, epochs: int) -> None:
    """Falling losses, and H that falls with depth, over the epochs of one segment of a schedule."""
    run = Run.parse(step.run)
    rows = []
    for count in range(begin * ROWS // epochs + 1, step.epoch * ROWS // epochs + 1):
        done = 8 * count / ROWS
        row = {"step": count, "epoch": count * epochs / ROWS, "lr": 1e-3, "grad_norm": 1.0, "images_per_second": 100.0}
        for number, name in enumerate(LOSSES.get(run.baseline, ["reconstruction"])):
            row[f"loss_{name}"] = (number + 1) * (0.4 + 0.6 * math.exp(-done)) + 0.01 * step.seed
        for number, term in enumerate(run.terms):
            row[f"loss_{term}"] = (4.0 if term == "r" else 1.0) * math.exp(-done / (number + 1))
        row["loss"] = sum(value for name, value in row.items() if name.startswith("loss_"))
        for prefix, layers in STREAMS.get(run.baseline, {"": 12}).items():
            for layer in range(layers + 1):
                row[f"{prefix}heterogeneity_{layer}"] = 2.0 * math.exp(-0.1 * layer * (1 + done))
                row[f"{prefix}saturated_{layer}"] = layer / layers * done / 8
            row[f"{prefix}heterogeneity_ratio"] = 2.0 / math.log(9)
        rows.append(row)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
