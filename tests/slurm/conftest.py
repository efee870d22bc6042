"""One real Slurm for all tests here; skipped, with the reason, where none can be brought up."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from lab import Cluster, why_not
from tiny_study import EPOCHS, Run, target, tiny_study
from workflow_clone import Clone


@pytest.fixture(scope="session")
def _cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if reason := why_not():
        pytest.skip(f"a real Slurm {reason}")
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def cluster(_cluster: Cluster) -> Cluster:
    """Two idle nodes."""
    _cluster.clear()
    return _cluster


@pytest.fixture
def start(cluster: Cluster) -> Iterator[Callable[..., Run]]:
    """Start Snakemake on the cluster, in a clone: ``start(clone, target)``. It ends with the test."""
    runs: list[Run] = []

    def start(clone: Clone, *arguments: str, **environment: str) -> Run:
        runs.append(Run(clone, cluster, *arguments, **environment))
        return runs[-1]

    yield start
    for run in runs:
        run.kill()
    cluster.cancel_all()


@pytest.fixture(scope="session")
def undisturbed(_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """The tiny study's chain, trained without Slurm and without a fault."""
    clone = tiny_study(tmp_path_factory.mktemp("undisturbed") / "clone")
    clone.snakemake("--cores", "1", "--quiet", "all", "--", target(EPOCHS[-1]))
    return clone
