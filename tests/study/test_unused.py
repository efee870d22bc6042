"""A setting that no job, table or figure uses is named at the start, with file and line; another is not."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mto.config.layers import RECIPES, SCALES
from mto.config.reading import Source, load, read, resolve
from mto.study.study import Study
from mto.study.unused import unused

ROOT = Path(__file__).parents[2]


def told(file: Path, scale: str, text: str, **given: object) -> list[str]:
    file.write_text(text)
    source = read(file, {"scale": scale, **given})
    return unused(Study(load(source)), resolve(source))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("recipe", RECIPES)
def test_the_shipped_settings_have_all_their_effect(scale: str, recipe: str) -> None:
    for source in (Source(), read(ROOT / "config.yaml")):
        assert (
            unused(Study(load(source, scale=scale, recipe=recipe)), resolve(source, scale=scale, recipe=recipe)) == []
        )


#: Scale, config.yaml, the key that is named (None: none), and the reason.
CASES = [
    ("mini", "study: {pretrain_epochs: 32, measured_epochs: [2, 4, 8, 16, 32]}", None, ""),
    (
        "mini",
        "study: {measured_epochs: [2, 3, 4, 8, 16], table1_rauc: null, fig4_epochs: null, figS1_architectures: null,"
        " table2_linear: {epochs: [4, 8, 16]}}",
        *("study.measured_epochs", "asks for epoch 3"),
    ),
    ("paper", "study: {fig4_epochs: null}", None, ""),
    ("demo", "mto: {presets: {half: {base: cosine, eps: 0.5}}}", "mto.presets.half", "a run with this preset"),
    ("demo", "mto: {default: half, presets: {half: {base: cosine, eps: 0.5}}}", None, ""),
    ("demo", "mto: {presets: {cosine: {eps: 0.5}}}", None, ""),
    ("demo", "mto: {presets: {text: {eps: 0.5}}}", "mto.presets.text", "a run with this preset"),
    ("mini", "baselines: {mae: {coco: {epochs: 2}}}", "baselines.mae.coco", "no table has a coco of it"),
    ("mini", "each_baseline: {coco: {epochs: 2}}", "each_baseline.coco", "no table has a coco of it"),
    ("mini", "each_baseline: {linear: {epochs: 3}}", None, ""),
    ("paper", "each_baseline: {ade20k: {layer_decay: 0.5}}", None, ""),  # SimMIM is in no such table, the others are
    ("paper", "baselines: {simmim: {ade20k: {layer_decay: 0.5}}}", "baselines.simmim.ade20k", "a ade20k of it"),
    (
        "mini",
        "baselines: {mae: {backbones: {vitl: {finetune: {epochs: 2}}}}}",
        "baselines.mae.backbones.vitl",
        "a run of it",
    ),
    ("mini", "backbones: {vitl: {depth: 5}}", "backbones.vitl", "a run of it"),
    ("mini", "baselines: {mae: {pretrain: {lr: {base: 0.01}}}}", None, ""),
    (
        "mini",
        "baselines: {mae: {pretrain: {schedule: {gamma: 0.5}}}}",
        "baselines.mae.pretrain.schedule.gamma",
        "is cosine",
    ),
    ("mini", "baselines: {mae: {mask: {cell_size: 4}}}", "baselines.mae.mask.cell_size", "sampler is random"),
    ("mini", "resources: {coco: {runtime: 5}}", "resources.coco", "no such job"),
    ("mini", "resources: {dataset: {runtime: 5}, linear: {runtime: 6}}", None, ""),
    ("mini", "datasets: {ade20k: {root: mine}}", "datasets.ade20k", "no job reads it"),
    (
        "mini",
        "study: {fig1_heterogeneity: null, fig2_affinity: null}\nanalysis: {images: 7}",
        "analysis",
        "neither Figure 1",
    ),
    ("mini", "seeds: [0]\nscales: {mini: {seeds: [1]}}", "seeds", "scales.mini.seeds has the last word"),
    ("mini", "seeds: [0]\nscales: {demo: {seeds: [1]}}", None, ""),
    (
        "paper",
        "baselines: {simmim: {finetune: {drop_path: 0.3}, backbones: {vitb: {finetune: {drop_path: 0.2}}}}}",
        *("baselines.simmim.finetune.drop_path", "own values have the last word (vitb)"),
    ),
]


@pytest.mark.parametrize(("scale", "text", "key", "why"), CASES, ids=[case[1][:60] for case in CASES])
def test_what_is_named(tmp_path: Path, scale: str, text: str, key: str | None, why: str) -> None:
    file = tmp_path / "config.yaml"
    lines = told(file, scale, text)
    if key is None:
        assert lines == []
        return
    (line,) = lines
    number = next(n for n, part in enumerate(text.splitlines(), 1) if key.split(".")[0] in part)
    assert line.startswith(f"{file}:{number}: {key}")
    assert why in line


def test_the_command_lines_last_word_is_no_fault(tmp_path: Path) -> None:
    assert told(tmp_path / "config.yaml", "mini", "seeds: [0]", seeds=[1]) == []
    (line,) = told(tmp_path / "config.yaml", "mini", "", resources={"coco": {"runtime": 5}})
    assert line.startswith("--config: resources.coco has no effect at scale mini")


def test_a_study_that_ends_early_is_told_though_nobody_wrote_its_epochs(tmp_path: Path) -> None:
    kept = "table2_linear"
    tables = {name for name in load({}).model_dump()["study"] if name.startswith(("table", "fig"))} - {kept}
    study = {**dict.fromkeys(tables), kept: {"epochs": [4, 8]}}
    (line,) = told(tmp_path / "config.yaml", "mini", yaml.safe_dump({"study": study}))
    assert "no job goes past epoch 8 of 16" in line


@pytest.mark.parametrize(
    "study", [{"pretrain_epochs": 32}, {"pretrain_epochs": 32, "measured_epochs": [2, 4, 8, 16, 32]}]
)
def test_a_longer_schedule_is_followed_to_its_end(tmp_path: Path, study: dict) -> None:
    """By every method that a table asks for: 0 jobs went past epoch 16 once, without a word."""
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({"scale": "mini", "study": study}))
    planned = Study(load(read(file)))
    ends = {
        run: max(step.epoch for step in planned.segments() if step.run == run)
        for run in {s.run for s in planned.segments()}
    }
    whole = {step.run for step in planned.steps("fig4_epochs")}
    assert whole
    assert {ends[run] for run in whole} == {32}
    assert {planned.job(step).epochs for step in planned.segments()} == {32}
