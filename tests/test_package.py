"""The wheel and the sdist hold the package, whole, and it works where torch alone is installed beside it."""

import importlib.metadata
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
#: What the build needs of the repository; `README.md` and `LICENSE` are in the metadata.
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "src")
USE = """
import sys
import torch
from mto import MaskedTokenOptimization
from mto.losses.diagnostics import collapse
states = [torch.randn(2, 16, 8, requires_grad=True) for _ in range(3)]
mask = torch.arange(16).expand(2, 16) < 12
MaskedTokenOptimization()(states, mask, num_masked=12)["loss"].backward()
assert all(state.grad.isfinite().all() for state in states)
collapse(states, mask)
for name in ("numpy", "timm", "pandas", "pydantic", "snakemake"):
    try:
        __import__(name)
    except ImportError:
        continue
    raise SystemExit(f"{name} is there: the environment is not empty")
print(sys.modules["mto"].__file__)
"""


def tracked() -> set[str]:
    """The files below src, those that are yet to be committed too."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "src"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return {line.removeprefix("src/") for line in listed.stdout.splitlines() if (ROOT / line).exists()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the sdist, and of the wheel that is made of it."""
    folder = tmp_path_factory.mktemp("package")
    for source in SOURCES:
        subprocess.run(["cp", "-r", ROOT / source, folder], check=True)
    subprocess.run(["rm", "-rf", *folder.glob("src/*.egg-info")], check=True)
    run_build(folder, "build_sdist")
    (sdist,) = (folder / "dist").glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (source,) = (folder / "unpacked").iterdir()
    run_build(source, "build_wheel")
    (wheel,) = (source / "dist").glob("*.whl")
    wheel.rename(folder / "dist" / wheel.name)
    return folder / "dist"


def run_build(folder: Path, what: str) -> None:
    """Builds as pip does, with the setuptools that is here."""
    code = f"from setuptools import build_meta; build_meta.{what}('dist')"
    ran = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_the_wheel_holds_every_file_of_the_package_and_no_other(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        (metadata,) = (name for name in archive.namelist() if name.endswith("METADATA"))
        said = archive.read(metadata).decode()
    assert tracked() - held == {"mto/paper/README.md"}  # a page about the numbers, beside them
    assert held - tracked() == set()
    assert re.findall(r"^Requires-Dist: ([^;\n]+)$", said, flags=re.M) == ["torch>=2.6"]


def with_what_it_needs(name: str, found: set[str]) -> set[str]:
    """The distributions that one needs here, itself included."""
    name = re.sub(r"[-_.]+", "-", name).lower()
    if name not in found:
        found.add(name)
        for line in importlib.metadata.requires(name) or []:
            requirement, _, marker = line.partition(";")
            other = re.match(r"[\w.-]+", requirement)
            if "extra ==" not in marker and other and installed(other[0]):
                with_what_it_needs(other[0], found)
    return found


def installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


@pytest.fixture(scope="module")
def empty(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that has torch, what torch needs, and the wheel: nothing is downloaded."""
    folder = tmp_path_factory.mktemp("empty")
    venv.create(folder, with_pip=False, symlinks=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    for name in with_what_it_needs("torch", set()):
        distribution = importlib.metadata.distribution(name)
        for top in {path.parts[0] for path in distribution.files or [] if path.parts[0] != ".."}:
            if not (packages / top).exists() and top != "__pycache__":
                (packages / top).symlink_to(Path(str(distribution.locate_file(top))))
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    return folder / "bin/python"


def test_it_works_beside_torch_alone(empty: Path, tmp_path: Path) -> None:
    ran = subprocess.run([empty, "-I", "-c", USE], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert Path(ran.stdout.strip()).is_relative_to(empty.parents[1])


def test_the_study_s_commands_say_what_they_lack(empty: Path, tmp_path: Path) -> None:
    command = [empty, "-I", "-m", "mto", "config", "check"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert ran.stderr.strip() == (
        "mto: error: yaml is not installed; the study needs more than torch: pip install 'mto[study]', or make setup"
    )
