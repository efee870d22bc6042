"""A job's method."""

from __future__ import annotations

from typing import Any

from mto import methods
from mto.data.rng import seeded
from mto.methods.base import Method
from mto.names import BASELINES


def build_method(job: dict[str, Any]) -> Method:
    """The method with the run's initial weights, a function of the seed.

    Args:
        job: ``method`` (its name and arguments) and ``seed``.
    """
    arguments = {name: value for name, value in job["method"].items() if name != "name"}
    with seeded(job["seed"], "init"):
        return getattr(methods, BASELINES[job["method"]["name"]].method)(**arguments)
