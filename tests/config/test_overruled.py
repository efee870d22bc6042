"""A key of the command line that the chosen scale or recipe sets after it is refused, and the line's remedy works."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from mto.config import yaml_file
from mto.config.models import Config
from mto.config.reading import load, read
from mto.errors import UserError

FILE = Path(__file__).parents[2] / "config.yaml"


def given(**keys: Any) -> Config:
    return load(read(FILE, keys))


def at(config: Config, place: str) -> Any:
    node: Any = config.model_dump()
    for key in place.split("."):
        node = node[key]
    return node


def nested(place: str, value: Any) -> dict[str, Any]:
    for key in reversed(place.split(".")):
        value = {key: value}
    return value


OVERRULED = [
    ({"scale": "mini"}, "seeds", [0], "scales.mini.seeds"),
    ({"scale": "small"}, "plan.gpus", 4, "scales.small.plan.gpus"),
    ({"scale": "demo"}, "pilot.epochs", 2, "scales.demo.pilot.epochs"),
    ({"scale": "mini"}, "baselines.mae.linear.epochs", 3, "scales.mini.each_baseline.linear.epochs"),
    ({"scale": "mini"}, "baselines.mae.backbones.vitl.finetune.epochs", 3, "scales.mini.each_baseline.finetune.epochs"),
    ({"scale": "mini"}, "study.fig1_heterogeneity", None, "scales.mini.study.fig1_heterogeneity"),
    (
        {"scale": "demo"},
        *("study.fig1_heterogeneity.models", {"mae-vitb": [8]}, "scales.demo.study.fig1_heterogeneity.models"),
    ),
    ({"scale": "demo", "recipe": "official"}, "baselines.mae.finetune.lr.per", 64, "scales.demo.each_baseline"),
    (
        {"scale": "paper", "recipe": "official"},
        *("baselines.mae.finetune.layer_decay", 0.7, "official.mae.finetune.layer_decay"),
    ),
]


@pytest.mark.parametrize(("choice", "place", "value", "winner"), OVERRULED)
def test_it_is_refused_and_the_remedy_works(choice: dict[str, Any], place: str, value: Any, winner: str) -> None:
    with pytest.raises(UserError) as caught:
        given(**choice, **nested(place, value))
    told = str(caught.value)
    assert "\n" not in told
    assert told.startswith(f"--config: {place}: {FILE}:")
    assert f": {winner}" in told
    match = re.search(r"give scales='(.*)'$", told)
    assert match
    assert at(given(**choice, scales=yaml.safe_load(match[1])), place) == value


def test_each_key_has_its_line() -> None:
    with pytest.raises(UserError) as caught:
        given(scale="small", plan={"gpus": 4, "card": "h100"}, pilot={"epochs": 24})
    assert [line.split(": ")[1] for line in str(caught.value).splitlines()] == ["plan.gpus", "pilot.epochs"]


def test_what_has_its_effect_is_taken() -> None:
    assert given(scale="paper", seeds=[0, 1]).seeds == [0, 1]
    assert given(scale="small", plan={"card": "h100"}).plan.card == "h100"  # beside the scale's plan.gpus
    assert given(scale="mini", seeds=[0, 1, 2]).seeds == [0, 1, 2]  # as the scale has it
    assert given(scale="mini", scales={"mini": {"seeds": [0]}}).seeds == [0]
    assert given(scale="demo", study={"tableS1_ade20k": None}).study.tableS1_ade20k is None  # null stays null
    assert given(scale="demo", study={"fig3_method": {}}).study.fig3_method is not None
    chosen = given(recipe="official", scale="paper", official={"mae": {"finetune": {"layer_decay": 0.7}}})
    assert chosen.baselines.mae.finetune.layer_decay == 0.7
    with pytest.raises(UserError, match=r"scales\.mini\.seeds"):  # the command line's own scale, over config.yaml's
        given(seeds=[0], scale="mini")


def test_another_file_is_taken_whole() -> None:
    """`--configfile copy.yaml`: its scales set again what its upper part sets, null too, as those of config.yaml do."""
    whole = yaml_file.read(FILE)
    assert given(**whole) == load(read(FILE))
    edited = given(**{**whole, "scale": "mini", "seeds": [7]})
    assert edited == load(read(FILE, {"scale": "mini"}))
