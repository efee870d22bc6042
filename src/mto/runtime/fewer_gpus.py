"""Jobs that would get other GPUs than config.yaml gives their stage: refused before the first starts. No torch here.

Snakemake cuts what a job asks for down to what ``--resources`` has, without a word. The job would run on fewer GPUs, or
on the CPU, and where batch norms see the images of all GPUs that is another network.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

#: Stages whose batch norms see a pass of every GPU.
SEEN_BY_ALL = ("ade20k", "coco")


class Asked(NamedTuple):
    """The GPUs of a planned job.

    Attributes:
        stage: as under `resources` in config.yaml.
        wanted: GPUs by config.yaml; those of one node for a preflight.
        given: GPUs that Snakemake would give it.
        micro_batch: images of a pass on one GPU, by config.yaml; None: a GPU's whole share of the batch.
    """

    stage: str
    wanted: int
    given: int
    micro_batch: int | None


def problems(jobs: Iterable[Asked], here: int | None = None) -> list[str]:
    """Returns a line for each stage whose jobs would get other GPUs than it wants; one for all where none is here.

    Args:
        here: GPUs of this machine, where jobs run on it; None: they do not, or nobody knows.
    """
    stages = {job.stage: job for job in jobs}
    lines = [_cut(job) for job in stages.values() if job.given != job.wanted]
    short = [job for job in stages.values() if here is not None and here < job.wanted == job.given]
    if short and not here:
        wanted = ", ".join(sorted(f"{job.stage} {job.wanted}" for job in short))
        return [
            *lines,
            f"no GPU here, and resources in config.yaml ask for {wanted}: start on a GPU machine, add --profile "
            "slurm, or set each one's gpu: 0, which is the CPU",
        ]
    return lines + [f"{_key(job)}, and {here} are here: {_remedy(job, here or 0)}" for job in short]


def _key(job: Asked) -> str:
    return f"config.yaml: resources.{job.stage}.gpu: {job.wanted}"


def _cut(job: Asked) -> str:
    told = f"the command line (--resources, --set-resources) gives its jobs {job.given}"
    return f"{_key(job)}, and {told}: give them {job.wanted}, or {_remedy(job, job.given)}"


def _remedy(job: Asked, gpus: int) -> str:
    """Returns what to write for so many GPUs; with it UPerNet and Mask R-CNN see as many images as before."""
    images = job.wanted * (job.micro_batch or 0)
    if job.stage in SEEN_BY_ALL and images and gpus and images % gpus == 0:
        return f"set resources.{job.stage}: gpu: {gpus}, micro_batch: {images // gpus}"
    return f"set resources.{job.stage}.gpu: {gpus}" + ("" if gpus else ", which is the CPU")
