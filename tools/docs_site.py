"""mkdocs' hook: pages that are made while the site is built, and links that leave docs/.

Settings come from the JSON schema and the comments of the package's YAML files, commands from the parsers' own help,
the Python interface from docstrings (mkdocstrings). The README, CONTRIBUTING, the changes and the findings are pages of
the site too. Any other file of the repository that a page links to is copied beside it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
DATA = ROOT / "src/mto/config/data"
#: Pages of the repository that stand outside docs/, and their names on the site.
OUTSIDE = {
    "README.md": "readme.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "findings/README.md": "findings.md",
    "results/README.md": "results-folder.md",
}
LINK = re.compile(r"(?<=\]\()(?!https?:|#|mailto:)([^)#\s]+)(#[^)\s]*)?(?=\))")
#: What a user of the losses imports, and what measures their effect.
PYTHON = """\
# The Python interface

`from mto import MaskedTokenOptimization, heterogeneity` needs torch and nothing else of the package.
[Your own model](own-model.md) shows both at work. What follows is taken from the docstrings.

::: mto.losses.mto.MaskedTokenOptimization
    options: {members: [forward, text, as_printed], show_root_toc_entry: true}

::: mto.losses.mto.heterogeneity

::: mto.losses.balance.Balance

::: mto.losses.diagnostics

::: mto.methods.encoder
    options: {members: [timm_arguments, build_encoder, build_classifier, load_encoder]}

::: mto.export.cli.export
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    made = {
        "reference-settings.md": settings(),
        "reference-commands.md": commands(),
        "reference-python.md": PYTHON,
        **{name: (ROOT / path).read_text(encoding="utf-8") for path, name in OUTSIDE.items()},
    }
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    pages = {path: path.read_text(encoding="utf-8") for path in [*ROOT.glob("docs/*.md"), *(ROOT / p for p in OUTSIDE)]}
    for target in sorted({target for path, text in pages.items() for target in _leaving(path, text)}):
        files.append(File.generated(config, f"files/{target}", abs_src_path=str(ROOT / target)))
    return files


def _leaving(page: Path, text: str) -> Iterator[str]:
    """Yields the files of the repository, outside docs/, that a page links to."""
    for match in LINK.finditer(text):
        path = Path(os.path.normpath(page.parent / match[1]))
        if path.is_file() and path.is_relative_to(ROOT):
            name = path.relative_to(ROOT).as_posix()
            if not name.startswith("docs/") and name not in OUTSIDE:
                yield name


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Returns the page with its links as the site has them: the file's own folder is docs/ there."""
    outside = {name: path for path, name in OUTSIDE.items()}
    folder = (ROOT / outside.get(page.file.src_uri, f"docs/{page.file.src_uri}")).parent

    def moved(match: re.Match[str]) -> str:
        path = Path(os.path.normpath(folder / match[1]))
        if not path.is_relative_to(ROOT):
            return match[0]
        name = path.relative_to(ROOT).as_posix()
        place = OUTSIDE.get(name) or (name.removeprefix("docs/") if name.startswith("docs/") else f"files/{name}")
        return place + (match[2] or "")

    return LINK.sub(moved, markdown)


# ------------------------------------------------------------------------------------------------------------ settings
def settings() -> str:
    schema = json.loads((ROOT / "src/mto/config.schema.json").read_text(encoding="utf-8"))
    blocks, told = schema["$defs"], comments()
    lines = [
        "# Settings",
        "",
        "Every key of `config.yaml`, by its place. What a key may be comes from the JSON schema, and what it means",
        "from the schema's descriptions and the comments of the package's files. [configuration.md](configuration.md)",
        "has whole edits, and `python -m mto config show KEY` prints a key's value and where it was set. Keys below",
        "`scales.<scale>` are the same once more.",
    ]
    for key, value in schema["properties"].items():
        if key in ("scales", "each_baseline"):
            continue
        lines += ["", f"## `{key}`", ""]
        rows = list(_rows(key, value, blocks, told, ()))
        about = _block(value, blocks).get("description")
        lines += [
            *([" ".join(about.split()), ""] if about else []),
            "| key | may be | meaning |",
            "|---|---|---|",
            *rows,
        ]
    return "\n".join(lines) + "\n"


def _block(value: dict[str, Any], blocks: dict[str, Any]) -> dict[str, Any]:
    """The block that a property refers to; itself where it refers to none."""
    options = [value, *value.get("anyOf", ())]
    for option in options:
        if "$ref" in option:
            return blocks[option["$ref"].rsplit("/", 1)[1]]
    return value


def _rows(
    key: str, value: dict[str, Any], blocks: dict[str, Any], told: dict[str, str], seen: tuple[str, ...]
) -> Iterator[str]:
    block = _block(value, blocks)
    below = block.get("properties")
    each = block.get("additionalProperties")
    if below and block.get("title") not in seen and key.count(".") < 3:
        if seen and block.get("description"):
            yield f"| `{key}` | a block | {_cell(block['description'])} |"
        for name, one in below.items():
            yield from _rows(f"{key}.{name}", one, blocks, told, (*seen, str(block.get("title"))))
    elif isinstance(each, dict) and _block(each, blocks).get("properties"):
        yield from _rows(f"{key}.<name>", each, blocks, told, seen)
    else:
        meaning = value.get("description") or told.get(_place(key)) or told.get(key.rsplit(".", 1)[-1], "")
        yield f"| `{key}` | {_cell(_kind(value, blocks))} | {_cell(meaning)} |"


def _place(key: str) -> str:
    return re.sub(r"\.<name>", "", key)


def _kind(value: dict[str, Any], blocks: dict[str, Any]) -> str:
    """What a value may be, in words."""
    if "anyOf" in value:
        return " or ".join(_kind(one, blocks) for one in value["anyOf"])
    if "$ref" in value:
        return "a block"
    if "const" in value:
        return f"`{json.dumps(value['const'])}`"
    if "enum" in value:
        return ", ".join(f"`{one if isinstance(one, str) else json.dumps(one)}`" for one in value["enum"])
    kind = value.get("type", "anything")
    if kind == "array":
        sizes = {value.get("minItems"), value.get("maxItems")} - {None}
        number = f"{value['minItems']} " if len(sizes) == 1 and "maxItems" in value else ""
        return f"list of {number}{_kind(value.get('items', {}), blocks)}"
    words = {
        "integer": "whole number",
        "null": "`null`",
        "boolean": "`true`, `false`",
        "string": "text",
        "object": "mapping",
    }
    bounds = {"minimum": "≥", "maximum": "≤", "exclusiveMinimum": ">", "exclusiveMaximum": "<"}
    limits = [f"{sign} {value[name]:g}" for name, sign in bounds.items() if name in value and value[name] != 1e6]
    return words.get(kind, kind) + (f" {', '.join(limits)}" if limits else "")


def comments() -> dict[str, str]:
    """Returns a dotted key, and the key alone, to the comment behind it in the package's YAML files."""
    found: dict[str, str] = {}
    for file in (*sorted(DATA.glob("*.yaml")), *sorted(DATA.glob("recipes/*.yaml"))):
        path: list[tuple[int, str]] = []
        for line in file.read_text(encoding="utf-8").splitlines():
            match = re.match(r"( *)([\w<>@-]+):(?: |$)", line)
            if not match:
                continue
            depth = len(match[1])
            path = [(level, name) for level, name in path if level < depth] + [(depth, match[2])]
            _, separator, comment = line.partition(" # ")
            if separator:
                names = [
                    name for _, name in path if not (len(path) > 3 and name == path[2][1] and path[1][1] == "presets")
                ]
                found.setdefault(".".join(names), comment.strip())
                found.setdefault(match[2], comment.strip())
    return found


def _cell(text: str) -> str:
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


# ------------------------------------------------------------------------------------------------------------ commands
def commands() -> str:
    """Returns the help of every task and tool, as the parsers print it."""
    lines = [
        "# Command line",
        "",
        "The targets of Snakemake are in [running.md](running.md#targets). What the workflow runs, and what you can",
        "run by hand, is `python -m mto`. What follows is what the parsers print.",
        "",
        "## `python -m mto TASK`",
        "",
        *_fenced(_help()),
    ]
    tools = re.findall(r"options of their own: ([\w, \n]+?) \(python", _help())[0]
    for tool in re.split(r",\s*", tools):
        text = _help(tool.strip())
        lines += ["", f"## `python -m mto {tool.strip()}`", "", *_fenced(text)]
        choices = re.search(r"^  \{([\w,-]+)\}", text, flags=re.M)
        for command in choices[1].split(",") if choices else ():
            lines += ["", f"### `python -m mto {tool.strip()} {command}`", "", *_fenced(_help(tool.strip(), command))]
    return "\n".join(lines) + "\n"


def _help(*arguments: str) -> str:
    python = os.environ.get("MTO_PYTHON", str(ROOT / ".venv/bin/python"))
    told = subprocess.run(
        [python, "-m", "mto", *arguments, "--help"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"COLUMNS": "100"},
        cwd=ROOT,
    )
    return told.stdout.rstrip()


def _fenced(text: str) -> list[str]:
    return ["```text", text, "```"]
