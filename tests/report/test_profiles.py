"""Profiles of heterogeneity over layers, and the command that says which reading falls."""

import pytest

from mto.errors import UserError
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
    text, decision = capsys.readouterr().out.split("Readings with a falling profile")
    assert "rises" in text
    assert "falls: 100% of the steps fall, H / ln V drops by at least 0.400; up to 20% of rows saturated" in decision
    assert "half" not in decision
    assert "up:" not in decision


def test_the_command_says_when_none_falls(tmp_path, capsys):
    main(["profile", "--from", str(write(tmp_path / "one", {("encoder", "up"): [0.1, 0.5]}))])
    assert "No reading gives a falling profile" in capsys.readouterr().out


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
