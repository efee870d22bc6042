from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from round_numbers import count

from mto.config.reading import load, read
from mto.cost.estimate import Cost, estimate, once
from mto.cost.measured import Measured
from mto.names import Step
from mto.study.study import Study

ROOT = Path(__file__).parents[2]


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Study]:
    """A study of a scale in an empty folder, with keys of config.yaml laid over it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text((ROOT / "config.yaml").read_text())

    def of(scale: str = "paper", **keys: Any) -> Study:
        return Study(load(read("config.yaml", {"scale": scale, **keys})))

    return of


@pytest.fixture
def costs() -> Callable[[Study], dict[Step, Cost]]:
    return lambda study: estimate(study, Measured(study, study.config.plan.card), once(count))
