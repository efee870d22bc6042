"""config.yaml: good at every scale and recipe; every mistake is one line with the key and what is allowed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from mto import MaskedTokenOptimization
from mto.__main__ import parse
from mto.config import Config, load
from mto.config.layers import DATA, RECIPES, SCALES
from mto.config.reading import read
from mto.errors import UserError
from mto.losses.balance import Balance
from mto.study.cli import SCHEMA, differences, main, schema
from mto.tasks.task import Task

FILE = Path(__file__).parents[2] / "config.yaml"
RAW = yaml.safe_load(FILE.read_text())
TEXT = load({}).mto.presets["text"].model_dump()


def changed(key: str, value: Any) -> dict[str, Any]:
    """The file's mapping with one key set, given by its path."""
    whole = json.loads(json.dumps(RAW))
    *parents, last = key.split(".")
    node = whole
    for parent in parents:
        node = node.setdefault(parent, {})
    node[last] = value
    return whole


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("recipe", RECIPES)
def test_good_at_every_scale_and_recipe(scale: str, recipe: str) -> None:
    config = load(FILE, scale=scale, recipe=recipe)
    assert (config.scale, config.recipe) == (scale, recipe)


def test_the_file_and_its_mapping_are_the_same() -> None:
    assert load(FILE) == load(RAW)


# ------------------------------------------------------------------------------------------- what the file says (paper)
@pytest.mark.parametrize(
    ("baseline", "stage", "peak"),
    [
        ("simmim", "pretrain", 1e-4 * 2048 / 512),  # Table 3
        ("simmim", "finetune", 5e-3),
        ("mae", "pretrain", 1.5e-4 * 4096 / 256),  # Table 4
        ("mae", "finetune", 1e-3 * 1024 / 256),
        ("mae", "linear", 0.1 * 16384 / 256),  # MAE, Table 10
        ("bootmae", "pretrain", 1.5e-4 * 4096 / 256),  # Table 5
        ("bootmae", "finetune", 5e-3),
        ("conmim", "pretrain", 5e-4),  # Table 6; absolute
    ],
)
def test_peak_learning_rates(baseline: str, stage: str, peak: float) -> None:
    recipe = load(FILE, scale="paper").of(baseline, "vitb")
    given = getattr(recipe, stage)
    assert given.lr.peak(given.batch_size) == pytest.approx(peak, rel=1e-12)


def test_a_backbone_overrides_its_baseline() -> None:
    config = load(FILE, scale="paper")
    assert (config.of("mae", "vitb").finetune.epochs, config.of("mae", "vitl").finetune.epochs) == (100, 50)
    assert config.of("mae", "vitl").finetune.lr == config.of("mae", "vitb").finetune.lr


def test_the_official_recipe_differs_where_its_sources_do() -> None:
    rows = {key: (paper, official) for key, paper, official in differences()}
    assert rows["simmim-vitb.finetune.layer_decay"] == (0.9, 0.65)
    assert rows["simmim-vitb.pretrain.schedule.kind"] == ("cosine", "multistep")
    assert rows["mae-vitb.finetune.lr.base"] == (1e-3, 5e-4)
    assert rows["bootmae-vitb.finetune.batch_size"] == (1024, 2048)
    assert not [key for key in rows if key.startswith(("mae-vitl", "conmim"))]  # there the tables are the repositories'


@pytest.mark.parametrize("scale", ["demo", "mini"])
def test_a_small_scale_keeps_its_lengths_and_rates_under_the_official_recipe(scale: str) -> None:
    """Else BootMAE would train 8 of 801 epochs, all at its peak rate, and be judged by the weights it began with."""
    paper, official = (load(FILE, scale=scale, recipe=recipe) for recipe in ("paper", "official"))
    for name, baseline in official.baselines:
        assert baseline.pretrain.schedule.total_epochs is None
        assert official.of(name, "vitb").finetune == paper.of(name, "vitb").finetune


def test_what_a_scale_says_of_a_method_holds_for_every_backbone() -> None:
    """The paper's ViT-L fine-tunes for 50 epochs, the official one with rates of its own: no small scale meant that."""
    for scale, recipe in (("mini", "paper"), ("mini", "official"), ("demo", "official")):
        config = load(FILE, scale=scale, recipe=recipe)
        small, large = (config.of("mae", backbone) for backbone in ("vitb", "vitl"))
        assert large.finetune.lr == small.finetune.lr
        assert large.finetune.layer_decay == small.finetune.layer_decay
        assert large.finetune.epochs == small.finetune.epochs
    assert load(FILE, scale="paper").of("mae", "vitl").finetune.epochs == 50
    assert load(FILE, scale="paper", recipe="official").of("mae", "vitl").finetune.lr.base == 1e-3


@pytest.mark.parametrize(
    ("name", "least"), [("simmim", 25), ("mae", 28), ("bootmae", 28), ("conmim", 33), ("shared", 47)]
)
def test_every_value_of_a_recipe_names_its_source(name: str, least: int) -> None:
    """In a comment on its own line, on a comment line below it (`# key: ...`), or on a line of the blocks around it."""
    source = re.compile("Table [3-6]|SimMIM|MAE|ConMIM|BEiT|MIMDet|ours|not used")
    lines = (DATA / f"recipes/{name}.yaml").read_text().splitlines()
    sourced: list[int] = []  # indents of the enclosing lines that name one
    values = 0
    for number, line in enumerate(lines):
        code, _, comment = line.partition("#")
        key = re.match(r"( *)(\w+):(.*)", code)
        if key is None or key[2] == "official":
            continue
        below = [other for other in lines[number + 1 : number + 3] if other.strip().startswith(f"# {key[2]}: ")]
        sourced = [indent for indent in sourced if indent < len(key[1])]
        if source.search(comment + "".join(below)):
            sourced.append(len(key[1]))
        if key[3].strip() not in ("", "{}", "{vitb: {}}"):
            values += 1
            assert sourced, line
    assert values >= least


def test_presets_are_the_python_class_built_by_its_own_names() -> None:
    """The config's default preset is the class's defaults; the two others are its classmethods."""
    mto = load(RAW, scale="paper").mto
    built = {mto.default: MaskedTokenOptimization(), "text": MaskedTokenOptimization.text()}
    for name, module in (built | {"as_printed": MaskedTokenOptimization.as_printed()}).items():
        assert mto.presets[name].model_dump() | {"terms": ["spa", "e", "r"]} == module.settings
    for preset in mto.presets.values():
        assert preset.model_dump().items() <= MaskedTokenOptimization(**preset.model_dump()).settings.items()


def test_only_a_preset_of_shares_has_a_balance() -> None:
    """The key is in no job of another: a finished one would be trained again."""
    presets = load(RAW, scale="paper").mto.presets
    assert [name for name, preset in presets.items() if "balance" in preset.model_dump()] == ["balanced"]
    module = MaskedTokenOptimization(**presets["balanced"].model_dump())
    assert module.settings["balance"] == presets["balanced"].model_dump()["balance"]
    assert module.balance is not None
    defaults = vars(Balance(("spa",)))
    assert all(defaults[name] == value for name, value in module.settings["balance"].items())


def test_how_a_run_is_watched_is_the_same_without_a_config() -> None:
    """What `python -m mto pretrain` does by itself, and a `Task` in Python."""
    mto, alone = load(RAW, scale="paper").mto, parse(["pretrain", "--job", "{}", "--out", "out"])
    assert (mto.guard, mto.gradient_interval) == (alone.guard, alone.gradients) == (Task.guard, Task.gradient_interval)


def test_as_printed_is_the_text_but_for_two_switches() -> None:
    presets = load(RAW, scale="paper").mto.presets
    text, printed = presets["text"].model_dump(), presets["as_printed"].model_dump()
    differing = {key for key in text if text[key] != printed[key]}
    assert differing == {"rank_direction", "sparsity_reduction"}  # the layers are summed either way
    assert printed["rank_direction"] == "as_printed"


def test_no_shipped_preset_takes_an_edit_of_another() -> None:
    """Else an edit of one preset would alter another, and so queue its runs again."""
    before, edited = load({}).mto.presets, load({"mto": {"presets": {"text": {"eps": 0.5}}}}).mto.presets
    assert [name for name in before if before[name] != edited[name]] == ["text"]


# ------------------------------------------------------------------------------------------------------------ mistakes
@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("sedes", [0], ["sedes: unknown key", "did you mean 'seeds'?", "precision"]),
        ("baselines.mae.finetune.layer_decai", 0.5, ["baselines.mae.finetune.layer_decai", "'layer_decay'"]),
        ("baselines.mae.finetune.lr.base", "fast", ["baselines.mae.finetune.lr.base", "number", "'fast'"]),
        (
            "baselines.mae.backbones.vitl.finetune.epoks",
            3,
            ["baselines.mae.backbones.vitl.finetune.epoks: unknown key", "those of baselines.mae"],
        ),
        (
            "baselines.mae.ade20k.out_indices",
            [3, 5, 7, 12],
            ["baselines.mae.ade20k.out_indices [3, 5, 7, 12]", "blocks 0 to 11", "backbones.vitb.depth"],
        ),
        ("baselines.mae.method.decoder_num_heads", 7, ["baselines.mae.method", "512", "decoder_num_heads 7"]),
        ("precision", "fp8", ["precision", "'fp32', 'bf16' or 'fp16'", "'fp8'"]),
        ("seeds", [], ["seeds", "at least 1"]),
        ("seeds", [0, 0], ["must not repeat"]),
        ("patch_size", 0, ["patch_size", "greater than or equal to 1"]),
        ("img_size", 225, ["img_size 225", "multiple of patch_size 16"]),
        ("backbones.vitb.num_heads", 7, ["backbones.vitb", "num_heads 7"]),
        ("study.table1_rauc.windows", [[100, 500]], ["study.table1_rauc", "[100, 500]", "500", "epochs lacks"]),
        ("study.table1_rauc.windows", [[400, 100]], ["study.table1_rauc.windows.0", "must rise"]),
        ("study.table2_linear.epochs", [400, 500], ["table2_linear", "500", "[100, 200, 300, 400, 800]"]),
        ("study.table2_linear.baseline_epoch", 50, ["table2_linear", "50", "[100, 200, 300, 400, 800]"]),
        ("study.measured_epochs", [100, 800, 400], ["measured_epochs: must rise", "[100, 800, 400]"]),
        ("study.measured_epochs", [], ["study.measured_epochs", "at least 1 of them"]),
        ("study.table2_linear.epochs", [800], ["study.table2_linear.epochs", "at least 2"]),
        ("study.fig4_epochs.baselines", [], ["study.fig4_epochs.baselines", "at least 1"]),
        ("study.table3_objectives.subsets", [[]], ["study.table3_objectives.subsets.0", "at least 1"]),
        ("baselines.mae.pretrain.augment.crop_scale", [1.0, 0.2], ["crop_scale", "must not be above", "[1.0, 0.2]"]),
        (
            "baselines.mae.finetune.schedule.warmup_epochs",
            100,
            ["baselines.mae.finetune.schedule", "100.0 of only 100"],
        ),
        ("baselines.simmim.pretrain.schedule.kind", "multistep", ["pretrain.schedule", "needs milestones"]),
        ("baselines.conmim.pretrain.augment.teacher", None, ["baselines.conmim", "augment.teacher is required"]),
        ("baselines.bootmae.method.decoder_embed_dim", 30, ["bootmae.method.decoder_embed_dim", "multiple of 4"]),
        ("baselines.mae.ade20k.slide_stride", 600, ["slide_stride 600", "crop_size 512"]),
        ("baselines.mae.ade20k.out_indices", [3, 3, 7, 11], ["out_indices", "must rise"]),
        ("mto.presets.text.sparsity_layers", [9], ["mto.presets.text.sparsity_layers [9]: mae has layers 0 to 8"]),
        ("mto.presets.text.temperatur", 1.0, ["mto.presets.text.temperatur: unknown key", "mean 'temperature'"]),
        ("mto.presets.Text", TEXT, ["mto: presets.Text", "a-z, 0-9 and _"]),
        ("mto.presets.mine", {k: v for k, v in TEXT.items() if k != "eps"}, ["mto.presets.mine: lacks eps; add base"]),
        ("mto.presets.mine", {"base": "best"}, ["mto.presets.mine.base: 'best' is no preset", "text, as_printed"]),
        ("mto.presets.mine", {"base": "mine"}, ["mto.presets.mine.base: 'mine' is no preset to take from"]),
        ("mto.default", "best", ["no such preset: 'best'", "text, as_printed"]),
        ("mto.preset", "as_printed", ["mto.preset: unknown key; did you mean 'presets'?", "default"]),
        ("mto.r_weight", 0.5, ["r_weight", "belongs to a preset", "mto.presets.text.r_weight"]),
        ("scales.demo.recipe", "official", ["scales.demo", "without scale and recipe"]),
        ("seeds", 3, ["seeds: must be a list, such as [3], not 3"]),
        ("seeds", [], ["seeds: needs at least 1 of them"]),
        ("study.table1_rauc.baselines", ["mae"], ["'simmim-vitb', 'mae-vitb'", "not 'mae'"]),
        ("study.fig2_affinity.models", {"simmim-vitb": []}, ["models.simmim-vitb: needs at least 1 of them"]),
        ("each_baseline", [], ["each_baseline: must be a mapping"]),
        ("each_baseline.finetune.lrr", 1, ["each_baseline.finetune.lrr: unknown key; did you mean 'lr'?"]),
        ("official.mae.finetune.layer_decay", 0.5, ["official: write it below baselines", "with both recipes"]),
        ("study.pretrain_epochs", 1601, ["study.pretrain_epochs 1601", "200.125 of 1601 is no whole epoch"]),
        ("study.measured_epochs", [100, 200, 300, 400], ["must end at pretrain_epochs (800)", "not 400"]),
        ("study.table2_linear.baselines", ["mae-vitx"], ["study.table2_linear.baselines.0", "'mae-vitx'"]),
        ("study.table3_objectives.subsets", [["x"]], ["study.table3_objectives.subsets.0.0", "'spa', 'e' or 'r'"]),
        ("resources.pretrain.micro_batch", 60, ["2048", "gpu 8 × micro_batch 60", "1920 or 2400"]),
        ("baselines.mae.pretrain.batch_size", 1000, ["baselines.mae.pretrain.batch_size 1000", "512 or 1024"]),
        ("datasets.imagenet.root", 3, ["datasets.imagenet.root", "string"]),
        ("datasets.imagenet.classes", ["a", "b"], ["datasets.imagenet", "num_classes 1000 must be 2", "classes names"]),
        ("datasets.imagenet.classes", ["a", "b", "a"], ["datasets.imagenet.classes: a is there twice"]),
        ("datasets.imagenet.classes", ["a", "val/b"], ["datasets.imagenet.classes: 'val/b' is no folder's name"]),
        ("datasets.imagenet.classes", "no.txt", ["imagenet.classes: no.txt: No such file", "a file with one a line"]),
        ("datasets.imagenet.classes", 100, ["datasets.imagenet.classes: must be a list", "not 100"]),
        ("datasets.ade20k.classes", ["a", "b"], ["datasets.ade20k.classes: unknown key"]),
        ("scales.demo.datasets.imagenet.classes", ["a", "b"], ["classes: must be null where the dataset is made"]),
        ("recipe", "mine", ["recipe", "'mine'", "paper, official"]),
    ],
)
def test_one_mistake_is_one_line(key: str, value: Any, expected: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        load(changed(key, value), scale="paper")
    (line,) = str(caught.value).splitlines()
    assert line.startswith("config.yaml: ")
    for part in expected:
        assert part in line


def test_a_choice_between_types_is_named_by_its_key() -> None:
    with pytest.raises(UserError) as caught:
        load(changed("mto.presets.text.sparsity_layers", "first"), scale="paper")
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[1] for line in lines] == ["mto.presets.text.sparsity_layers"] * 2  # a list, or 'all'
    assert "'all'" in lines[1]


def test_every_mistake_is_told_at_once() -> None:
    whole = changed("precision", "fp8")
    whole["sedes"] = [0]
    with pytest.raises(UserError) as caught:
        load(whole, scale="paper")
    assert len(str(caught.value).splitlines()) == 2


def test_a_scale_that_does_not_exist() -> None:
    with pytest.raises(UserError, match=r"scale.*'huge'.*demo, mini, paper"):
        load(RAW, scale="huge")


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.yaml: no such file"):
        load(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("seeds: [0\nscale: demo")
    with pytest.raises(UserError, match=r"bad\.yaml:2: not YAML") as caught:
        load(tmp_path / "bad.yaml")
    assert "\n" not in str(caught.value)


def test_the_config_cannot_be_changed_by_accident() -> None:
    config = load(RAW)
    assert isinstance(config, Config)
    with pytest.raises(ValueError, match="frozen"):
        config.precision = "bf16"  # type: ignore[misc]


# ---------------------------------------------------------------------------------------------------- the JSON schema
def test_the_committed_schema_is_up_to_date() -> None:
    assert json.loads(SCHEMA.read_text()) == schema(), "make schema"


def test_the_file_names_its_schema_for_editors() -> None:
    first = FILE.read_text().splitlines()[0]
    assert first == f"# yaml-language-server: $schema={SCHEMA.relative_to(FILE.parent)}"


def test_the_schema_takes_the_file_and_no_misspelt_key() -> None:
    checker = jsonschema.Draft202012Validator(schema())
    assert not list(checker.iter_errors(RAW))
    for file in (*DATA.glob("*.yaml"), *DATA.glob("scales/*.yaml"), DATA / "recipes/shared.yaml"):
        assert not list(checker.iter_errors(yaml.safe_load(file.read_text()) or {})), file
    for key in ("sedes", "scales.demo.sedes", "each_baseline.finetune.lrr", "scales.demo.each_baseline.finetune.lrr"):
        assert list(checker.iter_errors(changed(key, 1))), key


def test_check_and_diff_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    main(["check", "--file", str(FILE)])
    assert "good" in capsys.readouterr().err
    main(["diff"])
    assert "| simmim-vitb.finetune.layer_decay | 0.9 | 0.65 |" in capsys.readouterr().out


def test_the_command_line_gives_words_that_are_read_as_the_file_s() -> None:
    """Snakemake hands over `--config seeds=[0,1] study={pretrain_epochs: 800}` with words for numbers."""
    given = {"scale": "paper", "seeds": ["0", "1"], "mto": {"presets": {"text": {"eps": "1e-3"}}}}
    config = load(read(FILE, given))
    assert (config.scale, config.seeds, config.mto.presets["text"].eps) == ("paper", [0, 1], 1e-3)
    with pytest.raises(UserError, match=r"--config: seeds\.0: .*not 'one'"):
        load(read(FILE, {"seeds": ["one"]}))
