"""Figure 4: fine-tuning accuracy over pre-training, without and with MTO, and the epochs that MTO saves."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mto.report import printed
from mto.report.curves import epochs_saved
from mto.report.figures import style
from mto.report.labels import baseline_name
from mto.report.metrics import Report, mean, std
from mto.study import TERMS, Run

COLUMNS = 3


def draw(report: Report) -> Figure:
    """A panel a baseline: mean over seeds, a band of one standard deviation, the baseline's final level, the saving."""
    baselines = report.plan["baselines"]
    cells = len(baselines) + 1 if len(baselines) % COLUMNS else len(baselines)  # a free cell holds the legend
    rows = -(-cells // COLUMNS)
    figure = style.new(2.15 * rows + 0.3, report.footer)
    grid = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axes, baseline in zip(grid, baselines, strict=False):
        _panel(axes, report, baseline)
    for index, axes in enumerate(grid[: len(baselines)]):
        if index % COLUMNS == 0:
            axes.set_ylabel("top-1 (%)")
        if index + COLUMNS >= len(baselines):
            axes.set_xlabel("pre-training epochs")
    for axes in grid[len(baselines) :]:
        axes.set_axis_off()
    found = [panel.get_legend_handles_labels() for panel in grid[: len(baselines)]]
    entries = {label: handle for handles, labels in found for handle, label in zip(handles, labels, strict=True)}
    handles, labels = list(entries.values()), list(entries)
    if len(grid) > len(baselines):
        grid[len(baselines)].legend(handles, labels, loc="center left")
    else:
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    return figure


def _panel(axes: Axes, report: Report, baseline: str) -> None:
    plain = Run.parse(baseline)
    means = []
    looks = ((), "without MTO", style.PLAIN, "o"), (TERMS, "with MTO", style.WITH_MTO, "s")
    for terms, label, color, marker in looks:
        run = Run(plain.baseline, plain.backbone, terms).name
        curves = [report.curve(run, seed) for seed in report.seeds]
        epochs = sorted(curves[0])
        values = [[curve[epoch] for curve in curves] for epoch in epochs]
        center = [mean(value) for value in values]
        if len(curves) > 1:
            spread = [std(value) or 0.0 for value in values]
            low = [m - s for m, s in zip(center, spread, strict=True)]
            high = [m + s for m, s in zip(center, spread, strict=True)]
            axes.fill_between(epochs, low, high, color=color, alpha=0.18, linewidth=0)
        axes.plot(epochs, center, color=color, marker=marker, label=label, clip_on=False, zorder=3)
        means.append(dict(zip(epochs, center, strict=True)))
    _saving(axes, *means)
    official = printed.official("finetune").get((baseline, report.job["pretrain_epochs"]))
    if report.is_paper_scale and official:
        end = max(means[0])
        axes.plot(
            [end], [float(official)], "D", markerfacecolor="white", color=style.PLAIN, label="official repository"
        )
    axes.set_xticks(sorted(means[0]))
    axes.margins(x=0.06, y=0.14)
    axes.set_title(baseline_name(baseline), pad=16)  # room for the saving between the title and the axes


def _saving(axes: Axes, base: dict[int, float], mto: dict[int, float]) -> None:
    """The baseline's final level, and an arrow back to where the curve with MTO reaches it."""
    saving = epochs_saved(base, mto)
    level = base[saving.of]
    axes.axhline(level, color=style.PLAIN, linewidth=0.8, linestyle=(0, (4, 3)), label="baseline's final accuracy")
    text = "baseline's final accuracy not reached"
    if saving.epoch is not None:
        text = f"{'≥ ' if saving.at_first else ''}{saving.percent:.0f} % fewer epochs"
        if saving.epochs > 0:
            arrow = {"arrowstyle": "-|>", "color": style.VERMILLION, "linewidth": 1.3, "shrinkA": 0, "shrinkB": 0}
            axes.annotate("", xy=(saving.epoch, level), xytext=(saving.of, level), arrowprops=arrow, zorder=4)
    axes.text(0.5, 1.02, text, fontsize=7.5, color=style.VERMILLION, ha="center", va="bottom", transform=axes.transAxes)
