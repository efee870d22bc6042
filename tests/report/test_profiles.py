"""Profiles of heterogeneity over layers, and the command that says which reading falls."""

import json

import pandas as pd
import pytest

from mto.errors import UserError
from mto.names import Step
from mto.report import profiles
from mto.report.cli import main

HEAD = "stream,layer,variant,image,H,H_over_lnV,saturated\n"


def write(folder, series, images=(-0.01, 0.0, 0.01), saturated=0.0):
    """heterogeneity.csv with these mean profiles, by (stream, variant)."""
    folder.mkdir()
    lines = [
        f"{stream},{layer},{variant},{image},{ratio + offset},{ratio + offset},{saturated}"
        for (stream, variant), ratios in series.items()
        for layer, ratio in enumerate(ratios)
        for image, offset in enumerate(images)
    ]
    (folder / "heterogeneity.csv").write_text(HEAD + "\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize(
    ("means", "word"),
    [
        ([0.9, 0.8, 0.7], "falls at every layer"),
        ([0.9, 0.92, 0.7], "falls"),
        ([0.9, 0.899, 0.901], "flat"),
        ([0.5, 0.6, 0.7], "rises"),
        ([0.5, 0.8, 0.5], "returns"),
    ],
)
def test_shape(means, word):
    assert profiles.shape(means) == word


def test_over_layers_is_mean_and_percentiles(tmp_path):
    table = profiles.read(write(tmp_path / "a", {("encoder", "x"): [0.9, 0.5]}, images=(-0.1, 0.0, 0.1)))
    profile = profiles.over_layers(table)
    assert profile["mean"].tolist() == pytest.approx([0.9, 0.5])
    assert profile["low"].tolist() == pytest.approx([0.82, 0.42])
    assert profile["high"].tolist() == pytest.approx([0.98, 0.58])


def test_the_command_names_the_reading_that_falls_everywhere(tmp_path, capsys):
    both = {
        ("encoder", "falls"): [0.9, 0.7, 0.5],
        ("encoder", "half"): [0.9, 0.7, 0.5],
        ("encoder", "up"): [0.1, 0.4, 0.5],
    }
    one = write(tmp_path / "one", both)
    two = write(
        tmp_path / "two", {("decoder", "falls"): [0.9, 0.6, 0.3], ("decoder", "half"): [0.5, 0.7, 0.9]}, saturated=0.2
    )
    main(["report", "profile", "--from", str(one), str(two)][1:])
    text, decision = capsys.readouterr().out.split("Affinities with a falling profile")
    assert "rises" in text
    assert "falls: 100% of the steps fall, H / ln V drops by at least 0.400; up to 20% of rows saturated" in decision
    assert "half" not in decision
    assert "up:" not in decision


def test_the_command_says_when_none_falls(tmp_path, capsys):
    main(["profile", "--from", str(write(tmp_path / "one", {("encoder", "up"): [0.1, 0.5]}))])
    assert "No affinity gives a falling profile" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "no such file"), ("", "not a table"), ("stream\nx\n", "lacks layer"), (HEAD, "no rows")],
)
def test_a_bad_file_is_named(tmp_path, text, message):
    if text is not None:
        (tmp_path / "heterogeneity.csv").write_text(text)
    with pytest.raises(UserError, match=message) as error:
        profiles.read(tmp_path)
    assert str(tmp_path / "heterogeneity.csv") in str(error.value)


def test_the_command_prints_every_layer_in_nats(tmp_path, capsys):
    folder = write(
        tmp_path / "one", {("decoder", "pre-dot-raw"): [2.19, 0.44], ("decoder", "post-dot-raw"): [2.0, 1.0]}
    )
    main(["profile", "--layers", "--from", str(folder)])
    _, head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["stream", "variant", "0", "1"]
    assert [row.split() for row in rows] == [
        ["decoder", "pre-dot-raw", "2.190", "0.440"],
        ["decoder", "post-dot-raw", "2.000", "1.000"],
    ]


def test_figure_1_has_its_values_beside_it(demo, tmp_path):
    study, results = demo
    job = json.dumps(study.report_job("fig1_heterogeneity"))
    main(["figure", "--job", job, "--results", str(results), "--out", str(tmp_path)])
    table = pd.read_csv(tmp_path / "fig1_heterogeneity.csv")
    cells = {(cell.run, cell.epoch) for cell in study.cells("fig1_heterogeneity")}
    assert set(zip(table.run, table.epoch, strict=True)) == cells
    run, epoch = min(cells)
    whole = pd.read_csv(results / Step("heterogeneity", run, 0, epoch).folder / "heterogeneity.csv")
    one = table[(table.run == run) & (table.epoch == epoch)].iloc[3]
    images = whole[(whole.stream == one.stream) & (whole.variant == one.variant) & (whole.layer == one.layer)]
    assert one["H"] == pytest.approx(images["H"].mean())
    assert one.H_over_lnV == pytest.approx(images.H_over_lnV.mean())
    assert one.p90 == pytest.approx(images.H_over_lnV.quantile(0.9))


# ------------------------------------------------------------------------------------------ one name for one number
@pytest.mark.parametrize(
    ("task", "job", "affinity"),
    [
        ("pretrain", {"mto": {"terms": []}}, "pre-cosine-raw-0.1"),  # measured by the defaults
        ("pretrain", {"mto": {"terms": ["r"], "affinity": "dot", "temperature": 1.0}}, "pre-dot-raw"),
        ("heterogeneity", {"variants": [{"position": "post", "affinity": "dot", "tokens": "raw"}]}, "post-dot-raw"),
        ("heterogeneity", None, ""),  # no job.json, as of what was copied here
    ],
)
def test_results_csv_says_by_which_affinity(task, job, affinity, tmp_path):
    step = Step(task, "mae-vitb", 0, 8)
    folder = tmp_path / step.folder
    folder.mkdir(parents=True)
    record = {
        **step._asdict(),
        "scale": "demo",
        "metrics": {"heterogeneity_1": 0.4, "a/heterogeneity_2": 1.0, "images": 8},
    }
    (folder / "metrics.json").write_text(json.dumps(record))
    if job is not None:
        (folder / "job.json").write_text(json.dumps({"task": task, "job": job, "inputs": {}}))
    main(["results", "--out", str(tmp_path / "results.csv"), str(folder / "metrics.json")])
    table = pd.read_csv(tmp_path / "results.csv", keep_default_na=False).set_index("metric")
    assert table.affinity.to_dict() == {"heterogeneity_1": affinity, "a/heterogeneity_2": affinity, "images": ""}
