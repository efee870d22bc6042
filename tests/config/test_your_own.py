"""The edits of docs/your-own.md, as written: each is good, all of it has an effect, and it plans what the page says."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from mto.config.reading import load, read, resolve
from mto.names import Run
from mto.study.study import Study
from mto.study.unused import unused

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/your-own.md").read_text()
IMAGES, PRESET, LONGER, ELSEWHERE = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.S)


def study(folder: Path, text: str) -> Study:
    file = folder / "config.yaml"
    file.write_text(text)
    source = read(file)
    planned = Study(load(source))
    assert unused(planned, resolve(source)) == []
    return planned


def jobs(planned: Study) -> Counter[str]:
    return Counter(step.task for step in (*planned.segments(), *planned.steps()))


def test_images(tmp_path: Path) -> None:
    planned = study(tmp_path, IMAGES)
    assert planned.datasets == ["imagenet"]
    job = planned.job(planned.segments()[0]).plain()
    assert (job["data"]["num_classes"], job["data"].get("classes"), job["optim"]["batch_size"]) == (20, None, 512)
    assert not [step for step in planned.select("simmim") if step.task == "linear"]
    assert {Run.parse(step.run).terms for step in planned.select("simmim")} == {(), ("spa", "e", "r")}


def test_preset(tmp_path: Path) -> None:
    planned, shipped = study(tmp_path, PRESET), study(tmp_path, "scale: mini\n")
    more = jobs(planned) - jobs(shipped)
    assert (more.total(), "18 jobs" in PAGE) == (18, True)
    assert planned.runs() - shipped.runs() == {Run.parse(f"{name}-vitb-mto@half") for name in ("simmim", "mae")}
    half, whole = (planned.config.mto.presets[name].model_dump() for name in ("half", "cosine"))
    assert {name for name in half if half[name] != whole[name]} == {"spa_weight", "e_weight", "r_weight"}


@pytest.mark.parametrize(
    ("text", "epochs"), [(LONGER, {4, 8, 16, 32}), (ELSEWHERE, {2, 4, 8, 12, 16})], ids=["longer", "elsewhere"]
)
def test_epochs(tmp_path: Path, text: str, epochs: set[int]) -> None:
    assert {step.epoch for step in study(tmp_path, text).segments()} == epochs
