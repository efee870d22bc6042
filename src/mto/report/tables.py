"""The five tables. Each takes a report and returns its sheet; ours is the mean ± standard deviation over seeds."""

from __future__ import annotations

import math
from typing import Any

from mto.errors import UserError
from mto.report import printed
from mto.report.curves import epochs_saved, gains, rauc
from mto.report.labels import baseline_name
from mto.report.metrics import Cell, Report, mean, std
from mto.report.sheet import UNKNOWN, Column, Sheet
from mto.study import TERMS, Run

FLAT = "† The baseline gains nothing over these epochs: the ratio of Eq. 6 is undefined (—) or meaningless."


class _Builder:
    """Turns measured values into shown texts and tidy records at once, beside the paper's."""

    def __init__(self, report: Report, number: str, title: str) -> None:
        self.report = report
        self.printed = printed.load(report.name)
        dataset = {"ade20k": "ADE20K", "coco": "COCO"}.get(report.cells[0].task, "ImageNet-1K")
        self.paper = "paper" if report.is_paper_scale else f"paper ({dataset})"
        self.sheet = Sheet(report.name, number, title, report.scale_line, [])
        if len(report.seeds) > 1:
            self.sheet.notes.append(f"Mean ± sample standard deviation over {len(report.seeds)} seeds.")
        self.sheet.notes.append(
            f"{UNKNOWN}: not printed in the part of the paper's text at hand, or nothing to compare."
        )
        shown = {f"{Run.parse(cell.run).baseline}-{Run.parse(cell.run).backbone}" for cell in report.cells}
        official = {key: value for key, value in printed.official(report.cells[0].task).items() if key[0] in shown}
        if official:
            listed = "; ".join(
                f"{baseline_name(run)} {value} ({epochs} epochs)" for (run, epochs), value in official.items()
            )
            self.sheet.notes.append(f"The baselines' own repositories report: {listed}.")
        if not report.is_paper_scale:
            self.sheet.notes.append(
                "No Δ (ours minus the paper's) is given: this scale and the paper's measure different things."
            )

    def compared(self, *names: str, group: str = "") -> list[Column]:
        """The columns `ours | paper | Δ` of one quantity."""
        return [Column(name, group) for name in (*names, self.paper, "Δ")]

    def measured(self, cell: Cell) -> list[str]:
        """Texts `ours, paper, Δ` of one cell."""
        key = (cell.run, f"{cell.metric}@{self.report.paper_epoch(cell.epoch)}")
        return self.quantity(cell.run, cell.metric, self.report.values(cell), key, cell.epoch)

    def quantity(
        self, run: str, metric: str, values: list[float], key: tuple[str, str], epoch: int | None = None
    ) -> list[str]:
        """Texts `ours, paper, Δ` of a quantity with one value a seed; `key` is (row, column) in the paper's CSV."""
        theirs = self.printed.get(key)
        ours = mean(values)
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
        return [spread(values), theirs or UNKNOWN, UNKNOWN if delta is None else f"{delta:+.2f}".replace("-", "−")]

    def ratio(self, plain: str, run: str, baseline_epoch: int | None = None) -> list[str]:
        """Texts `ours, paper, Δ` of RAUC; marked where the baseline gains nothing."""
        curves = [(self.report.curve(plain, seed), self.report.curve(run, seed)) for seed in self.report.seeds]
        metric = "rauc" if baseline_epoch is None else f"rauc_from_{baseline_epoch}"
        try:
            values = [rauc(base, mto, baseline_epoch) for base, mto in curves]
        except ValueError as error:
            raise UserError(f"config.yaml: study.{self.report.name}: {plain}: {error}") from None
        texts = self.quantity(run, metric, values, (run, metric))
        if any(gains(base, mto, baseline_epoch)[0] <= 0 for base, mto in curves):
            texts[0] += "†"
            if FLAT not in self.sheet.notes:
                self.sheet.notes.append(FLAT)
        return texts

    def saving(self, plain: str, run: str) -> list[str]:
        """Texts of the epochs to match the baseline's final accuracy, and of the saving in epochs and percent."""
        savings = [
            epochs_saved(self.report.curve(plain, seed), self.report.curve(run, seed)) for seed in self.report.seeds
        ]
        to_match = [math.nan if s.epoch is None else s.epoch for s in savings]
        measured = {
            "epochs_to_match": to_match,
            "epochs_saved": [s.epochs for s in savings],
            "saved_percent": [s.percent for s in savings],
        }
        for name, values in measured.items():
            self.quantity(run, name, values, (run, name))
        texts = [spread(values, digits=1) for values in measured.values()]
        missed = sum(s.epoch is None for s in savings)
        if missed:
            never = "not reached" if len(savings) == 1 else f"not reached in {missed} of {len(savings)} seeds"
            return [never, UNKNOWN, UNKNOWN]
        if any(s.at_first for s in savings):
            return [f"≤ {texts[0]}", f"≥ {texts[1]}", f"≥ {texts[2]}"]
        return texts


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 6)


def spread(values: list[float], digits: int = 2) -> str:
    """`83.57 ± 0.08` over seeds, the plain value for one seed, a dash where undefined."""
    if not all(map(math.isfinite, values)):
        return UNKNOWN
    deviation = std(values)
    center = f"{mean(values):.{digits}f}"
    return center if deviation is None else f"{center} ± {deviation:.{digits}f}"


def _with_mto(baseline: str) -> tuple[str, str]:
    run = Run.parse(baseline)
    return run.name, Run(run.baseline, run.backbone, TERMS).name


def table1_rauc(report: Report) -> Sheet:
    """Table 1: RAUC of the fine-tuning curves, and the epochs that MTO saves."""
    level = report.plan.get("baseline_epoch")
    build = _Builder(report, "Table 1", "Fine-tuning over pre-training epochs: RAUC (Eq. 6) and epochs saved by MTO.")
    final = report.job["pretrain_epochs"]
    build.sheet.columns = [
        Column("Baseline", align="l"),
        *build.compared("Eq. 6", group="RAUC"),
        *([Column(f"level of epoch {level}", "RAUC")] if level else []),
        Column(f"to match (of {final})", "Epochs"),
        Column("saved", "Epochs"),
        Column("saved, %", "Epochs"),
        Column("Seeds"),
    ]
    for baseline in report.plan["baselines"]:
        plain, run = _with_mto(baseline)
        other = build.ratio(plain, run, level)[:1] if level else []
        texts = [*build.ratio(plain, run), *other, *build.saving(plain, run)]
        build.sheet.rows.append([baseline_name(plain), *texts, str(len(report.seeds))])
    epochs = ", ".join(map(str, report.plan["epochs"]))
    build.sheet.notes += [
        f"RAUC by the trapezoid rule on the checkpoints {epochs}. To match: the earliest epoch, linear between "
        "checkpoints, at which fine-tuning with MTO reaches the baseline's final top-1.",
        "The paper quotes reductions of 54, 58, 50 and 43 % (to 368, 336, 400 and 456 of 800 epochs); the text at hand "
        "does not say of which baselines.",
    ]
    return build.sheet


def table2_linear(report: Report) -> Sheet:
    """Table 2: linear probes without and with MTO, and their RAUC."""
    level = report.plan.get("baseline_epoch")
    build = _Builder(report, "Table 2", "Linear probing, top-1 (%), and RAUC (Eq. 6).")
    build.sheet.columns = [
        Column("Baseline", align="l"),
        Column("MTO", align="c"),
        *(c for epoch in report.plan["epochs"] for c in build.compared("ours", group=report.epochs(epoch))),
        *build.compared("ours", group="RAUC"),
        Column("Eq. 6 on the paper's points", "RAUC"),
        *([Column(f"level of epoch {level}", "RAUC")] if level else []),
        Column("Seeds"),
    ]
    blank = [""] * (5 if level else 4)
    for baseline in report.plan["baselines"]:
        plain, run = _with_mto(baseline)
        for name, mark in ((plain, ""), (run, "✓")):
            cells = [Cell("linear", name, epoch, "top1") for epoch in report.plan["epochs"]]
            texts = [text for cell in cells for text in build.measured(cell)]
            if name == run:
                other = build.ratio(plain, run, level)[:1] if level else []
                texts += [*build.ratio(plain, run), _printed_rauc(build.printed, plain, run), *other]
            else:
                texts += blank
            build.sheet.rows.append([baseline_name(plain), mark, *texts, str(len(report.seeds))])
    build.sheet.notes += [
        "The RAUC that the paper prints does not follow from its own printed accuracies by Eq. 6; both are shown.",
        "Of BootMAE's two 400-epoch cells the text at hand has one, 63.8, without saying which.",
    ]
    return build.sheet


def _printed_rauc(numbers: dict[tuple[str, str], str], plain: str, run: str) -> str:
    """Eq. 6 on the accuracies that the paper prints at 400 and 800 epochs."""
    curves: list[dict[int, float]] = [
        {epoch: float(numbers[name, f"top1@{epoch}"]) for epoch in (400, 800) if (name, f"top1@{epoch}") in numbers}
        for name in (plain, run)
    ]
    return f"{rauc(curves[0], curves[1]):.2f}" if all(len(curve) == 2 for curve in curves) else UNKNOWN


def table3_objectives(report: Report) -> Sheet:
    """Table 3: which of MTO's three terms."""
    base = baseline_name(report.plan["baseline"])
    title = f"MTO's terms, {base}, fine-tuning top-1 (%) at {report.epochs(report.plan['epoch'])}."
    build = _Builder(report, "Table 3", title)
    marks = {"spa": "L_spa (Eq. 3)", "e": "L_e (Eq. 4)", "r": "L_r (Eq. 5)"}
    build.sheet.columns = [*(Column(marks[t], align="c") for t in TERMS), *build.compared("ours"), Column("Seeds")]
    for cell in report.cells:
        terms = Run.parse(cell.run).terms
        ticks = ["✓" if term in terms else "" for term in TERMS]
        build.sheet.rows.append([*ticks, *build.measured(cell), str(len(report.seeds))])
    return build.sheet


def tableS1_ade20k(report: Report) -> Sheet:
    """Supplementary Table 1: UPerNet on ADE20K."""
    title = "Semantic segmentation, UPerNet on ADE20K, mIoU (%)."
    return _transfer(report, "Supplementary Table 1", title, {"mIoU": "mIoU"})


def tableS2_coco(report: Report) -> Sheet:
    """Supplementary Table 2: Mask R-CNN on COCO."""
    title = "Detection and instance segmentation, Mask R-CNN on COCO, AP (%)."
    return _transfer(report, "Supplementary Table 2", title, {"box_ap": "box AP", "mask_ap": "mask AP"})


def _transfer(report: Report, number: str, title: str, metrics: dict[str, str]) -> Sheet:
    build = _Builder(report, number, title)
    build.sheet.columns = [
        Column("Baseline", align="l"),
        Column("MTO", align="c"),
        Column("Epochs"),
        *(c for head in metrics.values() for c in build.compared("ours", group=head)),
        Column("Seeds"),
    ]
    for run, epoch in dict.fromkeys((cell.run, cell.epoch) for cell in report.cells):
        plain = Run.parse(run)
        texts = [text for metric in metrics for text in build.measured(Cell(report.cells[0].task, run, epoch, metric))]
        epochs = str(epoch) if report.paper_epoch(epoch) == epoch else f"{epoch} (paper: {report.paper_epoch(epoch)})"
        row: list[Any] = [baseline_name(run), "✓" if plain.terms else "", epochs, *texts, str(len(report.seeds))]
        build.sheet.rows.append(row)
    return build.sheet


TABLES = {
    table.__name__: table for table in (table1_rauc, table2_linear, table3_objectives, tableS1_ade20k, tableS2_coco)
}
