"""The report page from made-up results: complete, partial and empty; its headline, its choices, its downloads."""

from __future__ import annotations

import base64
import json
import shutil
import tomllib
from fnmatch import fnmatch
from html.parser import HTMLParser
from pathlib import Path

import pytest
from made_up_results import CONFIG, make_tree

from mto.config import load
from mto.errors import UserError
from mto.losses.switches import SWITCHES
from mto.names import Step
from mto.report import page
from mto.report.cli import main
from mto.report.page import choices, render
from mto.report.page.findings import Findings
from mto.report.sheet import Column, Sheet
from mto.study.study import FIGURES, TABLES, Study


class Reader(HTMLParser):
    """What the tests look for in a page: ids, links and sources, the cells of its tables, and all of its text."""

    VOID = ("meta", "link", "img", "br", "input", "col")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.downloads: dict[str, str] = {}
        self.images: list[str] = []
        self.cells: dict[str, list[list[str]]] = {}
        self.text = ""
        self._open: list[str] = []
        self._article = ""
        self.feed(text)
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.text += " "
        if tag not in self.VOID:
            self._open.append(tag)
        if "id" in given:
            self.ids.append(given["id"])
        if tag == "article":
            self._article = given["id"]
        if tag == "tr":
            self.cells.setdefault(self._article, []).append([])
        if tag == "td":
            self.cells[self._article][-1].append("")
        if tag == "img":
            self.images.append(self._article)
        for name in ("href", "src"):
            if name in given:
                self.addresses.append(given[name])
        if "download" in given:
            self.downloads[given["download"]] = given["href"]

    def handle_startendtag(self, tag, attrs):
        pass  # of SVG and MathML

    def handle_endtag(self, tag):
        assert self._open, f"</{tag}> was never opened"
        assert self._open.pop() == tag
        if tag == "article":
            self._article = ""

    def handle_data(self, data):
        if "body" in self._open:
            self.text += data
        if "td" in self._open:
            self.cells[self._article][-1][-1] += data

    def words(self) -> str:
        return " ".join(self.text.split())


def rendered(study: Study, results: Path, out: Path, problems: dict[str, str] | None = None) -> Reader:
    render.write(page.job(study), results, out, problems)
    return Reader(out.read_text())


def test_every_table_and_figure_is_there(complete):
    study, results = complete
    read = Reader((results / "report.html").read_text())
    assert set(read.images) == set(FIGURES)
    assert len(read.ids) == len(set(read.ids))
    assert {*TABLES, *FIGURES} <= set(read.ids)
    for name in TABLES:
        rows = [row for row in read.cells[name] if row]
        assert rows == Sheet.read(results / f"tables/{name}.json").rows
    for step in study.segments():
        assert f"run-{step.run}-seed{step.seed}" in read.ids
    assert "Not made yet" not in read.words()
    assert "Partial" not in read.words()


def test_it_names_nothing_outside_itself(complete):
    read = Reader((complete[1] / "report.html").read_text())
    inside = {address.removeprefix("#") for address in read.addresses if address.startswith("#")}
    assert inside <= set(read.ids)
    files = [address for address in read.addresses if not address.startswith(("#", "data:"))]
    assert files
    assert all((complete[1] / file).is_file() for file in files)  # beside it, and read only by who follows the link
    assert "<script" not in (complete[1] / "report.html").read_text()


def test_each_number_of_ours_leads_to_the_steps_behind_it(complete):
    """Every text of a table that a step gave; the rest are names, the paper's numbers, and counts of seeds."""
    study, results = complete
    text = (results / "report.html").read_text()
    for name in set(study.tables) - {"audit"}:
        sheet = Sheet.read(results / f"tables/{name}.json")
        spent = [column.name for column in sheet.columns].index("GPU-hours")
        for row, places in zip(sheet.rows, sheet.sources, strict=True):
            assert places[spent].startswith("steps/")
            for shown, place in zip(row, places, strict=True):
                assert not place or f'<a class="led" href="#{place}">{shown}</a>' in text
                assert not place or f'<tbody id="{place}">' in text
    (row,) = [r for r in Sheet.read(results / "tables/tableS1_ade20k.json").sources if "ade20k/mae-vitb/epoch0008" in r]
    assert row.count("ade20k/mae-vitb/epoch0008") == 1
    body = text.split('<tbody id="ade20k/mae-vitb/epoch0008">')[1].split("</tbody>")[0]
    folder = "ade20k/mae-vitb/seed0/epoch0008"
    assert f'<a href="{folder}/metrics.json">metrics</a>' in body
    assert "python -m mto" not in body  # no job.json is there


def test_a_step_has_its_log_and_its_command_where_they_are(complete, tmp_path):
    study, whole = complete
    results = tmp_path / "results" / "demo"
    step = Step("finetune", "mae-vitb", 0, 8)
    shutil.copytree(whole / step.folder, results / step.folder)
    (results / step.folder / "job.json").write_text("{}")
    log = tmp_path / "logs/demo" / f"{step.folder}.log"
    log.parent.mkdir(parents=True)
    log.write_text("trained\n")
    read = rendered(study, results, results / "report.html")
    assert f"../../logs/demo/{step.folder}.log" in read.addresses
    assert f"{step.folder}/job.json" in read.addresses
    assert f"python -m mto finetune --job {results}/{step.folder}/job.json --out DIR" in read.words()
    away = rendered(study, results, tmp_path / "elsewhere.html")
    assert f"results/demo/{step.folder}/job.json" in away.addresses


def test_downloads_are_the_files(complete):
    results = complete[1]
    read = Reader((results / "report.html").read_text())
    expected = {f"{name}.{form}": results / "tables" for name in complete[0].tables for form in ("csv", "tex", "md")}
    expected |= {f"{name}.pdf": results / "figures" for name in FIGURES} | {"results.csv": results}
    assert read.downloads.keys() == expected.keys()
    for name, folder_ in expected.items():
        assert base64.b64decode(read.downloads[name].split("base64,")[1]) == (folder_ / name).read_bytes()


def test_the_audit_s_verdicts_are_counted(complete):
    read = Reader((complete[1] / "report.html").read_text())
    given = [row[-1] for row in read.cells["audit"] if row]
    assert len(given) > 20
    for verdict in set(given):
        assert f"{verdict}: {given.count(verdict)}" in read.words()


def test_it_says_what_was_run(complete):
    words = Reader((complete[1] / "report.html").read_text()).words()
    steps = len(complete[0].segments()) + len(complete[0].steps())
    assert f"Steps {steps} of {steps} finished" in words
    for fact in ("Scale demo", "Recipe paper", "Seeds 0", "Commit 0123abc", "Hardware cpu (no GPU)"):
        assert fact in words
    hours = sum(json.loads(p.read_text())["provenance"]["gpu_hours"] for p in complete[1].glob("*/*/*/*/metrics.json"))
    assert f"GPU-hours {hours:.1f} (" in words
    assert "cannot be compared with the paper's" in words
    assert "Each number comes from one seed" in words


def test_equal_inputs_give_equal_bytes(complete, tmp_path):
    study, results = complete
    rendered(study, results, tmp_path / "one.html")
    rendered(study, results, tmp_path / "two.html")
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


# ---------------------------------------------------------------------------------------------------- partial studies
def test_a_partial_study_names_what_is_missing(complete, tmp_path):
    """Only MAE is done, and no table or figure is made."""
    study, whole = complete
    results = tmp_path / "demo"
    for path in whole.glob("*/mae-*"):
        shutil.copytree(path, results / path.relative_to(whole))
    read = rendered(study, results, tmp_path / "page.html")
    assert {*TABLES, *FIGURES} <= set(read.ids)
    words = read.words()
    assert "needs" in words
    assert "fine-tuning of SimMIM ViT-B at epoch 8, seed 0" in words
    assert "fine-tuning of MAE ViT-B at epoch 8" not in words
    assert "SimMIM ViT-B + MTO (spa, e) (seed 0)" in words
    assert "With MTO, 2 of 2 baselines reach their own final accuracy in fewer epochs" in words
    assert "3 more are not measured yet." in words


def test_steps_whose_compiler_failed_are_named(complete, tmp_path):
    study, whole = complete
    results = tmp_path / "demo"
    for path in whole.glob("finetune/mae-vitb/*"):
        shutil.copytree(path, results / path.relative_to(whole))
    assert "torch.compile failed" not in rendered(study, results, tmp_path / "page.html").words()
    for epoch in (2, 4):
        path = results / Step("finetune", "mae-vitb", 0, epoch).folder / "metrics.json"
        record = json.loads(path.read_text())
        record["provenance"]["eager_images"] = 7
        path.unlink()  # copied
        path.write_text(json.dumps(record))
    words = rendered(study, results, tmp_path / "page.html").words()
    assert "torch.compile failed in 2 of the steps" in words
    assert "first of finetune/mae-vitb/seed0/epoch0002" in words


def test_a_reason_is_shown(complete, tmp_path):
    study, _ = complete
    (tmp_path / "demo").mkdir()
    name = next(name for name in FIGURES if not page.job(study)["cells"][name])
    read = rendered(study, tmp_path / "demo", tmp_path / "page.html", {name: "the pen is dry"})
    assert "Not made yet: the pen is dry" in read.words()


def test_of_nothing_it_says_so(complete, tmp_path):
    (tmp_path / "demo").mkdir()
    words = rendered(complete[0], tmp_path / "demo", tmp_path / "page.html").words()
    assert "No baseline is fine-tuned at its last epoch both without and with MTO yet" in words
    assert "0 of " in words
    assert "Not trained yet: " in words


def test_a_table_that_misses_measurements_is_called_partial(complete, tmp_path):
    study, whole = complete
    results = tmp_path / "demo"
    shutil.copytree(whole, results)
    name = next(name for name in TABLES if page.job(study)["cells"].get(name))
    task, run, epoch = page.job(study)["cells"][name][0]
    (results / Step(task, run, 0, epoch).folder / "metrics.json").unlink()
    assert "Partial: needs 1 more measurement" in rendered(study, results, tmp_path / "page.html").words()


def test_sheets_and_tables_of_any_name_are_shown(complete, tmp_path):
    results = tmp_path / "demo"
    sheet = Sheet(
        "own_table", "Table X", "Of <b>our</b> own.", "", [Column("a", "g"), Column("b", "g")], [["<i>", "2"]]
    )
    (results / "tables").mkdir(parents=True)
    sheet.write(results / "tables")
    (results / "tables/audit.csv").write_text("claim,verdict\n1 < 2,holds\n")
    read = rendered(complete[0], results, tmp_path / "page.html")
    assert [row for row in read.cells["own_table"] if row] == [["<i>", "2"]]
    assert "Of <b>our</b> own." in read.words()
    assert [row for row in read.cells["audit"] if row] == [["1 < 2", "holds"]]


# -------------------------------------------------------------------------------------------------------- the command
def test_the_command_makes_what_is_missing_and_takes_the_seeds_it_finds(tmp_path, capsys):
    results = tmp_path / "results" / "demo"
    _, made = make_tree(tmp_path / "tree", "demo", [0, 3])
    for task in ("finetune", "linear"):
        shutil.copytree(made / task, results / task)
    main(["page", "--results", str(results), "--remake", "--config", str(CONFIG)])
    read = Reader((results / "report.html").read_text())
    assert "Seeds 0, 3" in read.words()
    assert Sheet.read(results / "tables/table2_linear.json").rows
    assert "fig4_epochs" in read.images
    assert "results.csv" in read.downloads
    assert "needs" in read.words()  # the transfer tables
    assert "training curves" in capsys.readouterr().err


def test_the_workflow_s_job_gives_the_same_page(complete):
    study, results = complete
    job = json.dumps(page.job(study), sort_keys=True, separators=(",", ":"))
    assert len(job) < 64_000  # one argument of a command line: 128 KiB
    again = results / "again.html"  # beside the other, as its links to files are relative
    main(["page", "--results", str(results), "--out", str(again), "--job", job])
    text = again.read_bytes()
    again.unlink()
    assert text == (results / "report.html").read_bytes()


def test_the_paper_s_job_fits_on_a_command_line():
    assert len(json.dumps(page.job(Study(load(CONFIG, scale="paper"))))) < 64_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--results", "nowhere"], "nowhere: no such folder"),
        (["--results", "."], "no such scale"),
        (["--results", ".", "--job", "{"], "--job: not JSON"),
        (["--results", ".", "--job", "{}", "--remake"], "--remake takes the plan from --config"),
    ],
)
def test_a_mistake_is_one_line(arguments, message, tmp_path, monkeypatch):
    shutil.copy(CONFIG, tmp_path / "config.yaml")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        main(["page", *arguments])


# ------------------------------------------------------------------------------------------------------- the headline
def answered(tmp_path, curves, seeds=(0,), also=()):
    """The answer for one baseline with these fine-tuning curves: (run, seed) to {epoch: top-1}; 0: from scratch.

    Args:
        also: other baselines, whose answers stand behind it.
    """
    results = tmp_path / "results"
    for (run, seed), curve in curves.items():
        for epoch, value in curve.items():
            out = results / Step("finetune", run, seed, epoch).folder
            out.mkdir(parents=True)
            identity = {"scale": "demo", "task": "finetune", "run": run, "seed": seed, "epoch": epoch}
            (out / "metrics.json").write_text(json.dumps({**identity, "metrics": {"top1": value}}))
    results.mkdir(exist_ok=True)
    runs = [run for plain in ("mae-vitb", *also) for run in (plain, f"{plain}-mto")]
    cells = [["finetune", run, epoch] for run in runs for epoch in (1, 2, 4, 8)]
    cells += [["finetune", run, 0] for run in runs if not run.endswith("-mto")]
    job = {"seeds": list(seeds), "pretrain_epochs": 8, "cells": {"fig4_epochs": cells}}
    found = Findings(job, results)
    assert len(found.answers) == 1 + len(also)
    return found.answers[0], found


BASE = {1: 50.0, 2: 60.0, 4: 70.0, 8: 80.0}


def test_saved_epochs(tmp_path):
    answer, found = answered(tmp_path, {("mae-vitb", 0): BASE, ("mae-vitb-mto", 0): {**BASE, 4: 75.0, 8: 85.0}})
    assert (answer.verdict, answer.to_match, answer.saved, answer.percent) == ("yes", "6.0", "2.0", "25.0")
    assert (answer.plain, answer.mto, answer.seeds) == ("80.00", "85.00", 1)
    assert answer.share == pytest.approx(0.75)
    assert found.headline == (
        "With MTO, 1 of 1 baselines reach their own final accuracy in fewer epochs, saving 25 % of them."
    )
    assert "one seed" in found.certainty


def test_reached_at_once_is_a_bound(tmp_path):
    answer, found = answered(tmp_path, {("mae-vitb", 0): BASE, ("mae-vitb-mto", 0): {1: 80.0, 8: 81.0}})
    assert (answer.to_match, answer.saved, answer.percent) == ("≤ 1.0", "≥ 7.0", "≥ 87.5")
    assert "saving at least 88 % of them" in found.headline


def test_never_reached(tmp_path):
    answer, found = answered(tmp_path, {("mae-vitb", 0): BASE, ("mae-vitb-mto", 0): {1: 10.0, 8: 79.0}})
    assert (answer.verdict, answer.to_match, answer.saved, answer.share) == ("no", "not reached", "—", None)
    assert found.headline == "With MTO, none of 1 baselines reaches its own final accuracy in fewer epochs."


def test_equal_at_the_end_saves_nothing(tmp_path):
    answer, _ = answered(tmp_path, {("mae-vitb", 0): BASE, ("mae-vitb-mto", 0): BASE})
    assert (answer.verdict, answer.to_match, answer.saved) == ("no", "8.0", "0.0")


def test_seeds_that_disagree_and_the_spread_of_those_that_agree(tmp_path):
    better, worse = {4: 75.0, 8: 85.0}, {4: 60.0, 8: 70.0}
    curves = {("mae-vitb", seed): BASE for seed in (0, 1)}
    mixed, found = answered(
        tmp_path / "a", curves | {("mae-vitb-mto", 0): better, ("mae-vitb-mto", 1): worse}, seeds=(0, 1)
    )
    assert (mixed.verdict, mixed.to_match, mixed.saved) == ("mixed", "not reached in 1 of 2 seeds", "—")
    assert "0 of 1 baselines" in found.headline
    assert ", 1 in some seeds only" in found.headline
    best = {4: 78.0, 8: 82.0}
    same, found = answered(
        tmp_path / "b", curves | {("mae-vitb-mto", 0): better, ("mae-vitb-mto", 1): best}, seeds=(0, 1)
    )
    assert (same.verdict, same.to_match, same.saved) == ("yes", "6.0 ± 0.0", "2.0 ± 0.0")
    assert same.mto == "83.50 ± 2.12"
    assert "sample standard deviation" in found.certainty


def test_what_is_not_measured_is_open(tmp_path):
    nothing, found = answered(tmp_path / "a", {("mae-vitb", 0): {4: 70.0}, ("mae-vitb-mto", 0): {8: 90.0}})
    assert (nothing.verdict, nothing.seeds, nothing.to_match) == ("open", 0, "—")
    assert "nothing can be said" in found.headline
    going, _ = answered(tmp_path / "b", {("mae-vitb", 0): BASE, ("mae-vitb-mto", 0): {4: 70.0}})
    assert (going.verdict, going.sentence) == ("open", "not reached so far; training with MTO goes on")
    there, _ = answered(tmp_path / "c", {("mae-vitb", 0): BASE, ("mae-vitb-mto", 0): {2: 70.0, 4: 90.0}})
    assert (there.verdict, there.to_match, there.mto) == ("yes", "3.0", "—")


def test_a_step_without_a_value_is_not_measured(tmp_path):
    answer, _ = answered(tmp_path, {("mae-vitb", 0): {**BASE, 8: None}, ("mae-vitb-mto", 0): BASE})
    assert answer.verdict == "open"


def test_a_baseline_no_better_than_from_scratch_answers_nothing(tmp_path):
    better = {4: 85.0, 8: 90.0}
    lost = {("mae-vitb", 0): {**BASE, 0: 93.3}, ("mae-vitb-mto", 0): better}
    answer, found = answered(tmp_path / "a", lost)
    assert (answer.verdict, answer.saved, answer.percent, answer.share) == ("void", "—", "—", None)
    assert (answer.plain, answer.mto, answer.seeds) == ("80.00", "90.00", 1)
    assert answer.sentence == "without MTO it is no better than from scratch (93.30)"
    assert found.headline == (
        "Nothing follows for 1 baseline, whose pre-training without MTO is no better than training from scratch."
    )
    won = {("simmim-vitb", 0): {**BASE, 0: 79.0}, ("simmim-vitb-mto", 0): {4: 80.0, 8: 85.0}}
    _, found = answered(tmp_path / "b", lost | won, also=["simmim-vitb", "conmim-vitb"])
    assert [answer.verdict for answer in found.answers] == ["void", "yes", "open"]
    assert found.headline == (
        "With MTO, 1 of 1 baselines reach their own final accuracy in fewer epochs, saving at least 50 % of them."
        " Nothing follows for 1 more baseline, whose pre-training without MTO is no better than training from scratch."
        " 1 more is not measured yet."
    )
    equal, _ = answered(tmp_path / "c", {("mae-vitb", 0): {**BASE, 0: 80.0}, ("mae-vitb-mto", 0): better})
    assert equal.verdict == "void"
    seeds = {("mae-vitb", seed): {**BASE, 0: 80.0 + (2 * seed - 3)} for seed in (0, 1, 2)}  # beaten by 1 on average
    seeds |= {("mae-vitb-mto", seed): better for seed in (0, 1, 2)}
    beaten, _ = answered(tmp_path / "d", seeds, seeds=(0, 1, 2))
    assert beaten.verdict == "yes"


def test_in_every_seed_means_those_that_are_finished(tmp_path):
    def found(name, finished):
        runs = {"mae-vitb": BASE, "mae-vitb-mto": {4: 75.0, 8: 85.0}}
        curves = {(run, seed): curve for run, curve in runs.items() for seed in range(finished)}
        return answered(tmp_path / name, curves, seeds=(0, 1, 2))[1]

    one, two, three = found("a", 1), found("b", 2), found("c", 3)
    assert "in fewer epochs, saving" in one.headline
    assert "one finished seed of 3 planned" in one.certainty
    assert "in fewer epochs in every seed that is finished, saving" in two.headline
    assert "in fewer epochs in every seed, saving" in three.headline
    assert "sample standard deviation" in two.certainty


# -------------------------------------------------------------------------------------------------------- the choices
def test_every_switch_of_mto_has_its_reason_and_no_other():
    mto = page.job(Study(load(CONFIG)))["mto"]
    assert mto["presets"][mto["default"]].keys() == SWITCHES.keys()
    assert all(choice.open and choice.why for choice in choices.listed(mto))
    assert choices.presets(mto)[0] == "text"


def test_the_switches_of_several_presets():
    one, two = (
        {"rank_direction": "decreasing", "eps": 1e-6, "newcomer": 1},
        {"rank_direction": "as_printed", "eps": 0.1},
    )
    mto = {"default": "mine", "presets": {"another": two, "mine": {**one, "eps": 0.5}, "text": one}}
    assert choices.presets(mto) == ["text", "mine", "another"]
    listed = choices.listed(mto)
    assert [(choice.key, choice.values) for choice in listed] == [
        ("rank_direction", ["decreasing", "decreasing", "as_printed"]),
        ("eps", ["1e-06", "0.5", "0.1"]),
        ("newcomer", ["1", "1", "null"]),
    ]
    assert listed[-1].open == ""


def test_a_run_with_other_settings_is_named(complete):
    study, results = complete
    mto = json.loads(json.dumps(page.job(study)["mto"]))
    assert choices.disagreeing(mto, results) == []
    default = mto["default"]
    before, mto["presets"][default]["eps"] = mto["presets"][default]["eps"], 0.5
    (sentence,) = choices.disagreeing(mto, results)
    assert sentence.startswith(f"mto.presets.{default}.eps is 0.5 in config.yaml, but was {before} in ")
    assert "mae-vitb-mto" in sentence


# ------------------------------------------------------------------------------------------------------------ the rest
def test_the_package_carries_its_templates():
    root = Path(__file__).parents[2]
    patterns = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["mto"]
    package = root / "src/mto"
    files = [str(f.relative_to(package)) for f in package.rglob("*") if f.is_file() and f.suffix not in (".py", ".pyc")]
    assert "report/page/page.html" in files
    unshipped = [
        f for f in files if not any(fnmatch(f, pattern) for pattern in patterns) and not f.endswith("README.md")
    ]
    assert not unshipped
