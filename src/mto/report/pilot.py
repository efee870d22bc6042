"""The pilot's table: what the first epochs say of each preset of MTO, and what the whole would cost."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from mto.errors import UserError
from mto.losses.collapsed import CONSTANT, collapsed
from mto.names import BASELINES, Run, Step
from mto.report import metrics
from mto.report.labels import baseline_name
from mto.report.sheet import UNKNOWN, Column, Sheet

BENIGN, HARMFUL, EARLY = "benign", "harmful", "too early to say"
#: A run with MTO may lose this part more than the run without, and still be called benign.
HARM = 0.02
FIELDS = (
    *("run", "verdict", "loss", "loss_without_mto", "constant_ratio", "masked_cosine", "modal_share"),
    *("epochs", "gpu_hours", "wall_hours", "whole_gpu_hours", "whole_wall_hours"),
)


def _rows(history: Path) -> list[dict[str, Any]]:
    try:
        rows = [json.loads(line) for line in history.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise UserError(f"{history}: damaged ({error}); remove {history.parent} and run again") from error
    if not rows:
        raise UserError(f"{history}: empty; remove {history.parent} and run again")
    return rows


class Pilot:
    """One run of the pilot.

    Args:
        folder: its metrics.json and history.jsonl.
        warmup: epochs of the rate's warm-up.
    """

    def __init__(self, name: str, folder: Path, warmup: float) -> None:
        self.run = Run.parse(name)
        record = metrics.read(folder / "metrics.json")
        self.made = record.get("provenance") or {}
        rows = _rows(folder / "history.jsonl")
        #: The last epoch's rows; none if the rate was still rising.
        self.last = [row for row in rows if row["epoch"] > max(rows[-1]["epoch"] - 1, warmup)]
        self.rows = self.last or rows[-1:]

    def value(self, name: str) -> float:
        """Returns the mean of a scalar over the last epoch; BootMAE's are those of its pixels."""
        name = next((key for key in (f"pixel/{name}", name) if key in self.rows[-1]), name)
        return statistics.fmean(row[name] for row in self.rows if name in row)

    @property
    def loss(self) -> float:
        return self.value(BASELINES[self.run.baseline].loss)

    def verdict(self, plain: Pilot) -> str:
        """Judges a run with MTO beside the one without.

        Harmful: collapsed all through the last epoch, or a loss more than `HARM` above that without MTO. Too early to
        say: the rate is still rising, or the run without MTO is itself no better than a constant.
        """
        if not self.last or plain.value("constant_ratio") > CONSTANT:
            return EARLY
        worse = self.loss > (1 + HARM) * plain.loss
        return HARMFUL if worse or all(map(collapsed, self.rows)) else BENIGN


def sheet(job: dict[str, Any], results: Path) -> Sheet:
    """Builds the table of a pilot's job (`Study.pilot_report_job`), from `results`/pilot."""
    found = {
        name: Pilot(name, results / Step("pilot", name, job["seed"], job["epochs"]).folder, warmup)
        for name, warmup in job["runs"].items()
    }
    title = f"MTO after {job['epochs']} of {job['pretrain_epochs']} epochs"
    table = Sheet("pilot", "Pilot", title, f"Scale {job['scale']}, seed {job['seed']}.", [], fields=FIELDS)
    table.columns = [
        *(Column("Baseline", align="l"), Column("MTO", align="l"), Column("Verdict", align="l")),
        *(Column("own", "Loss"), Column("against without MTO", "Loss"), Column("of a constant's", "Loss")),
        *(Column("cosine", "Masked tokens"), Column("nearest to one", "Masked tokens")),
        *(Column("pilot, h", "Cost"), Column("whole schedule, h", "Cost")),
    ]
    for name, pilot in found.items():
        plain = found[Run(pilot.run.baseline, pilot.run.backbone).name]
        verdict = pilot.verdict(plain) if pilot.run.terms else ""
        signs = {sign: pilot.value(sign) for sign in ("constant_ratio", "masked_cosine", "modal_share")}
        cost = {kind: pilot.made.get(key, 0.0) / per for kind, key, per in COSTS}
        times = job["pretrain_epochs"] / job["epochs"]
        table.records.append(
            {
                **{"run": name, "verdict": verdict, "loss": pilot.loss, "loss_without_mto": plain.loss, **signs},
                **{"epochs": job["epochs"], **cost},
                **{f"whole_{kind}": hours * times for kind, hours in cost.items()},
            }
        )
        preset = (pilot.run.preset or job["default"]) if pilot.run.terms else "without"
        against = f"{100 * (pilot.loss / plain.loss - 1):+.1f} %".replace("-", "−") if pilot.run.terms else UNKNOWN
        hours = cost["gpu_hours"] or cost["wall_hours"]
        table.rows.append(
            [
                *(baseline_name(name), preset, verdict or UNKNOWN, f"{pilot.loss:.3f}", against),
                *(f"{value:.2f}" for value in signs.values()),
                *(f"{hours:.2f}", f"{hours * times:.1f}"),
            ]
        )
    table.notes += [
        f"Means over the last epoch. Harmful: the loss is more than {HARM:.0%} above that without MTO, or the masked "
        "tokens have collapsed. Too early to say: the rate still rises, or without MTO too the loss is a constant's.",
        "Cost: GPU-hours, or hours by the clock where there is no GPU, of one run; the whole schedule by proportion.",
        "A preset that is benign here may still harm later: a pilot sees the beginning alone.",
    ]
    return table


COSTS = (("gpu_hours", "gpu_hours", 1), ("wall_hours", "wall_seconds", 3600))
