"""Real Snakemake on a copy of the workflow, in which every task only touches the files that it declares."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
WORKFLOW = ("Snakefile", "config.yaml", "rules", "slurm", "profiles", "envs", "src/mto")

# Stands in for `python -m mto`: makes what a task declares, in no time or in $SECONDS_OF_WORK. It fails where
# $FAIL names its task, saying $SAYS; $MARK makes what is measured differ from run to run, as wall times do.
FAKE = """
import os, sys, time
from pathlib import Path

arguments = sys.argv[1:]
task = arguments[0]
print(f"{task} at work", flush=True)
time.sleep(float(os.environ.get("SECONDS_OF_WORK", 0)))
if task == os.environ.get("FAIL"):
    sys.exit(f"{os.environ.get('SAYS', '')}{task} fails")
if task in ("plan", "preflight") and "--job" not in arguments:
    sys.exit()  # they only print, and write what no rule declares
out = Path(arguments[arguments.index("--out") + 1])
if task == "preflight":
    files = [out]
elif task == "report":
    import json
    if arguments[1] in ("results", "page"):
        files = [out]
    else:
        job = json.loads(arguments[arguments.index("--job") + 1])
        kinds = {"table": ("csv", "md", "tex", "json"), "figure": ("png", "pdf")}[arguments[1]]
        files = [out / f"{job['name']}.{kind}" for kind in kinds]
else:
    names = {
        "data": ["manifest.json"],
        "pretrain": ["encoder.safetensors", "state.pth", "metrics.json", "history.jsonl"],
        "knn": ["metrics.json"],
        "heterogeneity": ["heterogeneity.csv", "affinity.npz", "metrics.json"],
    }.get(task, ["metrics.json", "history.jsonl"])
    files = [out / name for name in names]
for file in files:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(" ".join(arguments) + (os.environ.get("MARK", "") if task != "data" else ""))
"""


@dataclass(frozen=True)
class Clone:
    """A clone of the workflow, and Snakemake in it."""

    path: Path

    def snakemake(self, *arguments: str, code: int = 0, **environment: str) -> str:
        """Run Snakemake; return what it printed."""
        command = [sys.executable, "-m", "snakemake", *arguments]
        env = {**os.environ, "HOME": str(self.path), **environment}
        done = subprocess.run(
            command, cwd=self.path, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300
        )
        assert done.returncode == code, done.stdout
        return done.stdout

    def planned(self, *arguments: str) -> set[str]:
        """The output files that a run would make."""
        lines = self.snakemake("--summary", *arguments).splitlines()
        rows = [line.split("\t") for line in lines if line.count("\t") == 5]
        assert rows, lines
        assert rows[0][0] == "output_file"
        return {row[0] for row in rows[1:] if row[-1] != "no update"}

    def set(self, key: str, value: Any) -> None:
        """Set a key of config.yaml, given by its path."""
        file = self.path / "config.yaml"
        whole = yaml.safe_load(file.read_text())
        *parents, last = key.split(".")
        node = whole
        for parent in parents:
            node = node.setdefault(parent, {})
        assert last not in node or node[last] != value
        node[last] = value
        file.write_text(yaml.safe_dump(whole, sort_keys=False))

    def made(self) -> set[str]:
        """Every file of results/, as a path from the clone's root."""
        return {str(f.relative_to(self.path)) for f in (self.path / "results").rglob("*") if f.is_file()}


def copy_workflow(to: Path) -> Clone:
    to.mkdir(parents=True)
    for name in WORKFLOW:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, to / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, to / name)
    (to / "src/mto/__main__.py").write_text(FAKE)
    return Clone(to)
