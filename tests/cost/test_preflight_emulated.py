"""`python -m mto preflight --emulate` on a machine without a GPU: steps of a stage at full size, and what fits."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mto.cost.fits import NAME
from mto.emulate.build import unavailable

pytestmark = pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))
#: A batch of 24 images that all fit, on a card of one GiB of which CUDA has two thirds.
GIVEN = {"scale": "demo", "resources": {"finetune": {"gpu": 1, "micro_batch": 8}}}


def test_a_stage_starts_and_its_micro_batch_fits(tmp_path):
    shutil.copy(Path(__file__).parents[2] / "config.yaml", tmp_path)
    command = [sys.executable, "-m", "mto", "preflight", "--emulate", "--stage", "finetune", "--card-gb", "1"]
    done = subprocess.run(
        [*command, "--config", json.dumps(GIVEN)],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "results" / "demo" / NAME).read_text())
    assert found["rows"]
    for row in found["rows"]:
        assert 700 < row["needs_mib"] < 1024, row
        assert row["fits"] >= row["micro_batch"] == 8
    assert "| yes |" in done.stdout
    assert "an emulated card of 1 GB, compute capability 9.0" in done.stdout
