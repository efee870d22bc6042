"""Every finished step with its files, its log and the command that makes it again: where each number leads to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from urllib.parse import quote

from mto.names import BASELINES, STAGES, Run, Step
from mto.report import sources
from mto.report.labels import baseline_name, full_name
from mto.report.page.findings import Findings, device_of, short
from mto.report.page.histories import order

#: What lies in a step's folder, and what the page calls it.
FILES = {"metrics.json": "metrics", "job.json": "job", "history.jsonl": "history"}


@dataclass(frozen=True)
class Row:
    """A finished step.

    Attributes:
        files: what it is called and its address, of its files and its log, as far as they are there.
        command: what makes it again from the clone's root; "" where its job.json is not there.
    """

    run: str
    epoch: int
    seed: int
    commit: str
    device: str
    seconds: str
    gpu_hours: str
    files: tuple[tuple[str, str], ...]
    command: str


@dataclass(frozen=True)
class Value:
    """The steps of one value: a row a seed."""

    id: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Curve:
    """The values of one stage of one network, without and with MTO."""

    id: str
    title: str
    values: tuple[Value, ...]


@dataclass(frozen=True)
class Network:
    """All that was done with one network."""

    id: str
    title: str
    curves: tuple[Curve, ...]


def listed(found: Findings, page: Path) -> list[Network]:
    """Returns the finished steps by network, stage, run and epoch; the addresses are relative to the page."""
    stages = list(STAGES)
    baselines = list(BASELINES)

    def key(step: Step) -> tuple[object, ...]:
        run = Run.parse(step.run)
        return baselines.index(run.baseline), run.backbone, stages.index(step.task), order(step.run), step[2:][::-1]

    steps = sorted(found.records, key=key)
    return [
        Network(name, baseline_name(members[0].run), tuple(_curves(found, page, members)))
        for name, members in _parts(steps, "network")
    ]


def places(networks: list[Network]) -> set[str]:
    """Returns the identities of the list that a number may lead to."""
    curves = [curve for network in networks for curve in network.curves]
    values = {value.id for curve in curves for value in curve.values}
    return values | {network.id for network in networks} | {curve.id for curve in curves}


def _parts(steps: list[Step], level: str) -> Iterator[tuple[str, list[Step]]]:
    for name, members in groupby(steps, lambda step: getattr(sources.of(step), level)):
        yield name, list(members)


def _curves(found: Findings, page: Path, steps: list[Step]) -> Iterator[Curve]:
    for name, members in _parts(steps, "curves"):
        values = (
            Value(value, tuple(_row(found, page, step) for step in same)) for value, same in _parts(members, "value")
        )
        yield Curve(name, STAGES[members[0].task].title, tuple(values))


def _row(found: Findings, page: Path, step: Step) -> Row:
    given = found.records[step].get("provenance") or {}
    wall, hours = given.get("wall_seconds"), given.get("gpu_hours")
    folder = found.results / step.folder
    log = found.results.parent.parent / "logs" / found.results.name / f"{step.folder}.log"
    files = [(label, folder / file) for file, label in FILES.items()] + [("log", log)]
    job = folder / "job.json"
    return Row(
        full_name(step.run),
        step.epoch,
        step.seed,
        short(given.get("commit") or "unknown"),
        device_of(given),
        "" if wall is None else f"{wall:.0f}",
        "" if hours is None else f"{hours:.2f}",
        tuple((label, address(path, page)) for label, path in files if path.exists()),
        f"python -m mto {step.task} --job {job.as_posix()} --out DIR" if job.exists() else "",
    )


def address(path: Path, page: Path) -> str:
    """Returns a file's address as seen from the page."""
    return quote(Path(os.path.relpath(path, page.parent)).as_posix())
