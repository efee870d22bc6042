"""One real Slurm for all tests here; skipped, with the reason, where none can be brought up."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from database import accounting, why_no_database
from lab import Cluster
from machine import why_no_cgroups, why_not, withheld
from tiny_study import Run, Undisturbed
from workflow_clone import Clone


@pytest.fixture(scope="session")
def _clusters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Cluster]]:
    """The clusters of this session, by how they track processes; each is brought up when first asked for."""
    clusters: dict[str, Cluster] = {}

    def up(proctrack: str) -> Cluster:
        if reason := why_not() or (why_no_cgroups() if proctrack == "cgroup" else None):
            pytest.skip(f"a real Slurm {reason}")
        if proctrack in clusters:
            return clusters[proctrack]
        cluster = Cluster(tmp_path_factory.mktemp(f"slurm-{proctrack}"), proctrack)
        try:
            cluster.start()
        except AssertionError as error:
            cluster.stop()
            if reason := withheld(cluster.last_words()):
                pytest.skip(f"a real Slurm does not start on this machine: {reason}")
            error.add_note(cluster.last_words())
            raise
        return clusters.setdefault(proctrack, cluster)

    yield up
    for cluster in clusters.values():
        cluster.stop()


@pytest.fixture
def cluster(_clusters: Callable[[str], Cluster], request: pytest.FixtureRequest) -> Cluster:
    """Two idle nodes; with the parameter "cgroup" of a test, on a cluster that keeps jobs in control groups."""
    cluster = _clusters(getattr(request, "param", "linuxproc"))
    cluster.clear()
    return cluster


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
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Undisturbed]:
    chain = Undisturbed(tmp_path_factory.mktemp("undisturbed") / "clone")
    yield chain
    chain.end()
