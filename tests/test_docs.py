"""The README and the pages of docs/ say what is in the repository."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from mto.__main__ import TASKS, TOOLS
from mto.config.compare import differences
from mto.config.reading import load, read
from mto.losses import switches
from mto.study.study import FIGURES, OURS, TABLES, Study
from test_paper_map import targets

ROOT = Path(__file__).parents[1]
PAGES = {str(page.relative_to(ROOT)): page.read_text() for page in (ROOT / "README.md", *ROOT.glob("docs/*.md"))}
README, CHOICES, RUNNING = PAGES["README.md"], PAGES["docs/choices.md"], PAGES["docs/running.md"]
RECIPES, CITING = PAGES["docs/recipes.md"], PAGES["docs/citing.md"]
PROSE = {page: re.sub(r"```.*?```", "", text, flags=re.S) for page, text in PAGES.items()}
CODE = sorted(
    {(page, " ".join(code.split())) for page, text in PROSE.items() for code in re.findall(r"`([^`]+)`", text)}
)


def first_cells(text):
    """The code in the first column of a page's tables."""
    return [
        code for cell in re.findall(r"^\| ([^|]*`[^|]*) \|", text, flags=re.M) for code in re.findall(r"`(.+?)`", cell)
    ]


def anchors(text):
    """What GitHub calls a page's headings."""
    headings = re.findall(r"^#+ (.*)$", text, flags=re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES)
def test_no_page_is_long(page):
    assert len(PAGES[page].splitlines()) <= 200


@pytest.mark.parametrize("page", PAGES)
def test_every_link_of_a_page_leads_somewhere(page):
    links = [link for link in re.findall(r"\]\(([^)]+)\)", PAGES[page]) if not link.startswith("http")]
    for link in links:
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text()), link


def test_every_page_is_linked_from_another():
    for page in PAGES.keys() - {"README.md"}:
        name = Path(page).name
        assert any(re.search(rf"\]\((docs/)?{name}[)#]", text) for other, text in PAGES.items() if other != page), page


@pytest.mark.parametrize(("page", "code"), CODE)
def test_every_path_and_command_of_a_page_is_there(page, code):
    path, _, name = code.partition(":")
    if re.match(r"(src|tests|rules|slurm|envs|examples|benchmarks|docs)/", path):
        assert (ROOT / path).exists()
        assert not name or name.split(".")[0] in (ROOT / path).read_text()
    if command := re.match(r"python -m mto (\w+)", code):
        assert command[1] in (*TASKS, *TOOLS)
    if target := re.match(r"make ([a-z-]+)", code):
        assert re.search(rf"^{target[1]}:", (ROOT / "Makefile").read_text(), flags=re.M)


def test_the_readme_names_every_table_and_figure():
    named = {name for name in first_cells(README) if re.match("table|fig|audit", name)}
    assert named - {*OURS} == {*TABLES, *FIGURES}


def test_the_targets_are_rules():
    table = RUNNING.split("## Targets")[1].split("## ")[0]
    rules = targets()
    named = [name for name in first_cells(table) if "/" not in name]
    assert len(named) > 10
    assert not [name for name in named if name not in rules]


# ------------------------------------------------------------------------------------------------------------- choices
def test_the_choices_show_what_config_diff_prints():
    rows = [f"| {key} | {paper} | {official} |" for key, paper, official in differences()]
    shown = [line for line in RECIPES.split("## The two recipes")[1].splitlines() if line.startswith("| ")]
    assert shown == ["| key | paper | official |", *rows]


def test_the_page_of_switches_is_what_the_code_declares():
    assert PAGES["docs/switches.md"] == switches.table(), "run `make schema`"


def test_the_presets_are_the_configs():
    mto = load(read(ROOT / "config.yaml")).mto
    table = CHOICES.split("## Where the paper")[0]
    assert first_cells(table) == list(mto.presets)
    assert re.findall(r"`mto\.default` is `(\w+)`", CHOICES) == [mto.default]


def test_the_site_has_every_page():
    """In one place of its navigation; `make docs` makes the other names that it lists."""
    site = (ROOT / "mkdocs.yml").read_text()
    listed = re.findall(r"([\w-]+\.md)$", site.split("\nnav:")[1], flags=re.M)
    assert len(listed) == len(set(listed))
    pages = {Path(page).name for page in PAGES if page.startswith("docs/")}
    assert pages <= set(listed)
    made = (ROOT / "tools/docs_site.py").read_text()
    assert not [name for name in set(listed) - pages if f'"{name}"' not in made]


# ----------------------------------------------------------------------------------------------------------- tutorials
@pytest.mark.parametrize("page", [page for page in PAGES if "tutorial" in page])
def test_the_settings_of_a_tutorial_are_good(page):
    for block in re.findall(r"```yaml\n(.*?)```", PAGES[page], re.DOTALL):
        written = yaml.safe_load(block)
        Study(load(written, scale=written.get("scale", "paper" if "cluster" in page else "demo")))


# -------------------------------------------------------------------------------------------------------------- citing
def test_the_extras_are_what_the_lock_is_made_of():
    asked = re.findall(r"^[a-z][^#\n]*", (ROOT / "envs/requirements.in").read_text(), flags=re.M)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert sorted(line.strip() for line in asked) == sorted([*extras["study"], *extras["dev"], "transformers"])


def test_the_citation_is_of_this_version_and_of_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    (paper,) = citation["references"]
    assert "preferred-citation" not in citation  # a button that cites would give the paper alone
    assert [author["family-names"] for author in paper["authors"]] == ["Choi", "Lee", "Joung", "Park", "Kim", "Min"]
    assert paper["url"].endswith("2404.08330")


def test_the_bibtex_says_what_the_citation_file_says():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    (paper,) = citation["references"]
    theirs, ours = re.findall(r"```bibtex\n(.*?)```", CITING, re.DOTALL)
    fields = [dict(re.findall(r"^ *(\w+) *= \{+(.*?)\}+,?$", entry, flags=re.M)) for entry in (theirs, ours)]
    names = [f"{author['family-names']}, {author['given-names']}" for author in paper["authors"]]
    assert fields[0]["author"] == " and ".join(names)
    assert (fields[0]["title"], fields[0]["year"]) == (paper["title"], str(paper["year"]))
    assert paper["url"].endswith(fields[0]["eprint"])
    keys = {"title": "title", "version": "version", "date": "date-released", "license": "license"}
    assert {name: fields[1][name] for name in keys} == {name: str(citation[key]) for name, key in keys.items()}
    assert fields[1]["author"] == citation["authors"][0]["name"]
