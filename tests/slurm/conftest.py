"""One real Slurm for all tests here; skipped, with the reason, where none can be brought up."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from database import accounting, why_no_database
from lab import Cluster
from machine import why_not, withheld
from tiny_study import Run, Undisturbed
from workflow_clone import Clone


@pytest.fixture(scope="session")
def _cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if reason := why_not():
        pytest.skip(f"a real Slurm {reason}")
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        try:
            cluster.start()
        except AssertionError as error:
            if reason := withheld(cluster.last_words()):
                pytest.skip(f"a real Slurm does not start on this machine: {reason}")
            error.add_note(cluster.last_words())
            raise
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def cluster(_cluster: Cluster) -> Cluster:
    """Two idle nodes."""
    _cluster.clear()
    return _cluster


@pytest.fixture
def database(cluster: Cluster) -> Iterator[None]:
    """The cluster has an accounting database."""
    if reason := why_no_database():
        pytest.skip(f"an accounting database {reason}")
    with accounting(cluster):
        yield


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
def undisturbed(_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Undisturbed]:
    chain = Undisturbed(tmp_path_factory.mktemp("undisturbed") / "clone")
    yield chain
    chain.end()
