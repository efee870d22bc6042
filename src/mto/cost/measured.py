"""What was measured on the card that is reckoned with: finished jobs, and `snakemake preflight`. No torch."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from mto.config.job import Job
from mto.cost.amounts import Amount
from mto.files import read_json
from mto.names import Step
from mto.study.study import Study

PREFLIGHT = "preflight"
Record = dict[str, Any]


def is_card(card: str, device: str | None, gpus: int) -> bool:
    """Returns whether a device, by its own name, is a card of config.yaml. No GPU is `cpu`.

    Whole words of the name that follow each other are compared: `a100` and `rtx3090` are in "NVIDIA A100-SXM4-80GB" and
    "NVIDIA GeForce RTX 3090"; `a10` is not in the former.
    """
    if not gpus:
        return card == "cpu"
    wanted, words = "".join(_words(card)), _words(device or "")
    return any(wanted == "".join(words[i:j]) for i in range(len(words)) for j in range(i + 1, len(words) + 1))


def _words(name: str) -> list[str]:
    return re.findall("[a-z0-9]+", name.lower())


class Measured:
    """Holds what the results folder knows of speed.

    Args:
        card: others' measurements are passed over, and remembered in `foreign`.
    """

    def __init__(self, study: Study, card: str) -> None:
        self.study = study
        self.card = card
        self.foreign: set[str] = set()
        self._reruns: set[Step] = set()
        #: GPU-hours (on CPUs: hours) and images of finished jobs, by what they do with an image.
        self._hours: dict[str, list[tuple[float, int]]] = defaultdict(list)
        self._rows = {row["key"]: row for row in self._preflight()}

    def _preflight(self) -> list[Record]:
        rows = []
        for path in sorted(Path(self.study.results, PREFLIGHT).glob("*.json")):
            found = read_json(path) or {}
            machine = found.get("machine", {})
            if self._counts(machine.get("device"), machine.get("gpus", 0)):
                rows += [row for row in found.get("rows", []) if "images_per_second" in row]  # not: out of memory
        return rows

    def _counts(self, device: str | None, gpus: int) -> bool:
        if is_card(self.card, device, gpus):
            return True
        self.foreign.add(device or "CPU")
        return False

    # -------------------------------------------------------------------------------------------------- finished jobs
    def finished(self, step: Step, job: Job, upstream: Step | None) -> Record | None:
        """Returns the provenance of a finished job that Snakemake would not run again, else None.

        Ask for a run's steps in order: what follows a step that runs again runs again, too.

        Args:
            upstream: the step whose files it takes.
        """
        folder = Path(self.study.folder(step))
        record, ran = read_json(folder / "metrics.json"), read_json(folder / "job.json")
        if record is None or upstream in self._reruns or (ran is not None and ran.get("job") != job.plain()):
            self._reruns.add(step)
            return None
        return record.get("provenance") or {}

    def learn(self, key: str, provenance: Record, amount: Amount) -> None:
        """Remembers what a finished job took, for others that do the same with an image."""
        hours, images = hours_of(provenance), amount.trained or amount.evaluated
        if hours and images and self._counts(provenance.get("device"), provenance.get("gpus", 0)):
            self._hours[key].append((hours, images))

    def hours(self, key: str, amount: Amount) -> float | None:
        """Returns the GPU-hours of a job by finished jobs that do the same with an image; None without one."""
        known = self._hours.get(key)
        if not known:
            return None
        return (
            sum(hours for hours, _ in known) / sum(images for _, images in known) * (amount.trained or amount.evaluated)
        )

    # ------------------------------------------------------------------------------------------------------- preflight
    def row(self, key: str, job: Job) -> Record | None:
        """Returns what was measured on this very work; else on its task, baseline and backbone, MTO alike; or None."""
        if key in self._rows:
            return self._rows[key]
        return next((row for row in self._rows.values() if _kind(row) == _kind(job.plain())), None)


def _kind(given: Record) -> tuple[Any, ...]:
    mto = given.get("mto") or {}
    return given["task"], given["baseline"], given["backbone"], bool(mto.get("terms"))


def hours_of(provenance: Record) -> float:
    """Returns the GPU-hours of a job; of one on the CPU, its hours."""
    return float(provenance.get("gpu_hours") or 0.0) or float(provenance.get("wall_seconds") or 0.0) / 3600
