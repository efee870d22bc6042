"""docs/paper-map.md names what exists: files, what they define, config keys and targets; and no part is left out."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest
import yaml

from mto.__main__ import TASKS, TOOLS
from mto.config.reading import load, read
from mto.names import BASELINES, STAGES
from mto.study.study import FIGURES, TABLES

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/paper-map.md").read_text()
SETTINGS = "## Supplementary Tables 3 to 6, row by row"


def rows(text):
    """The cells of every table row, heads and rules left out."""
    lines = text.splitlines()
    body = [line for line, after in zip(lines, [*lines[1:], ""], strict=True) if not after.startswith("|---")]
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in body
        if line.startswith("|") and not line.startswith("|---")
    ]


def section(head):
    return PAGE.split(head)[1].split("\n## ")[0]


PARTS = [row for row in rows(PAGE) if row not in rows(section(SETTINGS))]
NAMED = sorted({name for row in PARTS for name in re.findall(r"`([^`]+)`", " ".join(row[1:]))})


@cache
def config():
    """The paper scale's, as config.yaml says it once it is merged."""
    return load(read(ROOT / "config.yaml"), scale="paper", recipe="paper").model_dump()


def values(node, key):
    """What a dotted key leads to; `*` to every entry. KeyError if there is nothing."""
    first, _, rest = key.partition(".")
    below = list(node.values()) if first == "*" else [node[first]]
    return [found for one in below for found in (values(one, rest) if rest else [one])]


def defined(path, name):
    """Does the Python file define it, at its top or (dotted) in a class?"""
    body = ast.parse(path.read_text()).body
    for part in name.split("."):
        found = [node for node in body if part in names(node)]
        if not found:
            return False
        body = getattr(found[0], "body", [])
    return True


def names(node):
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def targets():
    """The rules that can be asked for by name: some are in the workflow's text, others are made of what is declared."""
    files = [ROOT / "Snakefile", *ROOT.glob("rules/*.smk")]
    written = {name for file in files for name in re.findall(r"^rule (\w+):", file.read_text(), flags=re.M)}
    return written | BASELINES.keys() | {stage.target or name for name, stage in STAGES.items()}


def exists(name):
    if match := re.fullmatch(r"results/<scale>/(tables|figures)/(\w+)", name):
        return match[2] in {"tables": TABLES, "figures": FIGURES}[match[1]]
    if name.startswith("snakemake "):
        return name.split()[1] in targets()
    if name.startswith("python -m mto "):
        return name.split()[3] in (*TASKS, *TOOLS)
    if "/" in name:
        path, _, inside = name.partition(":")
        return (ROOT / path).exists() and (not inside or defined(ROOT / path, inside))
    try:
        return bool(values(config(), name))
    except (KeyError, TypeError, AttributeError):
        return False


@pytest.mark.parametrize("name", NAMED)
def test_every_name_exists(name):
    assert exists(name), f"docs/paper-map.md: {name} is not there"


def test_every_equation_names_its_test():
    main = section("## Main paper: equations and algorithm")
    lacking = [row[0] for row in rows(main) if row[0].startswith("Eq.") and "`tests/" not in row[-1]]
    assert lacking == []


@pytest.mark.parametrize(
    "name",
    [
        "src/mto/no_such_file.py",
        "src/mto/losses/mto.py:no_such_name",
        "src/mto/losses/mto.py:MaskedTokenOptimization.no_such_method",
        "study.table9_unknown",
        "mto.presets.*.no_such_switch",
        "snakemake no_such_target",
        "python -m mto no_such_tool",
        "results/<scale>/tables/table9_unknown",
        "results/<scale>/figures/table1_rauc",
    ],
)
def test_a_name_that_is_gone_would_fail(name):
    assert not exists(name)


def test_no_part_of_the_paper_is_left_out():
    main, supplementary = PAGE.split("## Supplementary material")
    parts = {row[0] for row in rows(main)}
    expected = [
        *(
            "1 Introduction",
            "2 Preliminaries",
            "3.1",
            "3.2",
            "4 Masked",
            "5.1",
            "5.2",
            "5.3",
            "5.4",
            "6 Related",
            "7 Conclusion",
        ),
        *(f"Eq. {n}" for n in range(1, 7)),
        "Algorithm 1",
        *(f"Table {n}" for n in (1, 2, 3)),
        *(f"Figure {n}" for n in (1, 2, 3, 4)),
    ]
    assert [part for part in expected if not any(row.startswith(part) for row in parts)] == []
    parts = " ".join(row[0] for row in rows(supplementary))
    expected = [f"Table {n}" for n in range(1, 7)] + [
        "Figure 1",
        "Figure 2",
        "Eq. 1 and 2",
        "Eq. 3 to 9",
        "Eq. 10 to 17",
    ]
    assert [part for part in expected if part not in parts] == []


def test_every_table_and_figure_of_the_study_is_on_the_page():
    shown = {name.rpartition("/")[2] for name in NAMED if name.startswith("results/<scale>/")}
    assert shown == {*TABLES, *FIGURES}


@pytest.mark.parametrize("row", rows(section(SETTINGS)), ids=lambda row: row[0])
def test_a_printed_setting_is_the_configs(row):
    key = row[1].strip("`")
    if "/" in key:
        assert exists(key)
        return
    for baseline, printed in zip(BASELINES, row[2:], strict=True):
        if printed == "—":
            continue
        (value,) = values(config(), f"baselines.{baseline}.{key}")
        given = [yaml.safe_load(one) if one.isalpha() else float(one) for one in printed.split(", ")]
        assert value == given if isinstance(value, list) else value in given, (
            f"{baseline}.{key}: {value}, not {printed}"
        )


def test_each_settings_table_has_all_its_rows():
    printed = zip(*(row[2:] for row in rows(section(SETTINGS))), strict=True)
    # ViT-L's fine-tuning epochs share a row with ViT-B's in the paper, and have their own here.
    assert [sum(cell != "—" for cell in column) for column in printed] == [14, 15, 14, 16]
