"""Training curves: every run's history.jsonl files, joined along its chain of segments and thinned."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path

from mto.names import IMPORTED, TERMS, Run

#: A curve is drawn through this many points, and read from about this many rows of each file.
POINTS, ROWS = 128, 1000
_LAYER = re.compile(r"(?:(?P<stream>\w+)/)?heterogeneity_(?P<layer>\d+)")
Points = list[tuple[float, float]]


@dataclass
class History:
    """One run with one seed.

    Attributes:
        epochs: pre-trained so far.
        rows: of history.jsonl, thinned, in the order of their steps.
        imported: the last segment is a published checkpoint, which has no history.
    """

    run: str
    seed: int
    rows: list[dict[str, float]] = field(default_factory=list)
    epochs: float = 0.0
    imported: bool = False

    @property
    def names(self) -> list[str]:
        """Every scalar that was logged, in order of appearance."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def series(self, name: str) -> Points:
        """Returns (epoch, value) of a scalar, where there is one."""
        return [(row["epoch"], row[name]) for row in self.rows if name in row]

    @property
    def losses(self) -> list[str]:
        """The baseline's own losses, without MTO's terms; the total where a run logged nothing else."""
        mine = [n for n in self.names if n.startswith("loss_") and n.removeprefix("loss_") not in TERMS]
        return mine or [name for name in self.names if name == "loss"]

    @property
    def terms(self) -> list[str]:
        """MTO's terms that this run logged, unweighted."""
        return [name for term in TERMS if (name := f"loss_{term}") in self.names]

    @property
    def layers(self) -> dict[str, list[str]]:
        """Stream ("" if there is one) to the names of H in it, layer 0 first."""
        found: dict[str, dict[int, str]] = {}
        for name in self.names:
            if match := _LAYER.fullmatch(name):
                found.setdefault(match["stream"] or "", {})[int(match["layer"])] = name
        return {stream: [layers[depth] for depth in sorted(layers)] for stream, layers in found.items()}

    @property
    def signs(self) -> dict[str, dict[str, str]]:
        """Stream ("" if there is one) to what tells of a collapse in it: our words, and the scalar's name."""
        told = {"masked_cosine": "cosine", "modal_share": "on one", "constant_ratio": "loss"}
        found: dict[str, dict[str, str]] = {}
        for stream in self.layers:
            prefix = f"{stream}/" if stream else ""
            names = {word: prefix + sign if sign != "constant_ratio" else sign for sign, word in told.items()}
            found[stream] = {word: name for word, name in names.items() if name in self.names}
        return {stream: names for stream, names in found.items() if names}

    @property
    def pulls(self) -> dict[str, str]:
        """Whose gradient has which norm: the method's own losses', and the weighted terms' of MTO."""
        names = {"method": "gradient_method", **{f"L {term}": f"gradient_{term}" for term in TERMS}}
        return {word: name for word, name in names.items() if name in self.names}

    def ceiling(self, stream: str) -> float | None:
        """Returns ln V, the largest H there is, from H of layer 0 and its logged share of ln V."""
        prefix = f"{stream}/" if stream else ""
        for row in self.rows:
            share, first = row.get(f"{prefix}heterogeneity_ratio"), row.get(f"{prefix}heterogeneity_0")
            if share and first:
                return first / share
        return None

    def saturated(self, stream: str) -> float | None:
        """Returns the share of masked rows of the last layer whose softmax passes no gradient on, at the last row."""
        prefix = f"{stream}/" if stream else ""
        name = f"{prefix}saturated_{len(self.layers.get(stream, [])) - 1}"
        return next((row[name] for row in reversed(self.rows) if name in row), None)


def read_all(results: Path, epochs: int) -> list[History]:
    """Reads every run below results/pretrain, a segment in progress included, in the order of names and seeds.

    Args:
        epochs: length of the schedule, which `POINTS` stretches divide.
    """
    chains: dict[tuple[str, int], list[Path]] = {}
    for folder in sorted(results.glob("pretrain/*/seed*/epoch*")):
        chains.setdefault((folder.parts[-3], int(folder.parts[-2][4:])), []).append(folder)
    histories = [_chain(run, seed, folders, epochs) for (run, seed), folders in sorted(chains.items())]
    return [history for history in histories if history.rows or history.epochs]


def _chain(run: str, seed: int, segments: list[Path], epochs: int) -> History:
    history = History(run, seed)
    rows: dict[float, dict[str, float]] = {}  # by step, which no two segments log
    for folder in segments:
        done = (folder / "metrics.json").exists()
        if done:
            history.epochs = float(folder.name[5:])
        history.imported |= (folder / IMPORTED).exists()
        found = read(folder / "history.jsonl") or ([] if done else read(folder / "progress" / "history.jsonl"))
        rows |= {row["step"]: row for row in found}
    history.epochs = max([history.epochs, *(row["epoch"] for row in rows.values())])
    history.rows = thin([rows[step] for step in sorted(rows)], epochs)
    return history


def read(path: Path) -> list[dict[str, float]]:
    """Reads rows of a history file, the last one among them; none if there is no file, or it is no history.

    A long file's rows are taken at an even stride, some `ROWS` of them: each is a mean over a log interval already.
    The few that compare gradients are all taken. A line cut short is left out.
    """
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    stride = max(len(lines) // ROWS, 1)
    rows = []
    first = (len(lines) - 1) % stride
    for place, line in enumerate(lines):
        if place % stride != first and '"gradient_' not in line:
            continue
        try:
            row = json.loads(line)
        except ValueError:
            continue
        rows.append({name: float(value) for name, value in row.items() if isinstance(value, int | float)})
    return [row for row in rows if {"step", "epoch"} <= row.keys()]


def thin(rows: list[dict[str, float]], epochs: int) -> list[dict[str, float]]:
    """Averages the rows of each of `POINTS` equal stretches of the schedule that has any, by what is finite in them."""
    stretches: dict[int, list[dict[str, float]]] = {}
    for row in rows:
        stretches.setdefault(math.ceil(row["epoch"] / epochs * POINTS), []).append(row)
    return [_means(members) for _, members in sorted(stretches.items())]


def _means(rows: list[dict[str, float]]) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.items():
            if math.isfinite(value):
                values.setdefault(name, []).append(value)
    return {name: sum(found) / len(found) for name, found in values.items()}


def is_ablation(run: str) -> bool:
    """Returns whether a run is one of Table 3's subsets, supplementary Figure 2's depths, or another preset of MTO."""
    parsed = Run.parse(run)
    return parsed.terms not in ((), TERMS) or parsed.decoder_depth is not None or parsed.preset is not None


def order(run: str) -> tuple[str, bool, tuple[str, ...], int, str]:
    """Returns the key that sorts the runs of one baseline: without MTO, with all of it, then the ablations."""
    parsed = Run.parse(run)
    return parsed.backbone, is_ablation(run), parsed.terms, parsed.decoder_depth or 0, parsed.preset or ""
