"""A crate of made results, for the tests and for `make crate`, which gives it to roc-validator.

python tests/export/made_crate.py OUT
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from mto.export.crate import write
from mto.files import write_json
from mto.names import Step

CLONE = Path(__file__).parents[2]
STEPS = (
    Step("pretrain", "mae-vitb-mto", 0, 4),
    Step("pretrain", "mae-vitb-mto", 0, 8),
    Step("finetune", "mae-vitb-mto", 0, 8),
)


def results_below(folder: Path) -> Path:
    """Returns results/demo with three finished steps, of which one has no log."""
    results = folder / "results/demo"
    for step in STEPS:
        where = results / step.folder
        where.mkdir(parents=True)
        said = {"task": step.task, "run": step.run, "seed": step.seed, "epoch": step.epoch, "scale": "demo"}
        made = {"commit": "0123456789abcdef", "device": "a CPU", "versions": {"torch": "2.15.0"}}
        write_json(where / "metrics.json", {**said, "metrics": {"top1": 61.25}, "provenance": made})
        inputs = {"encoder": str(results / STEPS[1].folder / "encoder.safetensors")} if step.task == "finetune" else {}
        write_json(where / "job.json", {"task": step.task, "job": said, "inputs": inputs})
        (where / "history.jsonl").write_text('{"step": 1}\n')
        (where / "encoder.safetensors").write_bytes(b"weights stay at home")
        if step.task == "pretrain":
            log = folder / "logs/demo" / f"{step.folder}.log"
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_text("it was printed\n")
    for name in ("results.csv", "report.html", "tables/table1_rauc.md", "figures/fig4_epochs.png"):
        (results / name).parent.mkdir(exist_ok=True)
        (results / name).write_text(name)
    return results


def clone_below(folder: Path) -> Path:
    """Returns a folder with the repository's own workflow in it."""
    for name in ("Snakefile", "config.yaml", "LICENSE", "rules", "profiles", "envs"):
        (folder / name).symlink_to(CLONE / name)
    return folder


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made_in:
        clone = clone_below(Path(made_in))
        write(results_below(clone), Path(sys.argv[1]), clone)
