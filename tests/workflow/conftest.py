"""Clones of the workflow: one in which nothing ran, and one in which the whole demo study is done."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from workflow_clone import Clone, copy_workflow


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    """A clone in which nothing ran yet."""
    return copy_workflow(tmp_path / "clone")


@pytest.fixture(scope="session")
def _finished(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    clone = copy_workflow(tmp_path_factory.mktemp("finished") / "clone")
    clone.snakemake("--cores", "4", "--quiet")
    return clone


@pytest.fixture
def finished(_finished: Clone, tmp_path: Path) -> Clone:
    """A clone in which the whole demo study is done."""
    shutil.copytree(_finished.path, tmp_path / "clone")  # keeps modification times
    return Clone(tmp_path / "clone")
