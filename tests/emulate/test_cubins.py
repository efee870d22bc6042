"""A compiled step comes to machine code of the very chip: Inductor, Triton and ptxas are real, only the GPU is not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mto.emulate.build import unavailable

pytestmark = [pytest.mark.skipif(unavailable() is not None, reason=str(unavailable())), pytest.mark.slow]


@pytest.mark.parametrize("capability", ["8.0", "8.6", "9.0"])
def test_a_step_compiles_to_machine_code(tmp_path, capability):
    """A minute of one core each. bf16, forward and backward, with MTO; what is launched is what was compiled."""
    command = [sys.executable, str(Path(__file__).with_name("cubins.py")), capability, str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert not found["fell_back"], done.stdout
    sm = capability.replace(".", "")
    assert found["chips"] == [int(sm)]
    assert [target.rstrip("a") for target in found["targets"]] == [f"sm_{sm}"]  # sm_90a: with Hopper's own instructions
    launched = {what.split()[2] for what in found["counted"] if what.startswith("launch triton ")}
    assert len(launched) > 30
    names = tuple(found["kernels"])  # of the files, which keep the first 150 letters
    assert not [name for name in launched if not name.startswith(names)]
    assert any("backward" in name for name in launched)
    assert found["trained"] > 20
