"""What config.yaml must not say: each row is refused in one line a mistake, with the file, the line and the full path.

A row's number is that of the list of bad inputs that people were found to give.
"""

from __future__ import annotations

import copy
import random
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import mto
from mto.config import load, yaml_file
from mto.config.layers import SCALES, shipped
from mto.config.reading import Source, read, resolve
from mto.errors import UserError
from mto.study.study import Study

FILE = Path(__file__).parents[2] / "config.yaml"
RAW = read(FILE).raw
#: A file that sets everything: the paper scale's values, and below `scales` what the others set otherwise.
WHOLE = {
    **resolve(Source(), scale="paper").merged,
    "scale": "demo",
    "scales": {scale: shipped(f"scales/{scale}").content for scale in SCALES},
}


def changed(key: str, value: Any) -> dict[str, Any]:
    """The file's mapping with one key set, given by its path; aliases become copies."""
    whole = _plain(RAW)
    *parents, last = key.split(".")
    node = whole
    for parent in parents:
        node = node.setdefault(parent, {})
    node[last] = value
    return whole


def _plain(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _plain(value) for key, value in node.items()}
    return [_plain(value) for value in node] if isinstance(node, list) else node


def refusal(source: Any, **choice: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        Study(load(source, **choice))
    return str(caught.value).splitlines()


# ------------------------------------------------------------------------------------------------------------ values
INF, NAN = float("inf"), float("nan")
VALUES = [
    ("3", "baselines.mae.pretrain.schedule.total_epochs", 100, ["total_epochs 100", "ends before epoch 800"]),
    ("3", "baselines.mae.finetune.schedule.total_epochs", 4, ["total_epochs 4", "pretrain's alone", "finetune.epochs"]),
    ("8", "seeds", [2**32], ["seeds.0", "less than 4294967296"]),
    ("9", "evaluation.crop", 192, ["evaluation.crop 192", "img_size, 224"]),
    ("9", "evaluation.resize", 100, ["evaluation.resize 100", "at least evaluation.crop, 224"]),
    ("19", "baselines.mae.pretrain.augment.crop_scale", [0.2, 1.5], ["crop_scale.1", "less than or equal to 1", "1.5"]),
    ("20", "baselines.mae.finetune.augment.rand_augment", "rand-foo", ["rand_augment", "rand-m9-mstd0.5-inc1"]),
    ("20", "baselines.mae.finetune.augment.rand_augment", "rand-mstd0.5", ["rand_augment", "rand-m9-mstd0.5-inc1"]),
    ("21", "baselines.mae.pretrain.no_decay", ["cls_tokne"], ["no_decay.0", "'cls_token'", "'cls_tokne'"]),
    ("24", "baselines.mae.pretrain.lr.base", INF, ["pretrain.lr.base", "finite", "inf"]),
    ("24", "baselines.mae.finetune.weight_decay", NAN, ["finetune.weight_decay", "finite", "nan"]),
    ("24", "baselines.mae.pixels.mean", [0.5, NAN, 0.5], ["pixels.mean.1", "finite"]),
    ("25", "mto.presets.text.spa_weight", 1e30, ["spa_weight", "less than or equal to 1000000"]),
    ("26", "baselines.mae.mask.ratio", 0.9999, ["mask.ratio 0.9999", "leaves 0 of 196 patches visible"]),
    ("26", "baselines.simmim.mask.ratio", 0.99, ["mask.ratio 0.99", "leaves 0 of 196"]),
    ("26", "baselines.mae.mask.sampler", "block", ["mask.sampler block", "use block_random"]),
    ("26", "baselines.bootmae.mask.max_block", 8, ["mask.min_block 16", "max_block, 8"]),
    ("26", "baselines.bootmae.mask.block_patches", 190, ["mask.block_patches 190", "more than ratio 0.75", "147"]),
    ("27", "study.fig2_affinity.models", {"mae-vitb-mto-depth0": [800]}, ["mae-vitb-mto-depth0"]),
    ("27", "study.fig2_affinity.models", {"simmim-vitb-mto-depth2": [800]}, ["simmim has no decoder"]),
    ("27", "study.fig2_affinity.models", {"mae-vitb-mto-depth8": [800]}, ["8 is mae's own depth", "mae-vitb-mto"]),
    ("27", "baselines.mae.pretrain.schedule.warmup_epochs", 900, ["pretrain.schedule", "900.0 of only 800 epochs"]),
    ("27", "baselines.mae.ade20k.schedule.warmup_iterations", 10**6, ["1000000 of only 160000 iterations"]),
    ("27", "baselines.mae.coco.schedule.warmup_iterations", 50000, ["50000 of only 46200 iterations"]),
    ("28", "baselines.mae.pretrain.schedule.milestones", [7, 3], ["milestones", "must rise", "[7.0, 3.0]"]),
    ("28", "seeds", [True], ["seeds.0", "valid integer", "True"]),
    ("28", "seeds", ["1"], ["seeds.0", "valid integer", "'1'"]),
    ("28", "baselines.mae.pretrain.batch_size", "1:08:16", ["pretrain.batch_size", "valid integer", "'1:08:16'"]),
    ("28", "baselines.mae.pixels.mean", [123.7, 0.5, 0.5], ["pixels.mean.0", "less than or equal to 1", "123.7"]),
    ("28", "baselines.mae.finetune.schedule.min_lr", 1.0, ["schedule.min_lr 1.0", "above the peak rate, 0.004"]),
    ("29", "scale", ["demo"], ["scale: no such scale: ['demo']", "demo, mini, paper, small"]),
    ("29", "scales", ["demo"], ["scales: must be a mapping"]),
    ("29", "official", ["mae"], ["official: write it below baselines"]),
    ("29", "scales.demo.each_baseline", ["mae"], ["scales.demo.each_baseline: must be a mapping"]),
    ("31", "scales.demo.sedes", [0], ["scales.demo.sedes: unknown key", "'seeds'"]),
    ("31", "scales.demo.baselines.mae.mask.ratoi", 1, ["scales.demo.baselines.mae.mask.ratoi: unknown key", "'ratio'"]),
    ("31", "scales.demo.each_baseline.finetune.lrr", 1, ["scales.demo.each_baseline.finetune.lrr: unknown"]),
    ("31", "each_baseline.finetune.lrr", 1, ["each_baseline.finetune.lrr: unknown key", "'lr'"]),
    ("31", "scales.demo.img_size", 26, ["scales.demo.img_size 26", "patch_size 4"]),
    ("31", "datasets.imagenet.cache", {"side": 200}, ["datasets.imagenet.cache.side 200", "at least img_size, 224"]),
    ("31", "scales.demo.baselines", ["mae"], ["scales.demo.baselines", "mapping"]),
    ("31", "datasets.imagenet.cache", 256, ["datasets.imagenet.cache"]),
    ("-", "datasets.imagenet.decode", "gpu", ["datasets.imagenet.decode", "'workers' or 'device'"]),
    ("-", "datasets.imagenet.verify", "slow", ["datasets.imagenet.verify", "'fast' or 'full'"]),
    ("-", "datasets.imagenet.bad_files", "ignore", ["datasets.imagenet.bad_files", "'stop' or 'skip'"]),
]


@pytest.mark.parametrize(("row", "key", "value", "expected"), VALUES, ids=[f"{r[0]}-{r[1]}-{r[2]}" for r in VALUES])
def test_a_value_that_cannot_be(row: str, key: str, value: Any, expected: list[str]) -> None:
    source = changed(key, value)
    lines = refusal(source, **({} if key == "scale" else {"scale": "paper"}))
    (line,) = lines
    assert "config.yaml" in line or "no such run" in line
    for part in expected:
        assert part in line


def test_a_cache_is_not_decoded() -> None:
    source = changed("datasets.imagenet.decode", "device")
    source["datasets"]["imagenet"]["cache"] = {"side": 256}
    (line,) = refusal(source, scale="paper")
    assert "datasets.imagenet" in line
    assert "decode: device wants files, and cache holds pixels: set decode: workers, or cache: null" in line
    (line,) = refusal(changed("scales.demo.datasets.imagenet.decode", "device"), scale="demo")  # which has a cache
    assert "set decode: workers, or cache: null" in line


def test_batch_norms_of_one_image() -> None:
    """UPerNet pools to one pixel, where a batch norm of one image has nothing to compare."""
    resources = {"gpu": 1, "cpus_per_task": 1, "mem_mb": 1, "runtime": 1, "workers": 0, "micro_batch": 1}
    (line,) = refusal(changed("resources.ade20k", resources), scale="paper")
    assert "ade20k.batch_size 16: UPerNet's batch norms see one image a pass" in line


def test_passes_of_too_few_images() -> None:
    resources = {"gpu": 8, "cpus_per_task": 1, "mem_mb": 1, "runtime": 1, "workers": 0, "micro_batch": 1}
    lines = refusal(changed("resources.finetune", resources), scale="paper")
    assert any("finetune.batch_size" in line and "mixup takes them in pairs" in line for line in lines)
    lines = refusal(changed("resources.linear", resources), scale="paper")
    assert any("linear.batch_size" in line and "the probe's batch norm needs 2 or more" in line for line in lines)


def test_another_list_of_models_takes_the_place_of_the_first() -> None:
    """Row 32: `models` is what the user lists, though it is written as a mapping."""
    config = load(changed("scales.demo.study.fig2_affinity.models", {"mae-vitb": [8]}), scale="demo")
    assert config.study.fig2_affinity.models == {"mae-vitb": [8]}


@pytest.mark.parametrize("text", ["rand-m9-mstd0.5-inc1", "rand-m7-n3-p0.5", "rand-m9-tweights", "rand-m5-mmax10"])
def test_timms_augmentations_are_taken(text: str) -> None:
    from timm.data.auto_augment import rand_augment_transform

    rand_augment_transform(text, {})  # timm agrees
    load(changed("baselines.mae.finetune.augment.rand_augment", text))


def test_no_decay_may_name_every_parameter_that_decay_would_reach() -> None:
    from mto import methods

    small: dict[str, Any] = {"img_size": 16, "patch_size": 4, "embed_dim": 8, "depth": 1, "num_heads": 2}
    decoder = {"decoder_embed_dim": 8, "decoder_depth": 1, "decoder_num_heads": 2}
    built = [methods.SimMIM(**small), methods.MAE(**small, **decoder), methods.ConMIM(**small)]
    built.append(methods.BootMAE(**small, decoder_embed_dim=8, decoder_depth=1))
    every = [item for method in built for item in method.named_parameters()]
    parameters = {name for name, value in every if value.requires_grad and value.ndim > 1}
    parts = {name.split(".")[-1] for name in parameters} - {"weight"}
    assert parts <= {"cls_token", "mask_token", "pos_embed", "relative_position_bias_table"}
    for part in parts:
        load(changed("baselines.mae.pretrain.no_decay", [part]))


# ------------------------------------------------------------------------------------------- the text, and its lines
def edited(tmp_path: Path, old: str, new: str) -> tuple[Path, int]:
    """The file with one piece of text replaced, and the line of the piece's end."""
    assert old in TEXT
    place = TEXT.index(old)
    file = tmp_path / "config.yaml"
    file.write_text(TEXT.replace(old, new, 1))
    return file, TEXT[:place].count("\n") + new.count("\n") + 1


TEXT = """# what a user may write
scale: paper
recipe: paper
img_size: 224
backbones:
  vitb: {embed_dim: 768, depth: 12, num_heads: 12}
baselines:
  bootmae:
    finetune:
      layer_decay: 0.6
scales:
  demo:
    precision: fp32
    evaluation: {resize: 24, crop: 24}
    baselines:
      simmim:
        mask: {cell_size: 8}
"""

TEXTS = [
    ("22", "\nrecipe: paper", "\nrecipe: paper\nrecipe: official", ["recipe: this key is in line"]),
    ("22", "\nscales:", "\nscales: {paper: {}}\nscales:", ["scales: this key is in line"]),
    ("22", "{embed_dim: 768, ", "{embed_dim: 768, embed_dim: 768, ", ["backbones.vitb.embed_dim: this key is in line"]),
    ("29", "\nimg_size: 224", "\nimg_size: [224", ["not YAML"]),
    ("30", "\nimg_size: 224", "\n\timg_size: 224", ["not YAML", "tab"]),
    ("31", "{resize: 24, crop: 24}", "{resize: 24, crop: 20}", ["scales.demo.evaluation.crop 20"]),
    ("31", "{cell_size: 8}", "{cell_sise: 8}", ["scales.demo.baselines.simmim.mask.cell_sise"]),
    ("31", "    precision: fp32", "    precision: fp8", ["scales.demo.precision", "'bf16'"]),
    ("31", "layer_decay: 0.6", "layer_decay: 6", ["baselines.bootmae.finetune.layer_decay", "less than"]),
]


@pytest.mark.parametrize(("row", "old", "new", "expected"), TEXTS, ids=[f"{t[0]}-{t[2].strip()[:40]}" for t in TEXTS])
def test_a_mistake_names_its_line(tmp_path: Path, row: str, old: str, new: str, expected: list[str]) -> None:
    file, number = edited(tmp_path, old, new)
    line = refusal(file)[0]
    found = int(re.match(rf"{re.escape(str(file))}:(\d+): ", line)[1])  # type: ignore[index]
    # A parser sees that a bracket is open where it meets what cannot be in it.
    assert number <= found <= number + (3 if "not YAML" in line else 0)
    for part in expected:
        assert part in line


def test_a_value_of_ours_that_does_not_go_with_yours_names_both(tmp_path: Path) -> None:
    file, _ = edited(tmp_path, "img_size: 224", "img_size: 192")
    line = refusal(file)[0]
    assert line.startswith(f"{file}: evaluation.crop 224: must be img_size, 192: ")
    assert re.search(r" \(set in src/mto/config/data/study\.yaml:\d+\)$", line)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("scale: paper\nimg_size: 224\nscales: {demo: {evaluation: {crop: 24}}}", None),
        ("scale: paper\nscales: {demo: {evaluation: {crop: 20}}}", "scales.demo.evaluation.crop 20"),
        ("scale: paper\nscales: {mine: {seeds: [a]}}", "scales.mine.seeds.0"),
    ],
)
def test_what_is_set_for_another_scale(tmp_path: Path, text: str, expected: str | None) -> None:
    """A mistake in it is told before that scale is run, but not what another part of the file makes wrong."""
    (tmp_path / "config.yaml").write_text(text)
    if expected is None:
        load(tmp_path / "config.yaml")
    else:
        (line,) = refusal(tmp_path / "config.yaml")
        assert expected in line
        assert "(at scale " in line


@pytest.mark.parametrize("encoding", ["utf-16-le", "latin-1"])
def test_another_encoding_is_one_line(tmp_path: Path, encoding: str) -> None:
    """Row 30."""
    (tmp_path / "config.yaml").write_bytes(f"# é\n{TEXT}".encode(encoding, "replace"))
    (line,) = refusal(tmp_path / "config.yaml")
    assert "not YAML" in line
    assert "save it as UTF-8" in line


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_says_the_encoding(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "config.yaml").write_bytes(f"# é\n{TEXT}".replace("\n", "\r\n").encode(encoding))
    assert load(tmp_path / "config.yaml") == load(yaml.safe_load(TEXT))


def test_numbers_are_what_they_look_like(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("x: [1e-4, 1:08:16, 010, -.inf, 1_000, .5, 2024-13-40, yes, 0x1F, 1.0e+6, 3]")
    values = [1e-4, "1:08:16", "010", -INF, 1000, 0.5, "2024-13-40", True, 31, 1e6, 3]
    assert read(tmp_path / "x.yaml").raw == {"x": values}


def test_the_files_values_are_yamls() -> None:
    assert yaml.safe_load(FILE.read_text()) == RAW
    for path in (Path(mto.__file__).parent / "config/data").rglob("*.yaml"):
        assert (yaml.safe_load(path.read_text()) or {}) == yaml_file.read(path)


def test_what_the_command_line_gives_is_named_so() -> None:
    with pytest.raises(UserError) as caught:
        load(FILE, {"seeds": ["a"]})
    assert str(caught.value) == "--config: seeds.0: Input should be a valid integer, not 'a'"


# --------------------------------------------------------------------------------------------------------- any mistake
WRONG: list[Any] = [None, True, 0, -1, 2.5, NAN, INF, 1e30, 2**40, "", "x"]
WRONG += [[], [1], [[]], [None], [1, "a"], {}, {"a": 1}, {1: 2}, {None: 1}]


def places(node: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [place for key, value in children for place in [(*above, key), *places(value, (*above, key))]]


@pytest.mark.parametrize("seed", range(40))
def test_any_value_anywhere_is_taken_or_refused_in_lines(seed: int) -> None:
    """Never another exception, and each line begins with the file and is short enough to read."""
    draw = random.Random(seed)
    whole = _plain(WHOLE)
    place = draw.choice(places(whole))
    node = whole
    for key in place[:-1]:
        node = node[key]
    if draw.random() < 0.1:
        del node[place[-1]]
    else:
        node[place[-1]] = copy.deepcopy(draw.choice(WRONG))
    try:
        load(whole)
    except UserError as error:
        for line in str(error).splitlines():
            assert line.startswith("config.yaml: ")
            assert len(line) < 1000
