"""A job's method."""

from __future__ import annotations

from mto import methods
from mto.config import job
from mto.data.rng import seeded
from mto.methods.base import Method
from mto.names import BASELINES


def build_method(settings: job.Method, seed: int) -> Method:
    """Builds the method with the run's initial weights, a function of the seed.

    Args:
        settings: its name and its arguments.
    """
    arguments = settings.written()
    name = arguments.pop("name")
    with seeded(seed, "init"):
        return getattr(methods, BASELINES[name].method)(**arguments)
