"""Two made-up results trees, made once."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_up_results import make_tree

from mto.study import Study


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Path]:
    """The demo scale, one seed."""
    return make_tree(tmp_path_factory.mktemp("demo"), "demo", [0])


@pytest.fixture(scope="session")
def paper(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Path]:
    """The paper scale, three seeds."""
    return make_tree(tmp_path_factory.mktemp("paper"), "paper", [0, 1, 2])
