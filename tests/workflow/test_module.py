"""The workflow as a `module:` of another one, as the Workflow Catalog's standard usage has it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SNAKEFILE = """
module mto:
    snakefile: "{root}/Snakefile"
    config: {{"scale": "demo", "seeds": [0, 1]}}

use rule * from mto as mto_*

rule mine:
    input: "results/demo/tables/table1_rauc.csv"
    default_target: True
"""


def plan(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "snakemake", "-n", *arguments]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


def test_another_workflow_plans_a_table_of_this_one(tmp_path: Path) -> None:
    """Without a config.yaml: the module's own `config` is what is set."""
    (tmp_path / "Snakefile").write_text(SNAKEFILE.format(root=ROOT))
    printed = plan(tmp_path)
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", printed, re.MULTILINE))
    assert {"mto_dataset", "mto_pretrain_segment", "mto_finetune_encoder", "mto_table", "mine"} <= jobs.keys()
    assert {"seed0", "seed1"} <= set(re.findall(r"seed\d", printed))
    assert "results/demo/data/imagenet/manifest.json" in printed
