"""MTO's products are full float32 where a GPU's job allows TF32: what cuBLAS is asked for, and what TF32 would do."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mto.emulate.build import unavailable

pytestmark = pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))

HERE = Path(__file__).parent


def run(script: str, *arguments: str) -> dict:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / script), *arguments]
    done = subprocess.run(command, cwd=HERE.parents[1], env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    print(done.stdout)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("step", ["eager", "compiled"])
def test_no_product_of_mto_is_asked_for_in_tf32(step):
    """Three layers, forward and backward; the script's own product shows that TF32 is allowed, and would be seen."""
    found = run("products.py", step)
    assert not found["fell_back"]
    products = {what: n for what, n in found["counted"].items() if "library" in what}
    asked = {what: n for what, n in products.items() if what.endswith(("float32", "TF32"))}
    assert asked == {
        "launch library cublasGemmStridedBatchedEx in float32": 6,
        "launch library cublasGemmStridedBatchedEx in TF32": 1,
    }
    assert found["picked"] == [64, 16]  # a mask that nothing computed picks all


def test_tf32_would_spoil_the_gradients_of_raw_dot_products():
    found = run("tf32.py")
    text, cosine = found["made up text"], found["made up cosine"]
    assert text["mto"] < 0.005
    assert text["tf32"] > 0.06
    assert cosine["mto"] < 0.005 < cosine["tf32"] < text["tf32"]


@pytest.mark.slow
def test_of_the_networks_of_the_paper_too():
    for states, found in run("tf32.py", "simmim", "mae").items():
        assert found["mto"] < 0.01, states
        assert found["mto"] < found["tf32"], states
