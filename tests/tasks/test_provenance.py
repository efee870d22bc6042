"""The commit that a result names, in a small git repository: `-dirty` where the code was changed, and only there."""

import subprocess
from pathlib import Path

import pytest

from mto.tasks import provenance


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository laid out as this one, in which `provenance` believes to lie."""
    for name in ("src/mto/tasks/provenance.py", "rules/pretrain.smk", "Snakefile", "envs/requirements.txt"):
        write(tmp_path / name)
    for name in ("config.yaml", "slurm/profile.yaml", "results/README.md"):
        write(tmp_path / name)
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "--all")
    git(tmp_path, "-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "--quiet", "--message", "all")
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "src/mto/tasks/provenance.py"))
    return tmp_path


def write(path: Path, text: str = "first\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def git(where: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", str(where), *arguments], capture_output=True, text=True, check=True).stdout


def test_what_every_user_edits_is_no_change_of_the_code(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    head = git(clone, "rev-parse", "HEAD").strip()
    assert provenance.commit() == head
    write(clone / "config.yaml", "second\n")
    write(clone / "slurm/profile.yaml", "second\n")
    (clone / "results/README.md").unlink()
    (clone / "results").rmdir()
    (clone / "results").symlink_to(tmp_path_factory.mktemp("disk"))
    write(clone / "src/mto/notes.txt")  # git knows nothing of it
    assert git(clone, "describe", "--always", "--dirty").strip().endswith("-dirty")
    assert provenance.commit() == head


@pytest.mark.parametrize(
    "code", ["src/mto/tasks/provenance.py", "rules/pretrain.smk", "Snakefile", "envs/requirements.txt"]
)
def test_changed_code_shows(clone: Path, code: str) -> None:
    head = git(clone, "rev-parse", "HEAD").strip()
    write(clone / code, "second\n")
    assert provenance.commit() == f"{head}-dirty"
    git(clone, "add", code)
    assert provenance.commit() == f"{head}-dirty"
    (clone / code).unlink()
    assert provenance.commit() == f"{head}-dirty"


def test_the_look_leaves_the_index_alone(clone: Path) -> None:
    """Another process may hold its lock."""
    (clone / ".git/index.lock").touch()
    assert provenance.commit() == git(clone, "rev-parse", "HEAD").strip()


def test_outside_a_checkout_there_is_none(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(clone))
    monkeypatch.setattr(provenance, "__file__", str(clone.parent / "elsewhere.py"))
    assert provenance.commit() is None
