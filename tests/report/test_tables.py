"""Tables from a made-up results tree: values, the paper's numbers beside them, and well-formed files."""

import json
import re
import shutil

import pandas as pd
import pytest
from made_up_results import CEILING, CONFIG, accuracy

from mto.config import load
from mto.errors import UserError
from mto.names import STAGES
from mto.report import printed
from mto.report.cli import main
from mto.report.sheet import Column, Sheet, escape
from mto.study.study import AUDIT, TABLES, Study


def build(tree, name, out):
    study, results = tree
    main(["table", "--job", json.dumps(study.report_job(name)), "--results", str(results), "--out", str(out)])
    return pd.read_csv(out / f"{name}.csv"), (out / f"{name}.md").read_text(), (out / f"{name}.tex").read_text()


def shown(markdown):
    """The rows of a Markdown table, as dicts by column head."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines() if line[:1] == "|"]
    return [dict(zip(lines[0], row, strict=True)) for row in lines[2:]]


@pytest.fixture(params=["demo", "paper"])
def tree(request):
    return request.getfixturevalue(request.param)


MEASURED = [name for name in TABLES if name != AUDIT]
ROWS = {"table1_rauc": 5, "table2_linear": 8, "table3_objectives": 7, "tableS1_ade20k": 9, "tableS2_coco": 9}
SCRATCH = {"table2_linear": 4, "table3_objectives": 1, "tableS1_ade20k": 3, "tableS2_coco": 3}


@pytest.mark.parametrize("name", MEASURED)
def test_every_table_is_written_and_well_formed(tree, name, tmp_path):
    records, markdown, latex = build(tree, name, tmp_path)
    rows = shown(markdown)
    demo = tree[0].config.scale == "demo"
    assert len(rows) == ROWS[name] + (SCRATCH.get(name, 0) if demo else 0)
    assert records["mean"].notna().all()
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.{suffix}" for suffix in ("csv", "md", "tex", "json")}
    for text in (markdown, latex):
        assert ("Demo scale: handwritten digits; ViT-B of width 32 and depth 4" in text) == demo
        dataset = {"tableS1_ade20k": "ADE20K", "tableS2_coco": "COCO"}.get(name, "ImageNet-1K")
        assert (f"paper ({dataset})" in text) == demo
    assert all(row["Seeds"] == ("1" if demo else "3") for row in rows)
    assert any("Δ" in head for head in rows[0]) != demo  # another scale is not compared with the paper
    assert_balanced(latex)


@pytest.mark.parametrize(
    ("default", "said"),
    [
        ("cosine", "MTO by preset 'cosine', which is not the paper's."),
        ("text", "MTO by preset 'text'."),
        ("as_printed", "MTO by preset 'as_printed'."),
    ],
)
def test_the_caption_says_which_preset_of_mto(tree, tmp_path, default, said):
    """The numbers beside the paper's are those of the default preset."""
    study, results = tree
    mto = study.config.mto.model_copy(update={"default": default})
    study = Study(study.config.model_copy(update={"mto": mto}))
    for name in MEASURED:
        _, markdown, latex = build((study, results), name, tmp_path)
        assert markdown.splitlines()[2].endswith(f" {said}**"), name
        assert f"preset '{default}'" in latex.replace("\\_", "_")
    assert study.report_job("fig3_method")["mto"] is None


def assert_balanced(latex):
    """What a LaTeX run would choke on: environments, braces, cells a row, characters outside ASCII."""
    assert latex.isascii()
    opened = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", latex):
        assert kind == "begin" or opened.pop() == name
        opened += [name] if kind == "begin" else []
    assert not opened
    bare = re.sub(r"\\[\\{}%&#_$]", "", latex)
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    width = len(re.search(r"\\begin\{(?:tabular|xltabular\}\{\\linewidth)\}\{([lrcX]+)\}", latex)[1])
    body = [line.strip() for line in latex.splitlines() if line.endswith("\\\\") and "\\caption" not in line]
    assert len(body) > 2
    for line in body:
        cells = re.split(r"(?<!\\)&", line)
        spans = [int(n) for n in re.findall(r"\\multicolumn\{(\d+)\}", line)]
        assert len(cells) + sum(spans) - len(spans) == width


def test_mean_std_paper_and_delta(paper, tmp_path):
    records, markdown, _ = build(paper, "table2_linear", tmp_path)
    values = [accuracy("mae-vitb", seed, 0.5, CEILING["linear"]) for seed in (0, 1, 2)]
    row = records[(records.run == "mae-vitb") & (records.epoch == 400) & (records.metric == "top1")].iloc[0]
    assert row["mean"] == pytest.approx(sum(values) / 3, abs=1e-5)
    assert row["std"] == pytest.approx(0.05, abs=1e-5)
    assert (row["seeds"], row["paper"], row["paper_epoch"]) == (3, 57.4, 400)
    assert row["delta"] == pytest.approx(row["mean"] - 57.4, abs=1e-5)
    texts = next(r for r in shown(markdown) if r["Baseline"] == "MAE ViT-B" and not r["MTO"])
    assert texts["400 epochs: last"] == f"{row['mean']:.2f} ± 0.05"
    assert texts["400 epochs: best"] == f"{row['mean'] + 0.25:.2f} ± 0.05"
    assert texts["400 epochs: paper"] == "57.4"
    assert float(texts["400 epochs: Δ"].replace("−", "-")) == pytest.approx(row["delta"], abs=0.006)


def test_what_others_report_stands_beside(paper, tmp_path):
    _, markdown, _ = build(paper, "table2_linear", tmp_path)
    texts = next(r for r in shown(markdown) if r["Baseline"] == "MAE ViT-B" and not r["MTO"])
    assert (texts["400 epochs: elsewhere"], texts["800 epochs: elsewhere"]) == (
        "62.5 (mmpretrain)",
        "65.1 (mmpretrain)",
    )
    assert "67.8 at 1600 (MAE)" in markdown
    with_mto = next(r for r in shown(markdown) if r["Baseline"] == "MAE ViT-B" and r["MTO"])
    assert with_mto["800 epochs: elsewhere"] == "—"


def test_the_gpu_hours_of_a_row_are_all_its_jobs(paper, tmp_path):
    """Each made-up job took 1.5 GPU-hours; three seeds."""
    _, markdown, _ = build(paper, "table2_linear", tmp_path)
    rows = {(row["Baseline"], row["MTO"]): row["GPU-hours"] for row in shown(markdown)}
    assert rows["MAE ViT-B", ""] == f"{3 * 1.5 * (2 + 5):.1f}"  # two probes; five segments
    _, markdown, _ = build(paper, "table3_objectives", tmp_path)
    assert [row["GPU-hours"] for row in shown(markdown)] == [f"{3 * 1.5 * 2:.1f}"] * 6 + [f"{3 * 1.5 * (1 + 4):.1f}"]


def test_rauc_beside_the_paper_s_two(paper, tmp_path):
    _, markdown, _ = build(paper, "table2_linear", tmp_path)
    with_mto = {row["Baseline"]: row for row in shown(markdown) if row["MTO"]}
    points = {name: row["RAUC (400, 800): Eq. 6 on the paper's points"] for name, row in with_mto.items()}
    assert points == {"MAE ViT-L": "2.36", "MAE ViT-B": "2.09", "BootMAE ViT-B": "—", "ConMIM ViT-B": "2.09"}
    assert [row["RAUC (400, 800): paper"] for row in with_mto.values()] == ["1.20", "1.23", "1.22", "1.20"]


def test_the_paper_s_points_stand_under_their_own_window_alone(tmp_path):
    """The mini study's window stands for (100, 800); the paper prints probes at 400 and 800."""
    column, note = "Eq. 6 on the paper's points", "both are shown"
    for scale, shown_there in (("mini", False), ("small", True)):
        study = Study(load(CONFIG, scale=scale))
        _, markdown, _ = build((study, tmp_path), "table2_linear", tmp_path / scale)
        texts = {text for row in shown(markdown) for name, text in row.items() if column in name and row["MTO"] == "✓"}
        assert (texts != {"—"}) == (note in markdown) == shown_there


def test_table1_is_the_paper_s(paper, tmp_path):
    """Two windows of four ViT-B baselines; the epochs saved of these and of MAE ViT-L."""
    _, markdown, _ = build(paper, "table1_rauc", tmp_path)
    rows = {row["Baseline"]: row for row in shown(markdown)}
    given = {name: (row["RAUC (100, 400): paper"], row["RAUC (200, 400): paper"]) for name, row in rows.items()}
    assert given == {
        "SimMIM ViT-B": ("1.47", "1.44"),
        "BootMAE ViT-B": ("1.19", "1.22"),
        "MAE ViT-B": ("1.32", "1.29"),
        "ConMIM ViT-B": ("1.21", "1.17"),
        "MAE ViT-L": ("", ""),
    }
    assert [row["Epochs: paper"] for row in rows.values()] == ["54", "58", "50", "50", "43"]


def test_demo_joins_the_paper_by_epoch_without_a_delta(demo, tmp_path):
    records, markdown, _ = build(demo, "tableS1_ade20k", tmp_path)
    row = records[(records.run == "mae-vitb-mto") & (records.paper_epoch == 400)].iloc[0]
    assert (row["epoch"], row["paper"]) == (4, 44.1)
    assert records["delta"].isna().all()
    assert records["std"].isna().all()
    text = shown(markdown)[2]
    assert text["Epochs"] == "4 (paper: 400)"
    assert text["mIoU: paper (ADE20K)"] == "44.1"
    assert text["mIoU: ours"] == f"{accuracy('mae-vitb-mto', 0, 0.5, CEILING['ade20k']):.2f}"


def test_table3_marks_its_terms(demo, tmp_path):
    _, markdown, _ = build(demo, "table3_objectives", tmp_path)
    scratch, *rows = shown(markdown)
    assert list(scratch.values())[:4] == ["from scratch", "", "", f"{accuracy('simmim-vitb', 0, 0, 83):.2f}"]
    ticks = [[row[head] for head in row if head.startswith("L_")] for row in rows]
    assert ticks[0] == ["✓", "", ""]
    assert ticks[5] == ["", "✓", "✓"]
    assert ticks[6] == ["✓"] * 3


def curves(tmp_path, base, mto):
    """Table 1 of one baseline with these curves, over a window of all of them."""
    for run, curve in (("mae-vitb", base), ("mae-vitb-mto", mto)):
        for epoch, value in curve.items():
            path = tmp_path / f"results/finetune/{run}/seed0/epoch{epoch:04d}/metrics.json"
            path.parent.mkdir(parents=True)
            identity = {"task": "finetune", "scale": "paper", "run": run, "seed": 0, "epoch": epoch}
            path.write_text(json.dumps({**identity, "metrics": {"top1": value}}))
    window = [min(base), max(base)]
    job = {
        **{"name": "table1_rauc", "scale": "paper", "recipe": "paper", "seeds": [0], "pretrain_epochs": 800},
        "plan": {"baselines": ["mae-vitb"], "saved": ["mae-vitb"], "windows": [window], "epochs": sorted(base)},
        "cells": [
            {"task": "finetune", "run": run, "epoch": epoch, "metric": "top1"}
            for run in ("mae-vitb", "mae-vitb-mto")
            for epoch in base
        ],
    }
    (tmp_path / "job.json").write_text(json.dumps(job))
    results, out = tmp_path / "results", tmp_path / "out"
    main(["table", "--job", str(tmp_path / "job.json"), "--results", str(results), "--out", str(out)])
    row = shown((out / "table1_rauc.md").read_text())[0]
    return row, row[f"RAUC ({window[0]}, {window[1]}): ours"], (out / "table1_rauc.md").read_text()


def test_table1_epochs_saved(tmp_path):
    row, ratio, _ = curves(tmp_path, {100: 80.0, 400: 82.0, 800: 83.0}, {100: 81.0, 400: 83.5, 800: 84.0})
    assert row["Epochs: to match (of 800)"] == "340.0"
    assert (row["Epochs: saved"], row["Epochs: saved, %"], row["Epochs: Δ"]) == ("460.0", "57.5", "+7.5")
    assert ratio == f"{(0.5 * 4.5 * 300 + 0.5 * 7.5 * 400) / (0.5 * 2 * 300 + 0.5 * 5 * 400):.2f}"


def test_table1_not_reached_and_flat(tmp_path):
    row, ratio, markdown = curves(tmp_path, {100: 83.0, 800: 83.0}, {100: 81.0, 800: 82.0})
    assert ratio == "—†"
    assert "† The baseline gains nothing" in markdown
    assert row["Epochs: to match (of 800)"] == "not reached"


def test_table1_reached_at_once(tmp_path):
    row, _, _ = curves(tmp_path, {100: 80.0, 800: 83.0}, {100: 83.0, 800: 84.0})
    assert (row["Epochs: to match (of 800)"], row["Epochs: saved, %"]) == ("≤ 100.0", "≥ 87.5")


def test_table1_where_one_seed_of_three_never_matches(paper, tmp_path):
    """No mean is made of the two that do: the cell says how many do not, and the record has no value."""
    study, results = paper
    shutil.copytree(results, tmp_path / "results")
    for epoch in study.config.study.table1_rauc.epochs:
        path = tmp_path / f"results/finetune/mae-vitb-mto/seed1/epoch{epoch:04d}/metrics.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"metrics": {"top1": 1.0}}))
    records, markdown, _ = build((study, tmp_path / "results"), "table1_rauc", tmp_path / "out")
    row = next(row for row in shown(markdown) if row["Baseline"] == "MAE ViT-B")
    assert row["Epochs: to match (of 800)"] == "not reached in 1 of 3 seeds"
    found = records[(records.run == "mae-vitb-mto") & (records.metric == "epochs_to_match")].iloc[0]
    assert found[["mean", "std"]].isna().all()


def test_a_second_level_for_rauc(tmp_path):
    """Table 2 with `baseline_epoch: 100`: a probe more for each baseline, and a column."""
    study = Study(load({"study": {"table2_linear": {"baseline_epoch": 100}}}, scale="paper"))
    for step in study.steps("table2_linear"):
        path = tmp_path / f"linear/{step.run}/seed0/epoch{step.epoch:04d}/metrics.json"
        path.parent.mkdir(parents=True)
        value = {100: 40.0, 400: 50.0, 800: 60.0}[step.epoch] + 5 * step.run.endswith("-mto")
        metrics = {"top1": value, "top1_best": value}
        path.write_text(json.dumps({**step._asdict(), "scale": "paper", "metrics": metrics}))
    _, markdown, _ = build((study, tmp_path), "table2_linear", tmp_path / "out")
    row = next(row for row in shown(markdown) if row["MTO"])
    assert row["RAUC (400, 800): ours"] == f"{(5 + 15) / 10:.2f}"
    assert row["RAUC (400, 800): level of epoch 100"] == f"{(15 + 25) / (10 + 20):.2f}"


def test_from_scratch_stands_beside_what_was_pretrained(demo, tmp_path):
    _, markdown, _ = build(demo, "table1_rauc", tmp_path)
    row = next(row for row in shown(markdown) if row["Baseline"] == "MAE ViT-L")
    given = [row[f"Top-1 (%): {name}"] for name in ("from scratch", "without MTO", "with MTO")]
    shares = (("mae-vitl", 0), ("mae-vitl", 1), ("mae-vitl-mto", 1))
    assert given == [f"{accuracy(run, 0, share, CEILING['finetune']):.2f}" for run, share in shares]
    for name, column in (("table2_linear", "4 epochs (paper: 400): last"), ("tableS1_ade20k", "mIoU: ours")):
        _, markdown, _ = build(demo, name, tmp_path)
        rows = [(row["Baseline"], row["MTO"], row[column]) for row in shown(markdown)]
        task = "linear" if name == "table2_linear" else "ade20k"
        first = rows.index(("MAE ViT-B", "from scratch", f"{accuracy('mae-vitb', 0, 0, CEILING[task]):.2f}"))
        assert [(row[0], row[1]) for row in rows[first + 1 : first + 3]] == [("MAE ViT-B", ""), ("MAE ViT-B", "✓")]


# -------------------------------------------------------------------------------------------------------- what is there
@pytest.mark.parametrize("name", MEASURED)
def test_a_study_without_results_gives_tables_that_say_so(demo, name, tmp_path):
    records, markdown, latex = build((demo[0], tmp_path), name, tmp_path / "out")
    rows = shown(markdown)
    assert len(rows) == ROWS[name] + SCRATCH.get(name, 0)
    assert all("missing" in row.values() and row["Seeds"] == "0 of 1" and row["GPU-hours"] == "—" for row in rows)
    assert "Not there yet, and left out: " in markdown
    assert records["mean"].isna().all()
    assert_balanced(latex)


def test_a_missing_cell_is_named_and_the_others_are_shown(paper, tmp_path):
    study, results = paper
    shutil.copytree(results, tmp_path / "results")
    gone = "linear/mae-vitb-mto/seed2/epoch0400"
    shutil.rmtree(tmp_path / "results" / gone)
    _, markdown, _ = build((study, tmp_path / "results"), "table2_linear", tmp_path / "out")
    assert f"Not there yet, and left out: {gone}." in markdown
    row = next(row for row in shown(markdown) if row["Baseline"] == "MAE ViT-B" and row["MTO"])
    values = [accuracy("mae-vitb-mto", seed, 0.5, CEILING["linear"]) for seed in (0, 1)]
    assert row["400 epochs: last"].startswith(f"{sum(values) / 2:.2f} ± ")
    assert (row["Seeds"], row["GPU-hours"]) == ("2 of 3", "—")
    full, _, _ = build(paper, "table2_linear", tmp_path / "full")
    rauc = full[(full.run == "mae-vitb-mto") & (full.metric == "rauc_400_800")].iloc[0]
    assert rauc["seeds"] == 3
    assert row["RAUC (400, 800): ours"] != "missing"  # of the two seeds whose curves are whole


def test_tables_by_name_from_the_config_alone(paper, tmp_path, capsys):
    """`python -m mto report table table2_linear --scale paper` on whatever finished."""
    _, results = paper
    arguments = ["--config", str(CONFIG), "--scale", "paper", "--results", str(results), "--out", str(tmp_path)]
    main(["table", "table2_linear", "audit", *arguments])
    assert {path.stem for path in tmp_path.iterdir()} == {"table2_linear", "audit"}
    assert "table2_linear" in capsys.readouterr().err
    with pytest.raises(UserError, match="no such table: 'fig4_epochs'"):
        main(["table", "fig4_epochs", *arguments])


def test_a_file_of_another_step_is_an_error(demo, tmp_path):
    study, results = demo
    source = results / "ade20k/mae-vitb/seed0/epoch0008"
    shutil.copytree(source, tmp_path / "ade20k/mae-vitb-mto/seed0/epoch0008")
    with pytest.raises(UserError, match=r"epoch0008/metrics\.json: run is 'mae-vitb', but its folder says"):
        build((study, tmp_path), "tableS1_ade20k", tmp_path / "out")


@pytest.mark.parametrize(
    ("job", "message"), [("nowhere.json", "No such file"), ("{", "not JSON"), ("{}", "name must be")]
)
def test_a_bad_job_is_named(job, message):
    with pytest.raises(UserError, match=message):
        main(["table", "--job", job, "--results", "x", "--out", "x"])


def test_a_name_that_no_table_has_is_one_line():
    with pytest.raises(UserError, match="no such table: 'table9'; its name must be one of table1_rauc, "):
        main(["table", "table9", "--config", str(CONFIG)])


def test_equal_inputs_give_equal_bytes(paper, tmp_path):
    one = build(paper, "table1_rauc", tmp_path / "one")
    two = build(paper, "table1_rauc", tmp_path / "two")
    assert one[0].equals(two[0])
    assert one[1:] == two[1:]


def test_markdown_and_latex_escape():
    sheet = Sheet("t", "Table 9", "50 % of A & B_c", "Demo.", [Column("a|b"), Column("±")], [["1|2", "3 ± 4"]])
    assert "| a\\|b | ± |" in sheet.markdown()
    assert "| 1\\|2 | 3 ± 4 |" in sheet.markdown()
    assert sheet.markdown().startswith("# Table 9. 50 % of A & B_c")
    assert r"50 \% of A \& B\_c" in sheet.latex()
    assert escape("✓ ≤ −{x}") == r"\checkmark{} $\leq$ $-$\{x\}"


def test_a_sheet_is_read_back_as_shown(paper, tmp_path):
    _, markdown, latex = build(paper, "table2_linear", tmp_path)
    sheet = Sheet.read(tmp_path / "table2_linear.json")
    assert sheet.markdown() == markdown
    assert sheet.latex() == latex
    assert sheet.records == []


@pytest.mark.parametrize("text", [None, "{", "[]", '{"name": "t"}', '{"columns": [{"title": "x"}]}'])
def test_a_file_that_is_no_sheet_is_named(tmp_path, text):
    if text is not None:
        (tmp_path / "t.json").write_text(text)
    with pytest.raises(UserError, match=r"t\.json: not a table that `report table` wrote"):
        Sheet.read(tmp_path / "t.json")


def test_every_printed_number_is_of_a_run_in_the_study(paper):
    study, _ = paper
    names = {run.name for run in study.runs()}
    counts = {"table1_rauc": 8, "table2_linear": 18, "table3_objectives": 7, "tableS1_ade20k": 9, "tableS2_coco": 18}
    for table, count in (counts | {"fig4_epochs": 5}).items():
        known = printed.load(table)
        assert {row for row, _ in known} <= names
        assert len(known) == count
        assert all(float(value) for value in known.values())
    assert {row for row, _ in printed.load("quoted")} <= names | {"all"}
    assert printed.load("table2_linear")["mae-vitb-mto", "rauc@400-800"] == "1.23"
    assert [row["value"] for row in printed.unassigned("figS2_decoder_depth")] == ["82.9", "60.5"]


def test_every_number_of_others_is_of_a_baseline_and_its_task(paper):
    names = {run.name for run in paper[0].runs() if not run.terms}
    assert {r.row for r in printed.elsewhere()} <= names
    assert {r.task for r in printed.elsewhere()} <= set(STAGES)
    assert all(float(r.value) and r.source for r in printed.elsewhere())
