"""The table of presets: ours, beyond the paper, made where `study.table_presets` asks for it."""

from __future__ import annotations

from mto.names import BASELINES, Cell, Run
from mto.report.labels import baseline_name
from mto.report.metrics import Report, mean, std
from mto.report.sheet import UNKNOWN, Column, Sheet, spread
from mto.report.sources import Sourced


def table_presets(report: Report) -> Sheet:
    """Builds the table of MTO's presets: accuracy, and what pre-training says of masked tokens in its last epoch."""
    sheet = Sheet(report.name, "Presets", "MTO's presets side by side; ours, not the paper's.", report.scale_line, [])
    sheet.columns = [
        *(Column("Baseline", align="l"), Column("MTO", align="l"), Column("Epochs")),
        *(Column("fine-tuning", "top-1 (%)"), Column("linear", "top-1 (%)")),
        *(Column("reconstruction", "Loss"), Column("of a constant's", "Loss")),
        *(Column("cosine", "Masked tokens"), Column("nearest to one", "Masked tokens"), Column("Seeds")),
    ]
    for run, epoch in report.rows:
        parsed = Run.parse(run)
        baseline = BASELINES[parsed.baseline]
        stream = f"{baseline.stream}/" if baseline.stream else ""
        signs = (baseline.loss, "constant_ratio", f"{stream}masked_cosine", f"{stream}modal_share")
        cells = [Cell(task, run, epoch, "top1") for task in ("finetune", "linear")]
        cells += [Cell("pretrain", run, epoch, sign) for sign in signs if epoch]
        preset = (parsed.preset or report.plan["default"]) if parsed.terms else "without" if epoch else "from scratch"
        values = [report.values(cell) for cell in cells]
        texts: list[str] = [
            Sourced(spread(found, digits=2 if cell.metric == "top1" else 3), report.place(cell).value)
            for cell, found in zip(cells, values, strict=True)
        ]
        texts += [] if epoch else [UNKNOWN] * len(signs)
        seeds = min(map(len, values))
        sheet.rows.append([baseline_name(run), preset, report.epoch(epoch), *texts, str(seeds)])
        sheet.records += [
            {
                **{"table": report.name, "scale": report.job["scale"], "run": run, "epoch": epoch},
                **{
                    "paper_epoch": report.paper_epoch(epoch),
                    "metric": f"{cell.task}/{cell.metric}",
                    "seeds": len(found),
                },
                **{"mean": round(mean(found), 6) if found else None, "std": std(found), "paper": None, "delta": None},
            }
            for cell, found in zip(cells, values, strict=True)
        ]
    sheet.notes += [
        "Loss: the baseline's own, in the last epoch, and as a part of what one patch for all masked ones of an image "
        "would lose: at 1 nothing is learnt of places.",
        "Masked tokens, in the last layer: their mean cosine within an image, and the share of them nearest to the "
        "same visible token. Healthy ones may be close too; with a constant's loss they have collapsed.",
        *report.missing_notes,
    ]
    return sheet
