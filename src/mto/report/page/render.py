"""The page itself: tables, figures and curves as they lie on disk, in one file that asks the network for nothing."""

from __future__ import annotations

import base64
import csv
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from mto.config.study_plan import REPORTS, About
from mto.files import replacing
from mto.names import BASELINES, STAGES, Run, Step
from mto.report import sources
from mto.report.audit import CONTRADICTED, HOLDS, NOT_FOLLOWING, OPEN
from mto.report.labels import baseline_name, full_name, stream_name
from mto.report.metrics import NOT_THERE
from mto.report.page import choices, histories, measured, steps
from mto.report.page.charts import Line, Scale, draw
from mto.report.page.findings import Findings, describe, short
from mto.report.page.histories import History
from mto.report.sheet import MISSING, Column, Sheet
from mto.study.study import AUDIT

TYPES = {"csv": "text/csv", "tex": "application/x-tex", "md": "text/markdown", "pdf": "application/pdf"}
WORDS = {"csv": "CSV", "tex": "LaTeX", "md": "Markdown", "pdf": "PDF"}
#: Texts of a table's cells that the style sheet knows.
LOOKS = {HOLDS: "yes", NOT_FOLLOWING: "mixed", CONTRADICTED: "no", OPEN: "open", MISSING: "lacking"}


#: What the page calls a verdict on our own runs.
SAID = {"yes": "Yes", "no": "No", "mixed": "Mixed", "void": "No answer:", "open": "Open"}

#: What a name is, where no sheet says it: the figures, and the tables that are not made yet.
ABOUT = REPORTS | {AUDIT: About("Audit", "The paper's checkable claims, each with its arithmetic and a verdict")}


@dataclass(frozen=True)
class Download:
    label: str
    file: str
    uri: str


@dataclass(frozen=True)
class Item:
    """A table or a figure on the page, made or not.

    Attributes:
        sheet: of a table that is there.
        image: (data URI, width, height in pixels) of a figure that is there.
        drawn: of a figure, what its curves are called and where their steps are listed.
        missing: the steps that it still needs.
        problem: why it could not be made, where that was tried.
    """

    name: str
    about: About
    missing: list[str]
    problem: str = ""
    sheet: Sheet | None = None
    image: tuple[str, int, int] | None = None
    drawn: tuple[tuple[str, str], ...] = ()
    downloads: tuple[Download, ...] = ()

    @property
    def made(self) -> bool:
        return bool(self.sheet or self.image)

    @property
    def title(self) -> str:
        return self.sheet.title if self.sheet else f"{self.about.shows}."


@dataclass(frozen=True)
class Panel:
    title: str
    svg: str


@dataclass(frozen=True)
class Trained:
    """A run with one seed on the page."""

    id: str
    name: str
    note: str
    panels: list[Panel]
    place: str


def write(job: dict[str, Any], results: Path, out: Path, problems: Mapping[str, str] | None = None) -> str:
    """Writes the page by atomic rename; returns what is on it, in words.

    Args:
        job: of the page (`mto.report.page.job`).
        results: results/<scale>, as far as it is done.
        problems: a table's or figure's name to the reason why it could not be made.

    Raises:
        UserError: a file there is broken, naming it.
    """
    import jinja2

    problems = problems or {}
    found = Findings(job, results)
    trained = histories.read_all(results, job["pretrain_epochs"])
    tables = [
        _table(found, name, problems.get(name, "")) for name in _names(job["tables"], results / "tables", ".json")
    ]
    figures = [
        _figure(found, name, problems.get(name, "")) for name in _names(job["figures"], results / "figures", ".png")
    ]
    groups = _groups(found, trained)
    networks = steps.listed(found, out)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mto.report", "page"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["spans"] = _spans
    environment.globals |= {"LOOKS": LOOKS, "SAID": SAID, "verdicts": _verdicts}
    text = environment.get_template("page.html").render(
        job=job,
        found=found,
        commits=[(short(commit), count) for commit, count in found.commits.most_common()],
        tables=[item for item in tables if item.name != "audit"],
        audit=[item for item in tables if item.name == "audit"],
        figures=figures,
        groups=groups,
        points=histories.POINTS,
        untrained=_untrained(found, trained),
        presets=choices.presets(job["mto"]),
        choices=choices.listed(job["mto"]),
        disagreeing=choices.disagreeing(job["mto"], results),
        claims=measured.claims(found),
        networks=networks,
        places=steps.places(networks),
        results=[_download(results / "results.csv")] if (results / "results.csv").exists() else [],
    )
    with replacing(out) as partial:
        partial.write_text(text, encoding="utf-8")
    return f"{_count(tables, 'tables')}, {_count(figures, 'figures')}, {len(trained)} training curves"


def _count(items: list[Item], kind: str) -> str:
    """Returns `5 of 6 tables (2 partial)`."""
    partial = sum(bool(item.made and item.missing) for item in items)
    return f"{sum(item.made for item in items)} of {len(items)} {kind}" + (f" ({partial} partial)" if partial else "")


def _names(planned: list[str], folder: Path, suffix: str) -> list[str]:
    """Returns the planned names, then those of other files of that kind in the folder."""
    return list(dict.fromkeys([*planned, *sorted(path.stem for path in folder.glob(f"*{suffix}"))]))


# ------------------------------------------------------------------------------------------------- tables and figures
def _table(found: Findings, name: str, problem: str) -> Item:
    base = found.results / "tables" / name
    sheet = _sheet(base)
    if sheet:
        sheet.notes = [note for note in sheet.notes if not note.startswith(NOT_THERE)]  # `missing` names them all
    missing = [describe(step) for step in found.missing(name)]
    files = [base.with_suffix(f".{form}") for form in ("csv", "tex", "md")]
    return Item(
        name=name,
        about=ABOUT.get(name, About(name, name)),
        missing=missing,
        problem=problem,
        sheet=sheet,
        downloads=tuple(_download(file) for file in files if file.exists()) if sheet else (),
    )


def _sheet(base: Path) -> Sheet | None:
    """Reads the sheet as it was shown, or what can be had of it from a CSV alone."""
    if base.with_suffix(".json").exists():
        return Sheet.read(base.with_suffix(".json"))
    if not base.with_suffix(".csv").exists():
        return None
    with base.with_suffix(".csv").open(newline="", encoding="utf-8") as file:
        head, *rows = list(csv.reader(file)) or [[]]
    about = ABOUT.get(base.name, About(base.name, base.name))
    return Sheet(base.name, about.number, about.shows, "", [Column(name, align="l") for name in head], rows)


def _spans(columns: list[Column]) -> list[tuple[str, int]]:
    """Returns the head above the heads: each group, or the gap between two, with its number of columns."""
    return [(group, len(list(members))) for group, members in groupby(column.group for column in columns)]


def _verdicts(audit: Sheet) -> list[tuple[str, int]]:
    """Counts how often each verdict was given, in the order in which `LOOKS` has them."""
    given = Counter(text for row in audit.rows for text in row if text in LOOKS)
    return [(verdict, given[verdict]) for verdict in LOOKS if given[verdict]]


def _figure(found: Findings, name: str, problem: str) -> Item:
    base = found.results / "figures" / name
    png, pdf = base.with_suffix(".png"), base.with_suffix(".pdf")
    image = None
    if png.exists():
        width, height = struct.unpack(">II", png.read_bytes()[16:24])  # of a PNG's first chunk
        image = (_uri(png, "image/png"), width, height)
    return Item(
        name=name,
        about=ABOUT.get(name, About(name, name)),
        missing=[describe(step) for step in found.missing(name)],
        problem=problem,
        image=image,
        drawn=_drawn(found, name),
        downloads=(_download(pdf),) if image and pdf.exists() else (),
    )


def _drawn(found: Findings, name: str) -> tuple[tuple[str, str], ...]:
    """Returns the curves of a figure, as the list of steps has them."""
    done = [step for step in found.steps(name) if step in found.records]
    return tuple(
        {sources.of(step).curves: f"{STAGES[step.task].title} of {baseline_name(step.run)}" for step in done}.items()
    )


def _download(path: Path) -> Download:
    form = path.suffix[1:]
    return Download(WORDS[form], path.name, _uri(path, TYPES[form]))


def _uri(path: Path, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


# ----------------------------------------------------------------------------------------------------- training curves
def _groups(found: Findings, trained: list[History]) -> list[dict[str, Any]]:
    """Groups the runs by baseline: those without and with MTO, then the ablations; on one scale, to be compared."""

    def key(history: History) -> tuple[int, str]:
        run = Run.parse(history.run)
        return list(BASELINES).index(run.baseline), run.backbone

    groups = []
    ordered = sorted(trained, key=lambda history: (key(history), histories.order(history.run), history.seed))
    for _, members in groupby(ordered, key):
        alike = list(members)
        loss = Scale.over([line for history in alike for line in _losses(history, history.losses)], log=True)
        shown = [(history, _trained(found, history, loss)) for history in alike]
        first = min(history.seed for history in alike)
        main = [run for history, run in shown if not histories.is_ablation(history.run) and history.seed == first]
        rest = [run for _, run in shown if run not in main]
        name = baseline_name(alike[0].run)
        groups.append({"name": name, "id": f"curves-{alike[0].run.split('-mto')[0]}", "main": main, "rest": rest})
    return groups


def _trained(found: Findings, history: History, loss: Scale) -> Trained:
    epochs = found.job["pretrain_epochs"]
    measured = {epoch for steps in found.job["cells"].values() for _, run, epoch in steps if run == history.run}
    marks = sorted({0, epochs, *(epoch for epoch in measured if epoch <= epochs)})
    name = full_name(history.run)
    panels = []
    lines = _losses(history, history.losses)
    if lines:
        svg = draw(f"Loss of {name} over epochs", lines, loss, epochs, marks)
        panels.append(Panel("Baseline's own loss" + (", log scale" if loss.log else ""), svg))
    for stream, layers in history.layers.items():
        lines = [
            Line(f"layer {depth}", history.series(layer), depth / max(len(layers) - 1, 1), label)
            for depth, layer in enumerate(layers)
            for label in [f"layer {depth}" if depth in (0, len(layers) - 1) else ""]
        ]
        ceiling = history.ceiling(stream)
        top = max([ceiling or 0.0, *(y for line in lines for _, y in line.points)]) or 1.0
        where = f", {stream_name(stream)}" if stream else ""
        svg = draw(f"H of {name}{where} over epochs", lines, Scale(0.0, 1.04 * top), epochs, marks, ceiling)
        panels.append(Panel(f"H of each layer{where}", svg))
    lines = _losses(history, history.terms)
    if lines:
        scale = Scale.over(lines, log=True)
        svg = draw(f"MTO's terms of {name} over epochs", lines, scale, epochs, marks)
        panels.append(Panel("MTO's terms" + (", log scale" if scale.log else ""), svg))
    panels += _signs(history, name, epochs, marks)
    identity = f"{history.run}-seed{history.seed}"
    place = sources.of(Step("pretrain", history.run, history.seed, 0)).curves
    return Trained(identity, name, _note(history, epochs), panels, place)


def _signs(history: History, name: str, epochs: int, marks: list[int]) -> list[Panel]:
    """Draws whether the masked tokens became one, and whose gradient moves the weights (`mto.losses.diagnostics`)."""
    panels = []
    for stream, signs in history.signs.items():
        lines = [
            Line(word, history.series(sign), look, word)
            for (word, sign), look in zip(signs.items(), ("own0", "own1", "r"), strict=False)
        ]
        top = max([1.0, *(y for line in lines for _, y in line.points)])
        where = f", {stream_name(stream)}" if stream else ""
        svg = draw(f"Signs of collapse of {name}{where} over epochs", lines, Scale(0.0, 1.04 * top), epochs, marks)
        panels.append(Panel(f"Masked tokens of the last layer{where}", svg))
    looks = {"method": "own0", "L spa": "spa", "L e": "e", "L r": "r"}
    if lines := [Line(word, history.series(pull), looks[word], word) for word, pull in history.pulls.items()]:
        scale = Scale.over(lines, log=True)
        svg = draw(f"Gradients of {name} over epochs", lines, scale, epochs, marks)
        panels.append(Panel("Gradients' norms" + (", log scale" if scale.log else ""), svg))
    return panels


def _losses(history: History, names: list[str]) -> list[Line]:
    looks = {"loss_spa": "spa", "loss_e": "e", "loss_r": "r"}
    labels = [name.removeprefix("loss_") for name in names]
    return [
        Line(
            label,
            history.series(name),
            looks.get(name, f"own{number}"),
            {"spa": "L spa", "e": "L e", "r": "L r"}.get(label, label),
        )
        for number, (name, label) in enumerate(zip(names, labels, strict=True))
    ]


def _note(history: History, epochs: int) -> str:
    """Says the seed, how far it is trained, and whether H has collapsed."""
    parts = [f"seed {history.seed}"]
    if history.imported:
        parts.append("a published checkpoint, not trained here: no curve")
    else:
        parts.append(f"{history.epochs:.4g} of {epochs} epochs")
    for stream in history.layers:
        share = history.saturated(stream)
        if share is not None and share > 0.5:
            where = f" of the {stream_name(stream)}" if stream else ""
            parts.append(f"{100 * share:.0f} % of the masked rows saturated in the last layer{where}")
        if ranks := history.series(f"{stream}/effective_rank" if stream else "effective_rank"):
            where = f" of the {stream_name(stream)}" if stream else ""
            parts.append(
                f"visible tokens of layer 0{where}: effective rank {ranks[0][1]:.1f}, at last {ranks[-1][1]:.1f}"
            )
    return "; ".join(parts) + "."


def _untrained(found: Findings, trained: list[History]) -> list[str]:
    """Returns the runs of the plan that have no segment yet."""
    there = {(history.run, history.seed) for history in trained}
    steps = [step for step in found.planned if step.task == "pretrain"]
    lacking: dict[str, list[Step]] = {}
    for step in steps:
        if (step.run, step.seed) not in there:
            lacking.setdefault(step.run, []).append(step)
    return [
        f"{full_name(run)} (seed {', '.join(map(str, sorted({step.seed for step in steps})))})"
        for run, steps in lacking.items()
    ]
