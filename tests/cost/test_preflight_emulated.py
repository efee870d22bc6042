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

    def preflight() -> tuple[str, dict]:
        done = subprocess.run(
            [*command, "--config", json.dumps(GIVEN)],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout, json.loads(file.read_text())

    file = tmp_path / "results" / "demo" / NAME
    said, found = preflight()
    assert len(found["rows"]) > 2
    for row in found["rows"]:
        assert 700 < row["needs_mib"] < 1024, row
        assert row["fits"] >= row["micro_batch"] == 8
    assert said.count("| yes |") == len(found["rows"])
    assert "an emulated card of 1 GB, compute capability 9.0" in said

    # Killed after its second row, with a row of another stage in the file: what is there is not counted again.
    kept = [row | {"needs_mib": 900.5} for row in found["rows"][:2]]
    other = {"stage": "linear", "run": "mae-vitb", "micro_batch": 8, "varies": True, "needs_mib": 800.0, "fits": 8}
    file.write_text(json.dumps(found | {"rows": [*kept, other]}))
    again = preflight()[1]
    assert again["rows"][:2] == kept
    assert [row["run"] for row in again["rows"]] == [*(row["run"] for row in found["rows"]), "mae-vitb"]
    assert [row["needs_mib"] for row in again["rows"][2:-1]] == [row["needs_mib"] for row in found["rows"][2:]]
