"""Figures from a made-up results tree: every file there, drawn from the right numbers, equal bytes for equal inputs."""

import importlib
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from mto.errors import UserError
from mto.report.cli import main
from mto.report.figures import (
    fig1_heterogeneity,
    fig2_affinity,
    fig4_epochs,
    figS1_architectures,
    figS2_decoder_depth,
    style,
)
from mto.report.metrics import Report
from mto.study.study import FIGURES


def report(tree, name):
    study, results = tree
    return Report(study.report_job(name), results)


def draw(tree, name, out):
    study, results = tree
    main(["figure", "--job", json.dumps(study.report_job(name)), "--results", str(results), "--out", str(out)])


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_written(demo, name, tmp_path):
    draw(demo, name, tmp_path)
    assert (tmp_path / f"{name}.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    pdf = (tmp_path / f"{name}.pdf").read_bytes()
    assert pdf[:5] == b"%PDF-"
    assert b"/FontFile2" in pdf  # TrueType, embedded
    assert b"/Subtype /Type3" not in pdf
    assert b"CreationDate" not in pdf
    values = {".csv"} if name == "fig1_heterogeneity" else set()
    assert {path.suffix for path in tmp_path.iterdir()} == {".png", ".pdf"} | values


def test_equal_inputs_give_equal_bytes(demo, tmp_path):
    for out in ("one", "two"):
        draw(demo, "figS2_decoder_depth", tmp_path / out)
    for suffix in ("png", "pdf"):
        one, two = (tmp_path / out / f"figS2_decoder_depth.{suffix}" for out in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


def texts(figure):
    return " ".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))


def test_fig4_draws_the_means(paper):
    source = report(paper, "fig4_epochs")
    figure = fig4_epochs.draw(source)
    axes = {panel.get_title(): panel for panel in figure.axes if panel.get_title()}
    assert list(axes) == ["SimMIM ViT-B", "BootMAE ViT-B", "MAE ViT-B", "ConMIM ViT-B", "MAE ViT-L"]
    plain, with_mto = axes["MAE ViT-B"].lines[:2]
    for line, run in ((plain, "mae-vitb"), (with_mto, "mae-vitb-mto")):
        expected = np.mean([list(source.curve(run, seed).values()) for seed in (0, 1, 2)], axis=0)
        np.testing.assert_allclose(line.get_ydata(), expected)
    assert len(axes["MAE ViT-B"].collections) == 2  # a band a curve
    assert "fewer epochs\n(paper: 54 %)" in texts(figure)
    assert "over 3 seeds" in texts(figure)


def test_fig4_says_when_the_level_is_not_reached(tmp_path):
    cells = []
    for run, values in (("mae-vitb", (80.0, 83.0)), ("mae-vitb-mto", (79.0, 82.0))):
        for epoch, value in zip((4, 8), values, strict=True):
            cells.append({"task": "finetune", "run": run, "epoch": epoch, "metric": "top1"})
            path = tmp_path / f"finetune/{run}/seed0/epoch{epoch:04d}/metrics.json"
            path.parent.mkdir(parents=True)
            identity = {"task": "finetune", "scale": "demo", "run": run, "seed": 0, "epoch": epoch}
            path.write_text(json.dumps({**identity, "metrics": {"top1": value}}))
    plan = {"baselines": ["mae-vitb"], "epochs": [4, 8]}
    job = {"name": "fig4_epochs", "scale": "demo", "recipe": "paper", "seeds": [0], "pretrain_epochs": 8, "plan": plan}
    job["size"] = {"images": "handwritten digits", "networks": {"vitb": [32, 4]}}
    figure = fig4_epochs.draw(Report({**job, "cells": cells}, tmp_path))
    assert "not reached" in texts(figure)
    assert "handwritten digits" in texts(figure)


def test_figS1_sets_two_methods_side_by_side(paper):
    source = report(paper, "figS1_architectures")
    figure = figS1_architectures.draw(source)
    assert [axes.get_title() for axes in figure.axes] == ["SimMIM ViT-B, encoder-style", "MAE ViT-B, decoder-style"]
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()
    plain, with_mto = figure.axes[0].lines[:2]
    for line, run in ((plain, "simmim-vitb"), (with_mto, "simmim-vitb-mto")):
        expected = np.mean([list(source.curve(run, seed).values()) for seed in (0, 1, 2)], axis=0)
        np.testing.assert_allclose(line.get_ydata(), expected)


@pytest.mark.parametrize("draw_it", [fig4_epochs.draw, figS1_architectures.draw])
def test_curves_are_told_apart_without_colour(paper, draw_it):
    figure = draw_it(report(paper, "fig4_epochs"))
    plain, with_mto = figure.axes[0].lines[:2]
    assert (plain.get_linestyle(), plain.get_marker()) != (with_mto.get_linestyle(), with_mto.get_marker())


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_of_nothing_says_so(demo, name, tmp_path):
    study, _ = demo
    source = Report(study.report_job(name), tmp_path)
    figure = importlib.import_module(f"mto.report.figures.{name}").draw(source)
    shown = texts(figure)
    if source.cells:
        assert "measured yet" in shown
    draw((study, tmp_path), name, tmp_path)
    assert (tmp_path / f"{name}.png").exists()


def test_a_figure_of_one_baseline_draws_it_and_names_the_rest(demo, tmp_path):
    study, results = demo
    for run in ("mae-vitb", "mae-vitb-mto"):
        shutil.copytree(results / "finetune" / run, tmp_path / "finetune" / run)
    shutil.rmtree(tmp_path / "finetune/mae-vitb-mto/seed0/epoch0004")
    figure = fig4_epochs.draw(Report(study.report_job("fig4_epochs"), tmp_path))
    panels = {axes.get_title(): axes for axes in figure.axes if axes.get_title()}
    assert [len(line.get_xdata()) for line in panels["MAE ViT-B"].lines] == [4, 3, 2]  # and the level from scratch
    assert "not complete yet" in texts(panels["MAE ViT-B"])
    assert "not measured yet" in texts(panels["SimMIM ViT-B"])


def test_fig1_has_a_panel_a_variant(demo):
    figure = fig1_heterogeneity.draw(report(demo, "fig1_heterogeneity"))
    assert len(figure.axes) == len(demo[0].config.analysis.variants)
    lines = figure.axes[0].lines
    assert len(lines) == 3  # MAE; SimMIM early and late
    assert all(np.all(np.diff(line.get_ydata()) < 0) for line in lines)
    assert all(0 <= value <= 1 for line in lines for value in line.get_ydata())


def test_fig2_orders_and_normalises(demo):
    source = report(demo, "fig2_affinity")
    figure = fig2_affinity.draw(source)
    images = [axes.images[0] for part in figure.subfigs for axes in part.axes if axes.images]
    assert len(images) == 2 * 7
    for image in images:
        assert (image.get_array().min(), image.get_array().max()) == (0.0, 1.0)
    _, maps, masked = fig2_affinity.read(source.folder(source.cells[0], 0))[0]
    assert (list(maps), masked) == (list(range(7)), 27)
    assert [line.get_ydata()[0] for line in images[0].axes.lines] == [26.5, 0]


def test_figS2_pairs_depths_with_their_runs(paper):
    source = report(paper, "figS2_decoder_depth")
    figure = figS2_decoder_depth.draw(source)
    line = figure.axes[0].lines[0]
    assert line.get_xdata().tolist() == sorted(source.plan["depths"])
    default = next(cell for cell in source.cells if cell.run == "mae-vitb-mto" and cell.task == "finetune")
    assert line.get_ydata()[source.plan["depths"].index(8)] == pytest.approx(np.mean(source.values(default)))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (None, "no such file"),
        ({"encoder/0": np.zeros((1, 4, 4))}, "lacks num_masked"),
        ({"num_masked": 2, "encoder/0": np.zeros((4, 4))}, "encoder/0 must be"),
    ],
)
def test_fig2_refuses_a_bad_file(tmp_path, arrays, message):
    if arrays is not None:
        np.savez(tmp_path / "affinity.npz", **arrays)
    with pytest.raises(UserError, match=message) as error:
        fig2_affinity.read(tmp_path)
    assert str(tmp_path / "affinity.npz") in str(error.value)


def test_reporting_imports_no_torch_and_tables_no_matplotlib():
    code = (
        "import sys, mto.report.cli, mto.report.tables; "
        "assert not {'torch', 'matplotlib', 'pandas'} & set(sys.modules); "
        "import mto.report.figures.fig1_heterogeneity; assert 'torch' not in sys.modules; "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_long_foot_stays_inside_the_figure():
    figure = style.new(
        2.0, "Not there yet: " + ", ".join(f"finetune/simmim-vitb-mto/seed0/epoch{n:04d}" for n in range(12))
    )
    figure.draw_without_rendering()
    (foot,) = (text for text in figure.texts if "Not there yet" in text.get_text())
    extent = foot.get_window_extent()
    assert extent.x0 >= 0
    assert extent.x1 <= figure.bbox.width
    assert extent.y0 >= 0
