"""One task on two nodes, of two processes each: what `nodes: 2` in config.yaml comes to, without GPUs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from lab import Cluster
from tiny_study import EPOCHS, assert_same, tiny_study

from mto.config import load
from mto.names import Step
from mto.study.study import Study

pytestmark = pytest.mark.slurm


def test_a_task_on_two_nodes_trains_as_on_one(cluster: Cluster, tmp_path: Path) -> None:
    clone = tiny_study(tmp_path / "clone")
    data = "results/demo/data/imagenet/manifest.json"
    clone.snakemake("--cores", "1", "--quiet", "all", "--", data)
    job = Study(load(clone.path / "config.yaml")).job(Step("pretrain", "mae-vitb-mto", 0, EPOCHS[0])).plain() | {
        "epoch": 2
    }
    (clone.path / "job.json").write_text(json.dumps({"job": job, "inputs": {"data": data}}))
    task = f"{sys.executable} -m mto pretrain --job job.json --processes 4"
    environment = os.environ | {"PYTHONPATH": str(clone.path / "src")}
    subprocess.run(f"{task} --out one", cwd=clone.path, env=environment, shell=True, check=True, timeout=300)
    # As the executor plugin submits it, and starts the rule: in the batch script, on the first node.
    shape = ("--nodes=2", "--ntasks=2", "--cpus-per-task=2", "--gpus=16", "--mem=20000")
    script = f"cd {clone.path}; PYTHONPATH={clone.path}/src {task} --nodes 2 --out two"
    log = tmp_path / "log"
    cluster.run("sbatch", "--wait", *shape, f"--output={log}", f"--wrap={script}", check=False, seconds=300)
    assert (clone.path / "two/metrics.json").exists(), log.read_text()
    assert_same(clone.path / "two", clone.path / "one")
