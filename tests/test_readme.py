"""The README shows what is in the repository."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_drawing_is_the_one_that_make_dag_writes():
    drawing = (ROOT / "docs/dag.mmd").read_text().split("---\n")[-1]
    assert f"```mermaid\n{drawing.strip()}\n```" in README


def test_every_path_that_the_readme_links_is_there():
    links = [part.split(")")[0] for part in README.split("](")[1:]]
    assert links
    assert not [link for link in links if not link.startswith("http") and not (ROOT / link).exists()]
