"""Made-up results trees, each made once."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_up_results import CONFIG, make_tree
from made_up_runs import write_runs

from mto.report.cli import main
from mto.study.study import Study


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Path]:
    """The demo scale, one seed."""
    return make_tree(tmp_path_factory.mktemp("demo"), "demo", [0])


@pytest.fixture(scope="session")
def paper(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Path]:
    """The paper scale, three seeds."""
    return make_tree(tmp_path_factory.mktemp("paper"), "paper", [0, 1, 2])


@pytest.fixture(scope="session")
def complete(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Path]:
    """The demo scale, one seed, with pre-training histories, every table and figure, and the page."""
    study, results = make_tree(tmp_path_factory.mktemp("complete"), "demo", [0])
    write_runs(study, results)
    main(["page", "--results", str(results), "--remake", "--config", str(CONFIG)])
    return study, results
