"""Submissions that Slurm takes later, with a stand-in for sbatch; against a real one, see tests/slurm."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mto.runtime import slurm as cluster
from mto.runtime import submit

# Fails as often as $1 says with what $2 says, then takes the job that its input is, and prints its number.
SBATCH = """#!/bin/sh
echo >> calls
[ "$(wc -l < calls)" -gt "$1" ] || { echo "sbatch: error: $2" >&2; exit 1; }
echo "77;$(cat)"
"""


@pytest.fixture
def sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "sbatch"
    file.write_text(SBATCH)
    file.chmod(0o755)
    return file


@pytest.mark.parametrize(
    ("says", "later"),
    [
        ("Batch job submission failed: Unable to contact slurm controller (connect failure)", True),
        ("Batch job submission failed: Socket timed out on send/recv operation", True),
        ("Slurm temporarily unable to accept job, sleeping and retrying", True),
        ("QOSMaxSubmitJobPerUserLimit", True),
        ("AssocGrpSubmitJobsLimit", True),
        ("Batch job submission failed: Requested node configuration is not available", False),
        ("QOSMaxWallDurationPerJobLimit", False),
        ("invalid partition specified: none", False),
    ],
)
def test_what_slurm_may_take_later_is_submitted_later(sbatch: Path, says: str, later: bool) -> None:
    start = f"import sys; from mto.runtime import submit; done = submit.submit({[str(sbatch), '2', says]}, 0)"
    show = "print(done.returncode, done.stdout.strip(), done.stderr.strip(), sep='|')"
    shown = subprocess.run([sys.executable, "-c", f"{start}; {show}"], input="script", capture_output=True, text=True)
    assert shown.stdout.strip() == ("0|77;script|" if later else f"1||sbatch: error: {says}")
    assert len((sbatch.parent / "calls").read_text().splitlines()) == (3 if later else 1)


def test_the_plugin_submits_by_way_of_it(sbatch: Path) -> None:
    plugin = SimpleNamespace(get_submit_command=lambda *args: f"{shlex.quote(str(sbatch))} 0 {args[0]}")
    cluster.submit_patiently(plugin)
    call = plugin.get_submit_command("x") + ' --wrap="echo hello"'  # as the plugin goes on with it
    done = subprocess.run(call, shell=True, input="", capture_output=True, text=True, check=True)
    assert done.stdout.startswith("77")
    assert submit.__file__ in call
