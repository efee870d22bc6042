"""Stands in for the counting of a network: what the arithmetic on top of it is tested with."""

from mto.bench.work import Work
from mto.config.job import Job, PretrainJob


def count(job: Job) -> Work:
    """60 GFLOP an image and a tenth more with MTO, which moves 9 MB; 100 million numbers are trained."""
    terms = len(job.mto.terms) if isinstance(job, PretrainJob) else 0
    sizes = {"trained": 100_000_000, "fixed": 10_000_000, "encoder": 80_000_000}
    return Work(train=(60 + 2 * terms) * 1e9, evaluate=20e9, **sizes, moved=(500 + 3 * terms) * 1e6)
