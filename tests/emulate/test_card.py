"""Which GPU is emulated, and what is said where none can be."""

import re

import pytest

from mto.__main__ import main
from mto.emulate import build, start
from mto.emulate.card import Card
from mto.errors import UserError


def test_a_card_reaches_another_process_through_the_environment():
    card = Card("8.6", 24, 2, values=True)
    assert Card.asked(card.environment()) == card
    assert Card.asked({}) is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--compute-capability", "6.1"],
            r"--compute-capability 6\.1: not known; there are 7\.5 \(T4\), 8\.0 \(A100\)",
        ),
        (["--card-gb", "0"], "--card-gb 0: must be 1 or more"),
        (["--cards", "0"], "--cards 0: must be 1 or more"),
    ],
)
def test_a_card_that_is_none_is_one_line(capsys, options, said):
    assert main(["emulate", *options, "bench"]) == 2
    assert re.search(said, capsys.readouterr().err)


def test_no_compiler_is_one_line(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "g++ and nm to build it with not found here" in build.unavailable()
    assert main(["emulate", "bench"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("mto: error: a GPU is emulated by a small library, and g++")
    assert said.count("\n") == 1


def test_a_folder_of_another_user_is_not_executed_from(monkeypatch, tmp_path):
    monkeypatch.setattr(build.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv("LOGNAME", "someone")
    monkeypatch.setattr(build.os, "getuid", lambda: 12345)
    monkeypatch.setattr(build, "unavailable", lambda: None)
    with pytest.raises(UserError, match="belongs to another user; set TMPDIR"):
        build.library()


def test_torch_must_not_be_there_before():
    import torch  # noqa: F401

    with pytest.raises(RuntimeError, match="before torch is imported"):
        start.start(Card())
