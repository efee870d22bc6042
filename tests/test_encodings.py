"""Text is read and written as UTF-8 everywhere, whatever the locale: each call says so."""

import ast
from pathlib import Path

import pytest

CALLS = {"read_text", "write_text", "open"}
OTHERS = {"os", "Image", "tarfile", "gzip", "zipfile"}  # whose `open` is of bytes


def without_encoding(source: str) -> list[int]:
    """Returns the lines of calls that leave the encoding to the locale."""
    lines = []
    for call in ast.walk(ast.parse(source)):
        if not isinstance(call, ast.Call):
            continue
        by = call.func.value if isinstance(call.func, ast.Attribute) else None
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        if name not in CALLS or (isinstance(by, ast.Name) and by.id in OTHERS):
            continue
        given = [*call.args, *(word.value for word in call.keywords if word.arg == "mode")]
        binary = name == "open" and any(isinstance(mode, ast.Constant) and "b" in str(mode.value) for mode in given)
        if not binary and all(word.arg != "encoding" for word in call.keywords):
            lines.append(call.lineno)
    return lines


@pytest.mark.parametrize("path", sorted(Path("src/mto").rglob("*.py")), ids=str)
def test_each_call_says_utf8(path):
    assert without_encoding(path.read_text(encoding="utf-8")) == []


def test_the_check_can_fail():
    assert without_encoding("x.read_text()\nopen(y)\nz.open('a')\n") == [1, 2, 3]
    assert without_encoding("x.read_text(encoding='utf-8')\nopen(y, 'rb')\nImage.open(z)\n") == []
