"""Who comes later has the last word: the package's files, the recipe, the scale, config.yaml, the command line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mto.config import load
from mto.config.layers import RECIPES, SCALES
from mto.config.reading import Source, kept, load_kept, problems, read, resolve
from mto.errors import UserError
from mto.study.cli import main
from mto.study.study import Study

FILE = Path(__file__).parents[2] / "config.yaml"


def at(node: Any, place: tuple[Any, ...]) -> Any:
    for key in place:
        node = node[key]
    return node


def nested(place: tuple[Any, ...] | str, value: Any) -> dict[str, Any]:
    for key in reversed(place.split(".") if isinstance(place, str) else place):
        value = {key: value}
    return value


def leaves(node: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(node, dict) and node and place[-1:] != ("models",):
        return [leaf for key, value in node.items() for leaf in leaves(value, (*place, key))]
    return [place]


WHOLE = {scale: load({}, scale=scale).model_dump() for scale in SCALES}
PLACES = {scale: leaves(WHOLE[scale]) for scale in SCALES}


def another(value: Any) -> st.SearchStrategy[Any]:
    """Draws values of the same kind, whether they can be or not."""
    if isinstance(value, bool):
        return st.just(not value)
    if isinstance(value, int | float):
        return st.sampled_from([value * 2, value / 2 if isinstance(value, float) else value + 1, value])
    if isinstance(value, list):
        return st.sampled_from([value[:1], value * 2, value])
    return st.sampled_from([None, "other", value])


# ------------------------------------------------------------------------------------------------------- the last word
@settings(max_examples=150, deadline=None)
@given(st.data())
def test_whatever_a_user_writes_reaches_the_settings(data: st.DataObject) -> None:
    """Any leaf, at any scale and recipe, in the file or on the command line: taken as it stands, or refused."""
    scale, recipe = data.draw(st.sampled_from(SCALES)), data.draw(st.sampled_from(RECIPES))
    place = data.draw(st.sampled_from(PLACES[scale]))
    if place in (("scale",), ("recipe",)):
        return
    value = data.draw(another(at(WHOLE[scale], place)))
    in_file = data.draw(st.booleans())
    source = Source(nested(place, value)) if in_file else Source(given=nested(place, value))
    if place == ("study", "pretrain_epochs") and value % 8:
        with pytest.raises(UserError, match="no whole epoch"):  # that can be measured
            resolve(source, scale=scale, recipe=recipe)
        return
    resolved = resolve(source, scale=scale, recipe=recipe)
    assert at(resolved.merged, place) == value
    config, wrong = problems(resolved)
    if config is not None:
        assert at(config.model_dump(), place) == value
        if place[0] == "baselines" and place[2] != "backbones":
            for backbone in config.model_dump()["baselines"][place[1]]["backbones"]:
                if not wrong:
                    assert at(config.of(place[1], backbone).model_dump(), place[2:]) == value
    else:
        assert wrong


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_rate_in_the_users_file_reaches_the_job(scale: str, recipe: str) -> None:
    """The fault that users met: the scale lay on top of what they wrote."""
    written = nested("baselines.mae.pretrain.lr", {"base": 0.123, "per": None})
    study = Study(load(written, scale=scale, recipe=recipe))
    (job, *_) = [study.job(step).plain() for step in study.segments() if step.run == "mae-vitb"]
    assert job["optim"]["lr"] == 0.123


def test_the_command_line_is_over_the_file() -> None:
    written = {"seeds": [1], "scales": {"mini": {"seeds": [2]}}, "scale": "mini"}
    assert load({}, scale="mini").seeds == [0, 1, 2]
    assert load({"seeds": [1]}, scale="mini").seeds == [1]
    assert load(written).seeds == [2]  # what is said of one scale, over what is said of all
    assert load(written, scale="demo").seeds == [1]
    assert load(Source(written, given={"seeds": [3]})).seeds == [3]
    assert load(Source(written, given={"seeds": [3], "scales": {"mini": {"seeds": [4]}}})).seeds == [4]


def test_what_is_said_of_a_baseline_holds_for_its_backbones_and_beside_it_they_have_their_own() -> None:
    epochs = nested("baselines.mae.finetune.epochs", 7)
    config = load(epochs, scale="paper")
    assert [config.of("mae", backbone).finetune.epochs for backbone in ("vitb", "vitl")] == [7, 7]
    epochs["baselines"]["mae"]["backbones"] = nested("vitl.finetune.epochs", 9)
    config = load(epochs, scale="paper")
    assert [config.of("mae", backbone).finetune.epochs for backbone in ("vitb", "vitl")] == [7, 9]


def test_each_baseline_is_a_word_for_all_four() -> None:
    config = load({"each_baseline": {"finetune": {"epochs": 3}}, "baselines": nested("mae.finetune.epochs", 4)})
    assert {name: baseline.finetune.epochs for name, baseline in config.baselines} == {
        **dict.fromkeys(["simmim", "bootmae", "conmim"], 3),
        "mae": 4,
    }


def test_a_table_that_is_null_is_out_and_keys_ask_for_it_again() -> None:
    for scale in SCALES:
        assert load(nested("study.fig4_epochs", None), scale=scale).study.fig4_epochs is None
    assert load({}, scale="mini").study.table3_objectives is None
    asked = load(nested("study.table3_objectives.epoch", 8), scale="mini").study.table3_objectives
    assert asked is not None
    assert (asked.epoch, asked.baseline, len(asked.subsets)) == (8, "simmim-vitb", 7)


def test_a_list_takes_the_place_of_the_first() -> None:
    config = load(nested("study.fig2_affinity.models", {"mae-vitb": [8]}), scale="demo")
    assert config.study.fig2_affinity is not None
    assert config.study.fig2_affinity.models == {"mae-vitb": [8]}


# -------------------------------------------------------------------------------------------------------------- epochs
@given(st.sampled_from(SCALES), st.integers(1, 12))
@settings(max_examples=20, deadline=None)
def test_another_length_leaves_every_epoch_its_share(scale: str, times: int) -> None:
    """The whole edit is one number: whatever is measured follows, and the other settings stay."""
    before = load({}, scale=scale)
    length = times * before.study.pretrain_epochs
    after = load({"study": {"pretrain_epochs": length}}, scale=scale)
    assert after.study.asked() == {
        name: [times * epoch for epoch in epochs] for name, epochs in before.study.asked().items()
    }
    assert after.study.measured_epochs == [times * epoch for epoch in before.study.measured_epochs]
    assert after.study.measured_epochs[-1] == length
    assert after.model_dump(exclude={"study"}) == before.model_dump(exclude={"study"})
    plan = Study(after)
    assert max(step.epoch for step in plan.segments()) == length


def test_a_length_may_be_given_twice_and_epochs_of_ones_own_are_taken_as_they_stand() -> None:
    shorter = {"study": {"pretrain_epochs": 10}}  # at which nothing of mini is whole
    assert load(Source(shorter, given={"study": {"pretrain_epochs": 16}}), scale="mini") == load({}, scale="mini")
    own = {"pretrain_epochs": 32, "measured_epochs": [2, 4, 8, 16, 32]}
    study = load({"study": own}, scale="mini").study
    assert study.measured_epochs == [2, 4, 8, 16, 32]
    assert study.fig4_epochs is not None
    assert study.fig4_epochs.epochs == [2, 4, 8, 16, 32]
    assert study.table1_rauc is not None
    assert study.table1_rauc.windows == [[4, 16], [8, 16]]


# ------------------------------------------------------------------------------------------------------------- presets
def test_a_preset_of_three_keys() -> None:
    mine = {"base": "cosine", "spa_weight": 0.5, "e_weight": 0.5}
    presets = load({"mto": {"default": "mine", "presets": {"mine": mine}}}).mto.presets
    assert presets["mine"].model_dump() == presets["cosine"].model_dump() | {"spa_weight": 0.5, "e_weight": 0.5}
    assert list(presets) == [*load({}).mto.presets, "mine"]


def test_a_preset_of_a_preset_of_ones_own() -> None:
    written = {"two": {"base": "one", "eps": 0.5}, "one": {"base": "text", "temperature": 2.0}}
    presets = load({"mto": {"presets": written}}).mto.presets
    assert presets["two"].model_dump() == presets["text"].model_dump() | {"temperature": 2.0, "eps": 0.5}


def test_a_base_starts_over_and_an_edit_does_not() -> None:
    edited, anew = ({"mto": {"presets": {"cosine": keys}}} for keys in ({"eps": 0.5}, {"base": "text", "eps": 0.5}))
    shipped = load({}).mto.presets
    assert load(edited).mto.presets["cosine"].model_dump() == shipped["cosine"].model_dump() | {"eps": 0.5}
    assert load(anew).mto.presets["cosine"].model_dump() == shipped["text"].model_dump() | {"eps": 0.5}


# -------------------------------------------------------------------------------------------------------- the root file
def taken_in() -> dict[str, Any]:
    """The shipped file with every commented line taken in."""
    lines = [re.sub(r"^( *)# ( *)(?=\w+:)", r"\1\2", line) for line in FILE.read_text().splitlines()]
    return yaml.safe_load("\n".join(lines))


def is_an_example(place: tuple[Any, ...]) -> bool:
    """Presets and scales of one's own, and tables that are asked for or left out."""
    table = place[0] == "study" and place[1].startswith(("table", "fig"))
    return table or place[0] == "scales" or place[:2] == ("mto", "presets")


def test_the_files_comments_are_the_values_of_the_paper_scale() -> None:
    whole, known = taken_in(), load({}, scale="paper").model_dump()
    places = [place for place in leaves(whole) if not is_an_example(place) and place != ("scale",)]
    assert len(places) > 50
    for place in places:
        assert at(whole, place) == at(known, place), place


def test_every_comment_of_the_file_can_be_taken_in() -> None:
    whole = taken_in()
    examples = [place for place in leaves(whole) if is_an_example(place)]
    assert len(examples) > 12
    tables = {place[1] for place in examples if place[0] == "study"}
    assert tables == {name for name in WHOLE["paper"]["study"] if name.startswith(("table", "fig"))} - {"fig3_method"}
    Study(load(whole, scale="paper"))


@pytest.mark.parametrize("scale", SCALES)
def test_the_shipped_file_sets_nothing_that_a_scale_sets(scale: str) -> None:
    assert load(FILE, scale=scale) == load({}, scale=scale)
    assert len(FILE.read_text().splitlines()) <= 120


def test_a_file_of_nothing_but_comments_is_the_packages_settings(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("# nothing\n")
    assert load(tmp_path / "config.yaml") == load({})


# ---------------------------------------------------------------------------------------------------------------- show
def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    main(["show", *arguments])
    return capsys.readouterr().out.splitlines()


def test_show_tells_who_set_a_value_and_what_it_overrides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("scale: mini\nbaselines:\n  mae:\n    pretrain:\n      lr: {base: 0.003}\n")
    told = shown(capsys, "baselines.mae.pretrain.lr.base", "--file", str(file), "--config", '{"seeds": [9]}')
    assert told[0] == "baselines.mae.pretrain.lr.base: 0.003"
    assert told[1] == f"    set by {file}:5"
    scale = r"    over 0\.0015, of src/mto/config/data/scales/mini\.yaml:\d+ \(each_baseline\.pretrain\.lr\.base\)"
    recipe = r"    over 0\.00015, of src/mto/config/data/recipes/mae\.yaml:\d+ \(pretrain\.lr\.base\)"
    assert re.fullmatch(scale, told[2])
    assert re.fullmatch(recipe, told[3])
    assert len(told) == 4
    for line in told[2:]:  # what it names is there
        value, path, number = re.search(r"over (\S+), of (\S+):(\d+) ", line).groups()
        written = (FILE.parent / path).read_text().splitlines()[int(number) - 1]
        assert float(re.search(r"base: ([\d.e-]+)", written)[1]) == float(value)
    told = shown(capsys, "seeds", "--file", str(file), "--config", '{"seeds": [9]}')
    assert told[:2] == ["seeds: [9]", "    set by --config"]


def test_show_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    for scale, run, expected in (
        ("mini", "mae-vitl-mto", ["baselines.mae.finetune.epochs: 4 ", "scales/mini.yaml"]),
        ("paper", "mae-vitl-mto", ["baselines.mae.finetune.epochs: 50 ", "recipes/mae.yaml"]),
        ("paper", "mae-vitb-mto@text", ["mto.presets.text.affinity: dot ", "mto.losses.switches"]),
    ):
        told = shown(capsys, "--run", run, "--scale", scale, "--file", str(FILE))
        (line,) = [line for line in told if line.startswith(expected[0])]
        assert expected[1] in line
        assert len(told) > 100


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["baselines.mae.pretrain.lrr"], "baselines.mae.pretrain has no 'lrr'; did you mean 'lr'?"),
        (["--run", "mae-vitx"], "mae-vitx"),
        (["--run", "simmim-vitl"], "baselines.simmim.backbones has: vitb"),
        (["--run", "mae-vitb-mto@none"], "no such preset"),
        ([], "name a key"),
    ],
)
def test_show_what_is_not_there(arguments: list[str], expected: str) -> None:
    with pytest.raises(UserError, match=re.escape(expected)):
        main(["show", *arguments, "--file", str(FILE)])


# ------------------------------------------------------------------------------------------- what a start keeps of them
def test_a_start_keeps_all_that_it_read(tmp_path: Path) -> None:
    """Whatever is edited since: the jobs are the same to the letter, and a list of classes stays what it was."""
    names = tmp_path / "names.txt"
    names.write_text("b\na\n")
    imagenet = {"num_classes": 2, "classes": str(names)}
    (tmp_path / "config.yaml").write_text(json.dumps({"scale": "paper", "datasets": {"imagenet": imagenet}}))
    source = read(tmp_path / "config.yaml", {"seeds": [3]})
    config = load(source)
    (tmp_path / "kept.json").write_text(kept(source, config))
    names.write_text("c\nd\n")
    again, told = load_kept(tmp_path / "kept.json")
    assert again == config
    assert told.given == {"seeds": [3]}
    before, after = Study(config), Study(again)
    for step in (*before.segments(), *before.steps()):
        assert json.dumps(before.job(step).plain()) == json.dumps(after.job(step).plain())


def test_kept_jobs_are_the_same_at_every_scale(tmp_path: Path) -> None:
    for scale in SCALES:
        source = Source({"scale": scale})
        (tmp_path / "kept.json").write_text(kept(source, load(source)))
        before, after = Study(load(source)), Study(load_kept(tmp_path / "kept.json")[0])
        steps = (*before.segments(), *before.steps())
        assert [json.dumps(before.job(step).plain()) for step in steps] == [
            json.dumps(after.job(step).plain()) for step in steps
        ]


def test_the_examples_of_the_documentation_are_whole() -> None:
    """Each block of these pages is a config.yaml that is good, at the scale that it names or at `mini`."""
    pages = [(FILE.parent / f"docs/{name}.md").read_text() for name in ("configuration", "your-own")]
    blocks = [block for page in pages for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
    assert len(blocks) >= 6
    for block in blocks:
        written = yaml.safe_load(block)
        Study(load(written, scale=written.get("scale", "mini")))


def test_a_tool_ends_quietly_when_its_reader_has_left():
    """As in `python -m mto config show … | head -1`: no traceback, and the exit code of a program that got SIGPIPE."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "mto", "config", "show", "--run", "mae-vitb", "--scale", "mini"]
    with os.fdopen(write, "w") as gone:
        ended = subprocess.run(command, stdout=gone, stderr=subprocess.PIPE, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (141, "")
