"""metrics.json files: all of them as one tidy table, or those behind the cells of one table or figure."""

from __future__ import annotations

import csv
import json
import math
import re
import statistics
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from mto.errors import UserError
from mto.files import replacing
from mto.names import BACKBONES, STAGES, Cell, Run, Step
from mto.report import sources
from mto.report.affinity import MEASURED, affinity_of

COLUMNS = (
    *("scale", "task", "run", "baseline", "backbone", "mto", "terms", "preset", "decoder_depth", "seed", "epoch"),
    *("metric", "affinity", "value", "device", "wall_seconds", "gpu_hours", "images_per_second", "commit"),
)
PROVENANCE = ("device", "wall_seconds", "gpu_hours", "images_per_second", "commit")
PAPER_EPOCHS = 800
#: Presets of MTO that follow the paper, its text or its equations; any other is somebody's own.
THE_PAPERS = ("text", "as_printed")
#: What captions call the stages that may use a share of the labels.
LABELS = {"finetune": "fine-tuned", "linear": "probed"}
PERCENT = re.compile(r"top[15]|mIoU|mAcc|aAcc|(box|mask)_ap")
IDENTITY = ("scale", "task", "run", "seed", "epoch")
NOT_THERE = "Not there yet, and left out"
SHOWN_MISSING = 12  # steps that a note names before it only counts


def read(path: Path) -> dict[str, Any]:
    """Reads and checks one metrics.json.

    Raises:
        UserError: naming the file, if it is missing, is not JSON, lacks a key, or holds a metric that is no number.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run `snakemake` so that its job makes it") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); delete it and run `snakemake` again") from None
    lacking = [key for key in (*IDENTITY, "metrics") if not isinstance(record, dict) or key not in record]
    if lacking:
        raise UserError(f"{path}: lacks {', '.join(lacking)}; delete it and run `snakemake` again")
    for name, value in record["metrics"].items():
        if isinstance(value, bool) or not isinstance(value, int | float | None):
            raise UserError(f"{path}: metrics.{name} must be a number, not {value!r}")
        if value is not None and PERCENT.match(name) and not 0 <= value <= 100:
            raise UserError(f"{path}: metrics.{name} is in percent, and not {value}; delete it and run `snakemake`")
    return record


def _refuse(constant: str) -> float:
    """Raises a ValueError: JSON has no NaN and no infinity, and what writes them has measured nothing."""
    raise ValueError(f"{constant} is no number")


def rows(record: dict[str, Any], default: str | None = None, affinity: str | None = None) -> list[dict[str, Any]]:
    """Returns the tidy rows of one metrics.json, a row a metric.

    Args:
        default: the preset of MTO that a run has whose name says none, if known.
        affinity: by which its heterogeneities were measured (`mto.report.affinity`), if known.
    """
    run = Run.parse(record["run"])
    given = record.get("provenance") or {}
    shared = {
        **{key: record[key] for key in IDENTITY},
        "baseline": run.baseline,
        "backbone": run.backbone,
        "mto": bool(run.terms),
        "terms": "+".join(run.terms),
        "preset": (run.preset or default) if run.terms else None,
        "decoder_depth": run.decoder_depth,
        **{key: given.get(key) for key in PROVENANCE},
    }
    return [
        {**shared, "metric": name, "affinity": affinity if MEASURED.fullmatch(name) else None, "value": value}
        for name, value in record["metrics"].items()
    ]


def finished(results: Path) -> list[Path]:
    """Lists the metrics.json of every finished step below results/<scale>; the pilot's runs are none of the study's."""
    found = (path for stage in STAGES for path in results.glob(f"{stage}/*/seed*/epoch*/metrics.json"))
    return sorted(found)


def write_results(paths: Iterable[Path], out: Path, default: str | None = None) -> int:
    """Writes results.csv, sorted by identity so that equal inputs give equal bytes; returns its number of rows.

    Args:
        default: as of `rows`.
    """
    records = [(path, read(path)) for path in paths]
    tidy = [row for path, record in records for row in rows(record, default, affinity_of(path, record["task"]))]
    tidy.sort(key=lambda row: (*(row[key] for key in IDENTITY), row["metric"]))
    write_csv(out, COLUMNS, tidy)
    return len(tidy)


def write_csv(out: Path, columns: Iterable[str], records: Iterable[dict[str, Any]]) -> None:
    """Writes records as CSV by atomic rename; None is an empty field."""
    with replacing(out) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)


@dataclass(frozen=True)
class Report:
    """A table's or figure's own job (`Study.report_job`) and the results folder that its cells are read from.

    A study that is not finished gives a report that is not complete: what has no file yet is left out and remembered in
    `missing`, by its folder. A file that is there and wrong is an error.
    """

    job: dict[str, Any]
    results: Path
    missing: dict[str, None] = field(default_factory=dict)
    _read: dict[Path, dict[str, Any] | None] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        return self.job["name"]

    @property
    def plan(self) -> dict[str, Any]:
        return self.job["plan"]

    @property
    def seeds(self) -> list[int]:
        return self.job["seeds"]

    @property
    def is_paper_scale(self) -> bool:
        return self.job["scale"] == "paper"

    @property
    def scale_line(self) -> str:
        """What every caption says of the scale, and of the preset of MTO."""
        if self.is_paper_scale:
            return f"Paper scale, recipe '{self.job['recipe']}'.{self._preset}"
        size = self.job["size"]
        networks = [
            f"{BACKBONES[name]} of width {width} and depth {depth}" for name, (width, depth) in size["networks"].items()
        ]
        labels = []
        for stage, shares in size.get("labels", {}).items():
            percents = " to ".join(f"{100 * share:g}" for share in sorted({shares[0], shares[-1]}))
            labels.append(f"{LABELS[stage]} on {percents} % of the labels")
        what = "; ".join([size["images"], *networks, *labels])
        return f"{self.job['scale'].capitalize()} scale: {what}; not comparable with the paper.{self._preset}"

    @property
    def _preset(self) -> str:
        preset = self.job.get("mto")
        if preset is None:
            return ""
        starts = sorted(set(self.job.get("starts_at", {}).values()))
        late = f", from epoch {' or '.join(map(str, starts))} on" if starts else ""
        return f" MTO by preset '{preset}'{late}" + ("." if preset in THE_PAPERS else ", which is not the paper's.")

    @property
    def footer(self) -> str:
        """The scale, what its epochs are, and what bars and bands are, for the foot of a figure."""
        seeds, epochs = len(self.seeds), self.job["pretrain_epochs"]
        stand = "" if epochs == PAPER_EPOCHS else f" {epochs} epochs stand for the paper's {PAPER_EPOCHS}."
        return self.scale_line + stand + (f" Mean and standard deviation over {seeds} seeds." if seeds > 1 else "")

    @cached_property
    def cells(self) -> list[Cell]:
        return [Cell(**cell) for cell in self.job["cells"]]

    @cached_property
    def scratch(self) -> list[Cell]:
        """The same from scratch, without pre-training: epoch 0."""
        return [Cell(**cell) for cell in self.job.get("scratch", [])]

    @property
    def rows(self) -> list[tuple[str, int]]:
        """(run, epoch) of every cell, in the plan's order; of each baseline the one from scratch comes first."""
        order = [Run.parse(cell.run).plain for cell in self.cells]
        cells = sorted((*self.scratch, *self.cells), key=lambda cell: order.index(Run.parse(cell.run).plain))
        return list(dict.fromkeys((cell.run, cell.epoch) for cell in cells))

    def paper_epoch(self, epoch: int) -> int:
        """Returns the paper's epoch (of 800) that an epoch of this scale stands for."""
        return round(epoch / self.job["pretrain_epochs"] * PAPER_EPOCHS)

    def epoch(self, epoch: int) -> str:
        """Returns `8 (paper: 800)`, or `800` where they are the same."""
        paper = self.paper_epoch(epoch)
        return f"{epoch}" + ("" if epoch == paper else f" (paper: {paper})")

    def epochs(self, epoch: int) -> str:
        """Returns `8 epochs (paper: 800)`, or `800 epochs` where they are the same."""
        return self.epoch(epoch).replace(str(epoch), f"{epoch} epochs", 1)

    def window(self, first: int, last: int) -> str:
        """Returns `(1, 4) (paper: 100, 400)`, or `(100, 400)` where they are the same."""
        paper = self.paper_epoch(first), self.paper_epoch(last)
        return f"({first}, {last})" + ("" if paper == (first, last) else f" (paper: {paper[0]}, {paper[1]})")

    def measured(self, cell: Cell, seed: int) -> Step:
        """Returns the step with a cell's value: until MTO is switched on (`mto.starts_at`), that of the run without."""
        shared = 0 < cell.epoch <= self.starts_at(cell.run)
        run = Run.parse(cell.run).without_mto.name if shared else cell.run
        return Step(cell.task, run, seed, cell.epoch)

    def starts_at(self, run: str) -> int:
        """Returns the epoch at which MTO is switched on in a run; 0: from the first on."""
        return self.job.get("starts_at", {}).get(run, 0)

    def place(self, cell: Cell) -> sources.Place:
        """Returns where the report lists the steps behind a cell."""
        return sources.of(self.measured(cell, seed=0))

    def folder(self, cell: Cell, seed: int) -> Path:
        return self.results / self.measured(cell, seed).folder

    def step(self, cell: Cell, seed: int) -> dict[str, Any] | None:
        """Returns the metrics.json behind a cell; None, and remembered as missing, where there is none yet.

        Raises:
            UserError: naming the file, if it is another step's.
        """
        path = self.folder(cell, seed) / "metrics.json"
        if path not in self._read:
            record = read(path) if path.exists() else None
            said = {"scale": self.job["scale"], **self.measured(cell, seed)._asdict()}
            for key, expected in said.items():
                if record is not None and record[key] != expected:
                    raise UserError(f"{path}: {key} is {record[key]!r}, but its folder says {expected!r}")
            self._read[path] = record
        if self._read[path] is None:
            self.missing[str(path.parent.relative_to(self.results))] = None
        return self._read[path]

    def value(self, cell: Cell, seed: int) -> float | None:
        """Returns one measured value; None where it is missing, NaN where the task measured none (null).

        Raises:
            UserError: naming the file, if it is another step's or lacks the metric.
        """
        record = self.step(cell, seed)
        if record is None:
            return None
        metrics = record["metrics"]
        if cell.metric not in metrics:
            path = self.folder(cell, seed) / "metrics.json"
            raise UserError(f"{path}: no metric '{cell.metric}' (it has: {', '.join(sorted(metrics))})")
        return float("nan") if metrics[cell.metric] is None else float(metrics[cell.metric])

    def values(self, cell: Cell) -> list[float]:
        """Returns one value a seed, of the seeds that have one."""
        found = (self.value(cell, seed) for seed in self.seeds)
        return [value for value in found if value is not None]

    def curve(self, run: str, seed: int) -> dict[int, float]:
        """Maps epoch to value, over this report's cells of one run that have one."""
        found = {cell.epoch: self.value(cell, seed) for cell in self.cells if cell.run == run}
        return {epoch: value for epoch, value in found.items() if value is not None}

    def curves(self, *runs: str) -> list[tuple[dict[int, float], ...]]:
        """Returns the curves of several runs, a tuple a seed, of the seeds for which every point of all is there."""
        asked = {run: {cell.epoch for cell in self.cells if cell.run == run} for run in runs}
        found = [{run: self.curve(run, seed) for run in runs} for seed in self.seeds]
        return [tuple(c[run] for run in runs) for c in found if all(c[run].keys() == asked[run] for run in runs)]

    def gpu_hours(self, cells: Iterable[Cell]) -> float | None:
        """Sums GPU-hours behind cells over all seeds: their jobs, and their runs' pre-training up to the last epoch.

        It is None where a job is missing or does not say.
        """
        cells = list(cells)
        steps = {self.measured(cell, seed) for cell in cells for seed in self.seeds}
        for run in {cell.run for cell in cells}:
            last = max(cell.epoch for cell in cells if cell.run == run)
            shared = min(self.starts_at(run), last)
            steps |= self._segments(run, shared, last) | self._segments(Run.parse(run).without_mto.name, 0, shared)
        total = 0.0
        for step in steps:
            path = self.results / step.folder / "metrics.json"
            hours = (read(path).get("provenance") or {}).get("gpu_hours") if path.exists() else None
            if hours is None:
                return None
            total += hours
        return total

    def _segments(self, run: str, after: int, last: int) -> set[Step]:
        """Returns a run's segments that end after an epoch and up to another: those that are there, and the last."""
        if after == last:
            return set()
        found = (self.results / "pretrain" / run).glob("seed*/epoch*")
        epochs = {int(folder.name.removeprefix("epoch")) for folder in found} | {last}
        return {Step("pretrain", run, seed, epoch) for epoch in epochs if after < epoch <= last for seed in self.seeds}

    @property
    def commit_notes(self) -> list[str]:
        """One sentence, if what was read so far was measured by more than one state of the code."""
        records = filter(None, self._read.values())
        commits = Counter(str((record.get("provenance") or {}).get("commit"))[:12] for record in records)
        if len(commits) < 2:
            return []
        parts = ", ".join(f"{number} at {commit}" for commit, number in commits.most_common())
        return [f"measured by {len(commits)} commits of the code: {parts}; results.csv says which."]

    @property
    def missing_notes(self) -> list[str]:
        """One sentence that names what was looked for and is missing so far; none if all is there."""
        names = list(self.missing)
        more = f" and {len(names) - SHOWN_MISSING} more" if len(names) > SHOWN_MISSING else ""
        return [f"{NOT_THERE}: {', '.join(names[:SHOWN_MISSING])}{more}."] if names else []


def mean(values: list[float]) -> float:
    """Returns the mean over seeds; NaN if one of them is."""
    return statistics.fmean(values)


def std(values: list[float]) -> float | None:
    """Returns the sample standard deviation over seeds; None for a single one, NaN if one of them is not finite."""
    if len(values) < 2:
        return None
    return statistics.stdev(values) if all(map(math.isfinite, values)) else math.nan
