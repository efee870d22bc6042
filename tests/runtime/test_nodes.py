"""The step that spreads a task over nodes; a real one is in tests/slurm."""

from __future__ import annotations

from pathlib import Path

import pytest

from mto.errors import UserError
from mto.runtime.nodes import step


def test_each_node_gets_its_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "squeue").write_text("#!/bin/sh\necho 192\n")
    (tmp_path / "squeue").chmod(0o755)
    command = step(8, nodes=2, gpus=8)
    assert command[0] == "srun"
    for option in ("--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=96", "--gpus-per-node=4"):
        assert option in command
    assert not [option for option in step(8, nodes=2, gpus=0) if "--gpus" in option]


@pytest.mark.parametrize(("job", "processes", "said"), [("", 8, "only a Slurm job"), ("7", 7, "evenly")])
def test_what_several_nodes_need(monkeypatch: pytest.MonkeyPatch, job: str, processes: int, said: str) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", job)
    with pytest.raises(UserError, match=said):
        step(processes, nodes=2, gpus=0)


def test_slurm_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="squeue"):
        step(8, nodes=2, gpus=8)
