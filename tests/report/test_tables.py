"""Tables from a made-up results tree: values, the paper's numbers beside them, and well-formed files."""

import json
import re

import pandas as pd
import pytest
from made_up_results import CEILING, accuracy

from mto.errors import UserError
from mto.report import printed
from mto.report.cli import main
from mto.report.sheet import Column, Sheet, escape
from mto.study import REPORTS, TABLES


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


@pytest.mark.parametrize("name", TABLES)
def test_every_table_is_written_and_well_formed(tree, name, tmp_path):
    records, markdown, latex = build(tree, name, tmp_path)
    rows = shown(markdown)
    assert len(rows) == {"table1_rauc": 5, "table2_linear": 8, "table3_objectives": 7}.get(name, 9)
    assert records["mean"].notna().all()
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.{suffix}" for suffix in ("csv", "md", "tex")}
    demo = tree[0].config.scale == "demo"
    for text in (markdown, latex):
        assert ("Demo scale: handwritten digits, not comparable with the paper." in text) == demo
        dataset = {"tableS1_ade20k": "ADE20K", "tableS2_coco": "COCO"}.get(name, "ImageNet-1K")
        assert (f"paper ({dataset})" in text) == demo
    assert all(row["Seeds"] == ("1" if demo else "3") for row in rows)
    assert_balanced(latex)


def assert_balanced(latex):
    """What a LaTeX run would choke on: environments, braces, cells a row, characters outside ASCII."""
    assert latex.isascii()
    assert re.findall(r"\\begin\{(\w+)\}", latex) == re.findall(r"\\end\{(\w+)\}", latex)[::-1]
    bare = re.sub(r"\\[\\{}%&#_$]", "", latex)
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    width = len(re.search(r"\\begin\{tabular\}\{([lrc]+)\}", latex)[1])
    body = [line.strip() for line in latex.splitlines() if line.endswith("\\\\")]
    assert len(body) > 2
    for line in body:
        cells = re.split(r"(?<!\\)&", line)
        spans = [int(n) for n in re.findall(r"\\multicolumn\{(\d+)\}", line)]
        assert len(cells) + sum(spans) - len(spans) == width


def test_mean_std_paper_and_delta(paper, tmp_path):
    records, markdown, _ = build(paper, "table2_linear", tmp_path)
    values = [accuracy("mae-vitb", seed, 0.5, CEILING["linear"]) for seed in (0, 1, 2)]
    row = records[(records.run == "mae-vitb") & (records.epoch == 400)].iloc[0]
    assert row["mean"] == pytest.approx(sum(values) / 3, abs=1e-5)
    assert row["std"] == pytest.approx(0.05, abs=1e-5)
    assert (row["seeds"], row["paper"], row["paper_epoch"]) == (3, 57.4, 400)
    assert row["delta"] == pytest.approx(row["mean"] - 57.4, abs=1e-5)
    texts = next(r for r in shown(markdown) if r["Baseline"] == "MAE ViT-B" and not r["MTO"])
    assert texts["400 epochs: ours"] == f"{row['mean']:.2f} ± 0.05"
    assert texts["400 epochs: paper"] == "57.4"
    assert float(texts["400 epochs: Δ"].replace("−", "-")) == pytest.approx(row["delta"], abs=0.006)


def test_rauc_beside_the_paper_s_two(paper, tmp_path):
    _, markdown, _ = build(paper, "table2_linear", tmp_path)
    with_mto = {row["Baseline"]: row for row in shown(markdown) if row["MTO"]}
    points = {name: row["RAUC: Eq. 6 on the paper's points"] for name, row in with_mto.items()}
    assert points == {"MAE ViT-L": "2.36", "MAE ViT-B": "2.09", "BootMAE ViT-B": "—", "ConMIM ViT-B": "2.09"}
    assert [row["RAUC: paper"] for row in with_mto.values()] == ["1.20", "1.23", "1.22", "1.20"]


def test_demo_joins_the_paper_by_epoch_without_a_delta(demo, tmp_path):
    records, markdown, _ = build(demo, "tableS1_ade20k", tmp_path)
    row = records[(records.run == "mae-vitb-mto") & (records.paper_epoch == 400)].iloc[0]
    assert (row["epoch"], row["paper"]) == (4, 44.1)
    assert records["delta"].isna().all()
    assert records["std"].isna().all()
    text = shown(markdown)[1]
    assert text["Epochs"] == "4 (paper: 400)"
    assert (text["mIoU: paper (ADE20K)"], text["mIoU: Δ"]) == ("44.1", "—")
    assert text["mIoU: ours"] == f"{accuracy('mae-vitb-mto', 0, 0.5, CEILING['ade20k']):.2f}"


def test_table3_marks_its_terms(demo, tmp_path):
    _, markdown, _ = build(demo, "table3_objectives", tmp_path)
    ticks = [[row[head] for head in row if head.startswith("L_")] for row in shown(markdown)]
    assert ticks[0] == ["✓", "", ""]
    assert ticks[5] == ["", "✓", "✓"]
    assert ticks[6] == ["✓"] * 3


def curves(tmp_path, base, mto, **plan):
    """Table 1 of one baseline with these curves."""
    for run, curve in (("mae-vitb", base), ("mae-vitb-mto", mto)):
        for epoch, value in curve.items():
            path = tmp_path / f"results/finetune/{run}/seed0/epoch{epoch:04d}/metrics.json"
            path.parent.mkdir(parents=True)
            identity = {"task": "finetune", "scale": "paper", "run": run, "seed": 0, "epoch": epoch}
            path.write_text(json.dumps({**identity, "metrics": {"top1": value}}))
    job = {
        **{"name": "table1_rauc", "scale": "paper", "recipe": "paper", "seeds": [0], "pretrain_epochs": 800},
        "plan": {"baselines": ["mae-vitb"], "epochs": sorted(base), "baseline_epoch": None, **plan},
        "cells": [
            {"task": "finetune", "run": run, "epoch": epoch, "metric": "top1"}
            for run in ("mae-vitb", "mae-vitb-mto")
            for epoch in base
        ],
    }
    (tmp_path / "job.json").write_text(json.dumps(job))
    results, out = tmp_path / "results", tmp_path / "out"
    main(["table", "--job", str(tmp_path / "job.json"), "--results", str(results), "--out", str(out)])
    return shown((out / "table1_rauc.md").read_text())[0], (out / "table1_rauc.md").read_text()


def test_table1_epochs_saved(tmp_path):
    row, _ = curves(tmp_path, {100: 80.0, 400: 82.0, 800: 83.0}, {100: 81.0, 400: 83.5, 800: 84.0})
    assert row["Epochs: to match (of 800)"] == "340.0"
    assert (row["Epochs: saved"], row["Epochs: saved, %"]) == ("460.0", "57.5")
    assert row["RAUC: Eq. 6"] == f"{(0.5 * 4.5 * 300 + 0.5 * 7.5 * 400) / (0.5 * 2 * 300 + 0.5 * 5 * 400):.2f}"


def test_table1_with_another_level(tmp_path):
    row, _ = curves(tmp_path, {100: 80.0, 800: 84.0}, {100: 82.0, 800: 84.0}, baseline_epoch=800)
    assert (row["RAUC: Eq. 6"], row["RAUC: level of epoch 800"]) == ("1.50", "0.50†")


def test_table1_refuses_a_level_that_nobody_measured(tmp_path):
    message = r"config\.yaml: study\.table1_rauc: mae-vitb: .* baseline_epoch 300, only at \[100, 800\]"
    with pytest.raises(UserError, match=message):
        curves(tmp_path, {100: 80.0, 800: 84.0}, {100: 82.0, 800: 84.0}, baseline_epoch=300)


def test_table1_not_reached_and_flat(tmp_path):
    row, markdown = curves(tmp_path, {100: 83.0, 800: 83.0}, {100: 81.0, 800: 82.0})
    assert row["RAUC: Eq. 6"] == "—†"
    assert "† The baseline gains nothing" in markdown
    assert row["Epochs: to match (of 800)"] == "not reached"


def test_table1_reached_at_once(tmp_path):
    row, _ = curves(tmp_path, {100: 80.0, 800: 83.0}, {100: 83.0, 800: 84.0})
    assert (row["Epochs: to match (of 800)"], row["Epochs: saved, %"]) == ("≤ 100.0", "≥ 87.5")


def test_a_missing_input_is_named(paper, tmp_path):
    study, _ = paper
    job = json.dumps(study.report_job("tableS2_coco"))
    with pytest.raises(UserError, match=r"coco/mae-vitb/seed0/epoch0800/metrics\.json: no such file"):
        main(["table", "--job", job, "--results", str(tmp_path), "--out", str(tmp_path)])


@pytest.mark.parametrize(
    ("job", "message"), [("nowhere.json", "no such file"), ("{", "not JSON"), ("{}", "name must be")]
)
def test_a_bad_job_is_named(job, message):
    with pytest.raises(UserError, match=message):
        main(["table", "--job", job, "--results", "x", "--out", "x"])


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


def test_the_paper_s_numbers_are_those_of_runs_in_the_study(paper):
    study, _ = paper
    names = {run.name for run in study.runs()}
    for table in REPORTS[:5]:
        known = printed.load(table)
        assert {row for row, _ in known} <= names
        assert all(float(value) for value in known.values())
    assert printed.load("table2_linear")["mae-vitb-mto", "rauc"] == "1.23"
    assert printed.official("finetune")["bootmae-vitb", 800] == "84.2"
