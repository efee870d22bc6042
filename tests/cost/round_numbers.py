"""Stands in for the counting of a network: what the arithmetic on top of it is tested with."""

from typing import Any

from mto.bench.work import Work


def count(job: dict[str, Any]) -> Work:
    """60 GFLOP an image and a tenth more with MTO; 100 million numbers are trained."""
    terms = len(job.get("mto", {}).get("terms", []))
    return Work(train=(60 + 2 * terms) * 1e9, evaluate=20e9, trained=100_000_000, fixed=10_000_000, encoder=80_000_000)
