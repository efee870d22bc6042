"""A measured quantity beside the paper's number and what others report: the texts that every table shares."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from mto.names import DATASETS, STAGES, Cell
from mto.report import printed
from mto.report.labels import baseline_name
from mto.report.metrics import Report, mean, std
from mto.report.rauc import gains, rauc
from mto.report.sheet import UNKNOWN, Column, Sheet, spread
from mto.report.sources import Sourced
from mto.report.verdict import Verdict

FLAT = "† The baseline gains nothing over these epochs: the ratio of Eq. 6 is undefined (—) or meaningless."


class Comparison:
    """Fills a sheet: each method returns the texts of a few cells and keeps the numbers behind them as records.

    Δ (ours minus the paper's) is a column at the paper scale alone: another scale measures something else.
    """

    def __init__(self, report: Report, number: str, title: str) -> None:
        self.report = report
        self.printed = printed.load(report.name)
        self.task = report.cells[0].task
        dataset = DATASETS[STAGES[self.task].dataset]
        self.paper, self.elsewhere = (
            name if report.is_paper_scale else f"{name} ({dataset})" for name in ("paper", "elsewhere")
        )
        self.sheet = Sheet(report.name, number, title, report.scale_line, [])
        if len(report.seeds) > 1:
            self.sheet.notes.append(f"Mean ± sample standard deviation over {len(report.seeds)} seeds.")
        self.sheet.notes.append(f"{UNKNOWN}: not printed in the paper, not reported elsewhere, or nothing to compare.")

    # ------------------------------------------------------------------------------------------------------ columns
    def compared(self, *ours: str, group: str = "", elsewhere: bool = True) -> list[Column]:
        """Returns the columns `ours... | paper | Δ | elsewhere` of one quantity."""
        theirs = [self.paper, *(["Δ"] if self.report.is_paper_scale else []), *([self.elsewhere] if elsewhere else [])]
        return [Column(name, group) for name in (*ours, *theirs)]

    def closing(self) -> list[Column]:
        """Returns the last columns of every table: `Seeds | GPU-hours`."""
        return [Column("Seeds"), Column("GPU-hours")]

    # -------------------------------------------------------------------------------------------------------- texts
    def measured(self, cell: Cell, best: str | None = None) -> list[str]:
        """Returns `ours, paper, Δ, elsewhere` of a cell; `ours` is the last epoch's, and after it the metric `best`."""
        epoch = self.report.paper_epoch(cell.epoch)
        source = self.report.place(cell).value
        column = f"{cell.metric}@{epoch}"
        texts = self.quantity(cell.run, cell.metric, self.report.values(cell), column, cell.epoch, source=source)
        if best:
            values = self.report.values(cell._replace(metric=best))
            texts[1:1] = self.quantity(cell.run, best, values, None, cell.epoch, source=source)[:1]
        return [*texts, self._elsewhere(cell, epoch)]

    def quantity(
        self,
        run: str,
        metric: str,
        values: list[float],
        column: str | None,
        epoch: int | None = None,
        digits: int = 2,
        source: str = "",
    ) -> list[str]:
        """Records a quantity with one value a seed, and returns its texts `ours, paper, Δ`.

        Args:
            column: its name in the paper's CSV.
            source: where ours comes from (`mto.report.sources`).
        """
        theirs = self.printed.get((run, column)) if column else None
        ours = mean(values) if values else math.nan
        delta = ours - float(theirs) if theirs and self.report.is_paper_scale and math.isfinite(ours) else None
        self.sheet.records.append(
            {
                "table": self.report.name,
                "scale": self.report.job["scale"],
                "run": run,
                "epoch": epoch,
                "paper_epoch": None if epoch is None else self.report.paper_epoch(epoch),
                "metric": metric,
                "mean": _rounded(ours),
                "std": _rounded(std(values)),
                "seeds": len(values),
                "paper": theirs,
                "delta": _rounded(delta),
            }
        )
        shown: list[str] = [Sourced(spread(values, digits), source), theirs or UNKNOWN]
        if self.report.is_paper_scale:
            signed = UNKNOWN if delta is None else f"{delta:+.{digits}f}".replace("-", "−")
            shown.append(UNKNOWN if delta is None else Sourced(signed, source))
        return shown

    def scratch(self, baseline: str) -> list[Cell]:
        """Returns a baseline's cells from scratch: none where the study does not ask for them."""
        return [cell for cell in self.report.scratch if cell.run == baseline]

    def _elsewhere(self, cell: Cell, epoch: int) -> str:
        """Returns what others report for this run and epoch, with sources; the notes add that of other epochs."""
        found = [r for r in printed.elsewhere() if (r.row, r.task, r.metric) == (cell.run, cell.task, cell.metric)]
        here = [f"{r.value} ({r.source})" for r in found if r.epoch == epoch]
        if any(r.epoch == epoch and "a schedule of" in r.note for r in found):
            ours = "" if self.report.is_paper_scale else f"{self.report.job['pretrain_epochs']}, which stand for "
            self._note(
                "Elsewhere, fewer than 800 epochs are a whole schedule of that length; here they are the middle of one "
                f"of {ours}800."
            )
        others = [f"{r.value} at {r.epoch} ({r.source})" for r in found if r.epoch not in self._epochs()]
        if others:
            self._note(f"{baseline_name(cell.run)}, {cell.metric} elsewhere at other epochs: {'; '.join(others)}.")
        return "; ".join(here) or UNKNOWN

    def _note(self, text: str) -> None:
        if text not in self.sheet.notes:
            self.sheet.notes.append(text)

    def _epochs(self) -> set[int]:
        return {self.report.paper_epoch(cell.epoch) for cell in self.report.cells}

    def ratio(
        self,
        plain: str,
        run: str,
        window: tuple[int, int],
        level: int | None = None,
        column: str | None = None,
        mark: str = "",
    ) -> list[str]:
        """Returns `ours, paper, Δ` of RAUC (Eq. 6) over a window of epochs; marked where the baseline gains nothing.

        Args:
            level: subtract the baseline's accuracy at this epoch instead of that at the window's begin.
            column: the quantity's name in the paper's CSV.
            mark: put behind ours.
        """
        pairs = self.report.curves(plain, run)
        metric = f"rauc_{window[0]}_{window[1]}" + (f"_from_{level}" if level else "")
        ratios = [rauc(base, mto, window, level) for base, mto in pairs]
        texts = self.quantity(run, metric, ratios, column, source=self._curves(run))
        if any(gains(base, mto, window, level)[0] <= 0 for base, mto in pairs):
            texts[0] += "†"
            self._note(FLAT)
        texts[0] += mark
        return texts

    def saving(self, run: str, verdict: Verdict) -> list[str]:
        """Returns `to match, saved, saved %, paper, Δ` of the epochs that MTO saves by the verdict."""
        ours: dict[str, Callable[..., float]] = {
            "epochs_to_match": lambda s: math.nan if s.epoch is None else s.epoch,
            "epochs_saved": lambda s: s.epochs,
            "saved_percent": lambda s: s.percent,
        }
        theirs = printed.load("fig4_epochs")
        self.printed = self.printed | {(run, "saved_percent"): theirs.get((run, "saved_percent"), "")}
        place = self._curves(run)
        texts = [
            self.quantity(run, name, list(map(of, verdict.savings)), name, digits=1, source=place)
            for name, of in ours.items()
        ]
        shown = [verdict.to_match, verdict.saved, verdict.percent]
        if verdict.kind == "open" and not verdict.savings:
            shown = [texts[0][0]] * 3
        return [*(Sourced(text, place) for text in shown), *texts[-1][1:]]

    def _curves(self, run: str) -> str:
        """Returns where the steps of a run's curve are listed, and those of its baseline's."""
        return self.report.place(next(cell for cell in self.report.cells if cell.run == run)).curves

    def close(self, cells: Iterable[Cell]) -> list[str]:
        """Returns `seeds, GPU-hours` of a row made of these cells."""
        cells = list(cells)
        there = sum(all(self.report.value(cell, seed) is not None for cell in cells) for seed in self.report.seeds)
        asked = len(self.report.seeds)
        hours = self.report.gpu_hours(cells)
        self.quantity(cells[-1].run, "gpu_hours", [] if hours is None else [hours], None)
        spent = UNKNOWN if hours is None else Sourced(f"{hours:,.1f}", self.report.place(cells[-1]).network)
        return [str(asked) if there == asked else f"{there} of {asked}", spent]

    def done(self) -> Sheet:
        """Returns the sheet, its last notes on what is missing and on what GPU-hours are."""
        self.sheet.notes += self.report.missing_notes
        self.sheet.notes.append(
            "GPU-hours: of every job behind the row, over all seeds; the pre-training of its runs is among them."
        )
        return self.sheet


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 6)
