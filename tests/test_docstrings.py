"""Every public function and method says first what it does: "Returns …", "Builds …", "Checks …"."""

import ast
from collections.abc import Iterator
from pathlib import Path

import mto

SOURCE = Path(mto.__file__).parent
#: Words that end as a verb does, and are none.
NO_VERBS = {"Always", "Images", "Its", "Losses", "Numbers", "Rows", "This", "Tokens"}
#: What the command line shows as it stands, in the words of a command.
SHOWN = {"tasks/data.py main"}


def public_functions(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Yields name and docstring; a property is a noun by convention, and has no verb to begin with."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            decorators = {ast.unparse(each).rpartition(".")[2] for each in node.decorator_list}
            docstring = ast.get_docstring(node)
            if docstring and not decorators & {"property", "cached_property", "setter"}:
                yield node.name, docstring


def begins_with_a_verb(docstring: str) -> bool:
    word = docstring.split()[0].rstrip(",.:")
    return word.isalpha() and word[0].isupper() and word.endswith("s") and word not in NO_VERBS


def test_a_docstring_begins_with_a_verb():
    found = [
        f"{file.relative_to(SOURCE)} {name}: {docstring.splitlines()[0]}"
        for file in sorted(SOURCE.rglob("*.py"))
        for name, docstring in public_functions(ast.parse(file.read_text(encoding="utf-8")))
        if not begins_with_a_verb(docstring) and f"{file.relative_to(SOURCE).as_posix()} {name}" not in SHOWN
    ]
    assert not found, "\n".join(found)


def test_what_is_no_verb_is_seen():
    noun, verb, value = '"""Of one call."""', '"""Returns it."""', '"""A noun."""'
    tree = ast.parse(f"def f():\n    {noun}\ndef g():\n    {verb}\n@property\ndef h(self):\n    {value}")
    assert [name for name, text in public_functions(tree) if not begins_with_a_verb(text)] == ["f"]
