"""The five tables. Each takes a report and returns its sheet; ours is the mean ± standard deviation over seeds."""

from __future__ import annotations

from collections.abc import Callable

from mto.names import TERMS, Cell, Run
from mto.report import printed, verdict
from mto.report.audit import audit
from mto.report.comparison import Comparison
from mto.report.labels import baseline_name
from mto.report.metrics import Report
from mto.report.preset_table import table_presets
from mto.report.rauc import rauc
from mto.report.sheet import UNKNOWN, Column, Sheet

SCRATCH = "from scratch"
#: The epochs at which the paper prints linear probes.
PRINTED = (400, 800)
KNN = ("top1", "top5")
BEST = "Last: after the last epoch. Best: the best epoch of the same run, chosen on the validation set."


def _with_mto(baseline: str) -> tuple[str, str]:
    run = Run.parse(baseline)
    return run.name, run.with_mto.name


def table1_rauc(report: Report) -> Sheet:
    """Builds Table 1: RAUC of the fine-tuning curves; beside it the epochs that MTO saves (Section 5.3, Figure 4)."""
    table = Comparison(report, "Table 1", "Fine-tuning over pre-training: RAUC (Eq. 6), and the epochs that MTO saves.")
    windows = [(first, last) for first, last in report.plan["windows"]]
    final = report.job["pretrain_epochs"]
    ratios = [table.compared("ours", group=f"RAUC {report.window(*w)}", elsewhere=False) for w in windows]
    saved = table.compared(f"to match (of {final})", "saved", "saved, %", group="Epochs", elsewhere=False)
    accuracies = [Column(name, "Top-1 (%)") for name in ("from scratch", "without MTO", "with MTO") if report.scratch]
    table.sheet.columns = [
        *(Column("Baseline", align="l"), *accuracies),
        *(*(c for r in ratios for c in r), *saved, *table.closing()),
    ]
    judged = {
        name: verdict.of(report, name) for name in dict.fromkeys([*report.plan["baselines"], *report.plan["saved"]])
    }
    for baseline, found in judged.items():
        plain, run = _with_mto(baseline)
        ends = [*table.scratch(plain), Cell("finetune", plain, final, "top1"), Cell("finetune", run, final, "top1")]
        texts = [table.measured(cell)[0] for cell in ends] if report.scratch else []
        mark = "‡" if found.kind == "void" else ""
        for window, columns in zip(windows, ratios, strict=True):
            first, last = map(report.paper_epoch, window)
            in_table = baseline in report.plan["baselines"]
            column = f"rauc@{first}-{last}"
            texts += table.ratio(plain, run, window, column=column, mark=mark) if in_table else [""] * len(columns)
        texts += table.saving(run, found) if baseline in report.plan["saved"] else [""] * len(saved)
        texts[-len(saved)] += mark if baseline in report.plan["saved"] else ""
        cells = [cell for cell in report.cells if cell.run in (plain, run)]
        table.sheet.rows.append([baseline_name(plain), *texts, *table.close(cells)])
    epochs = ", ".join(map(str, report.plan["epochs"]))
    if void := {name: found.sentence for name, found in judged.items() if found.kind == "void"}:
        said = "; ".join(f"{baseline_name(name)}, {sentence}" for name, sentence in void.items())
        table.sheet.notes.append(
            f"‡ Nothing follows from RAUC or epochs saved of a baseline that has learnt nothing: {said}."
        )
    if report.scratch:
        table.sheet.notes.append(f"Top-1: fine-tuned without pre-training, and after {final} epochs of it.")
    table.sheet.notes.append(
        f"RAUC by the trapezoid rule on those of the checkpoints {epochs} that its window holds. To match: the earliest"
        " epoch, linear between checkpoints, at which fine-tuning with MTO reaches the baseline's final top-1."
    )
    return table.done()


def table2_linear(report: Report) -> Sheet:
    """Builds Table 2: linear probes without and with MTO, and their RAUC."""
    level, epochs = report.plan["baseline_epoch"], report.plan["epochs"]
    table = Comparison(report, "Table 2", "Linear probing, top-1 (%), and RAUC (Eq. 6).")
    window = (epochs[0], epochs[-1])
    accuracies = [c for e in epochs for c in table.compared("last", "best", group=report.epochs(e))]
    ratio = [
        *table.compared("ours", group=f"RAUC {report.window(*window)}", elsewhere=False),
        Column("Eq. 6 on the paper's points", f"RAUC {report.window(*window)}"),
        *([Column(f"level of epoch {level}", f"RAUC {report.window(*window)}")] if level else []),
    ]
    table.sheet.columns = [
        *(Column("Baseline", align="l"), Column("MTO", align="c")),
        *(*accuracies, *ratio, *table.closing()),
    ]
    for baseline in report.plan["baselines"]:
        plain, run = _with_mto(baseline)
        for cell in table.scratch(plain):
            texts = table.measured(cell, best="top1_best") * len(epochs)
            table.sheet.rows.append([baseline_name(plain), SCRATCH, *texts, *[""] * len(ratio), *table.close([cell])])
        for name, mark in ((plain, ""), (run, "✓")):
            cells = [Cell("linear", name, epoch, "top1") for epoch in epochs]
            texts = [text for cell in cells for text in table.measured(cell, best="top1_best")]
            if name == run:
                first, last = map(report.paper_epoch, window)
                texts += table.ratio(plain, run, window, column=f"rauc@{first}-{last}")
                texts.append(printed_rauc(plain, run) if (first, last) == PRINTED else UNKNOWN)
                texts += table.ratio(plain, run, window, level)[:1] if level else []
            else:
                texts += [""] * len(ratio)
            table.sheet.rows.append([baseline_name(plain), mark, *texts, *table.close(cells)])
    table.sheet.notes.append(BEST)
    if tuple(map(report.paper_epoch, window)) == PRINTED:
        table.sheet.notes.append(
            "The RAUC that the paper prints does not follow from its own printed accuracies by Eq. 6; both are shown, "
            "where all of those are known."
        )
    (lost,) = printed.unassigned("table2_linear")
    table.sheet.notes.append(
        f"Of BootMAE's two 400-epoch accuracies one is lost in the text that we read, and it does not tell whether the "
        f"other, {lost['value']}, is without or with MTO."
    )
    return table.done()


def printed_rauc(plain: str, run: str) -> str:
    """Computes Eq. 6 on the linear probes that the paper prints at `PRINTED` epochs; a dash where one is lost."""
    numbers = printed.load("table2_linear")
    curves = [
        {epoch: float(numbers[name, f"top1@{epoch}"]) for epoch in PRINTED if (name, f"top1@{epoch}") in numbers}
        for name in (plain, run)
    ]
    return f"{rauc(curves[0], curves[1]):.2f}" if all(len(curve) == 2 for curve in curves) else UNKNOWN


def table3_objectives(report: Report) -> Sheet:
    """Builds Table 3: fine-tuning accuracy by which of MTO's three terms are used."""
    base = baseline_name(report.plan["baseline"])
    title = f"MTO's terms, {base}, fine-tuning top-1 (%) at {report.epochs(report.plan['epoch'])}."
    table = Comparison(report, "Table 3", title)
    marks = {"spa": "L_spa (Eq. 3)", "e": "L_e (Eq. 4)", "r": "L_r (Eq. 5)"}
    table.sheet.columns = [
        *(Column(marks[t], align="c") for t in TERMS),
        *table.compared("last", "best", elsewhere=False),
        *table.closing(),
    ]
    for cell in table.scratch(report.plan["baseline"]):
        texts = table.measured(cell, best="top1_best")[:-1]
        table.sheet.rows.append([SCRATCH, "", "", *texts, *table.close([cell])])
    for cell in report.cells:
        terms = Run.parse(cell.run).terms
        ticks = ["✓" if term in terms else "" for term in TERMS]
        table.sheet.rows.append([*ticks, *table.measured(cell, best="top1_best")[:-1], *table.close([cell])])
    table.sheet.notes.append(BEST)
    return table.done()


def table_knn(report: Report) -> Sheet:
    """Builds a table of ours: the vote of the nearest training images, without and with MTO."""
    title = "Weighted vote of the nearest training images, top-1 (%); ours, beyond the paper."
    table = Comparison(report, "Nearest neighbours", title)
    table.sheet.columns = [
        *(Column("Baseline", align="l"), Column("MTO", align="c"), Column("Epochs"), Column("top-1"), Column("top-5")),
        *table.closing(),
    ]
    for run, epoch in report.rows:
        cell = Cell(table.task, run, epoch, "top1")
        values = {name: report.values(cell._replace(metric=name)) for name in KNN}
        source = report.place(cell).value
        texts = [table.quantity(run, name, found, None, epoch, source=source)[0] for name, found in values.items()]
        mark = "✓" if Run.parse(run).terms else "" if epoch else SCRATCH
        table.sheet.rows.append([baseline_name(run), mark, report.epoch(epoch), *texts, *table.close([cell])])
    return table.done()


def tableS1_ade20k(report: Report) -> Sheet:
    """Builds Supplementary Table 1: UPerNet on ADE20K."""
    title = "Semantic segmentation, UPerNet on ADE20K, mIoU (%)."
    return _transfer(report, "Supplementary Table 1", title, {"mIoU": "mIoU"})


def tableS2_coco(report: Report) -> Sheet:
    """Builds Supplementary Table 2: Mask R-CNN on COCO."""
    title = "Detection and instance segmentation, Mask R-CNN on COCO, AP (%)."
    return _transfer(report, "Supplementary Table 2", title, {"box_ap": "box AP", "mask_ap": "mask AP"})


def _transfer(report: Report, number: str, title: str, metrics: dict[str, str]) -> Sheet:
    table = Comparison(report, number, title)
    table.sheet.columns = [
        *(Column("Baseline", align="l"), Column("MTO", align="c"), Column("Epochs")),
        *(c for head in metrics.values() for c in table.compared("ours", group=head)),
        *table.closing(),
    ]
    for run, epoch in report.rows:
        cells = [Cell(table.task, run, epoch, metric) for metric in metrics]
        texts = [text for cell in cells for text in table.measured(cell)]
        mark = "✓" if Run.parse(run).terms else "" if epoch else SCRATCH
        table.sheet.rows.append([baseline_name(run), mark, report.epoch(epoch), *texts, *table.close(cells)])
    return table.done()


TABLES: dict[str, Callable[[Report], Sheet]] = {
    table.__name__: table
    for table in (
        *(table1_rauc, table2_linear, table3_objectives, tableS1_ade20k, tableS2_coco),
        *(table_presets, table_knn, audit),
    )
}
