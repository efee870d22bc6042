"""A switch of MTO is declared once: the library's signature, the presets' model and the report's list follow it."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any

import pytest

from mto import MaskedTokenOptimization
from mto.config.models import Preset
from mto.losses import mto
from mto.losses.switches import SWITCHES
from mto.report.page import choices

#: What is no switch: the terms of a run's name, how the weights of a preset are measured, and a check of the library's.
OTHERS = ("terms", "balance", "starts_at", "validate")


def test_the_signature_has_every_switch_with_its_default() -> None:
    parameters = inspect.signature(MaskedTokenOptimization).parameters
    assert {name: parameters[name].default for name in parameters if name not in OTHERS} == {
        name: switch.default for name, switch in SWITCHES.items()
    }


def test_the_presets_and_the_report_have_every_switch() -> None:
    assert [name for name in Preset.model_fields if name not in OTHERS] == list(SWITCHES)
    text = {
        key: value for key, value in MaskedTokenOptimization.text().settings.items() if key != "terms"
    }  # a run's own
    listed = choices.listed({"default": "text", "presets": {"text": text}})
    assert [choice.key for choice in listed] == list(SWITCHES)
    assert all(choice.open and choice.why for choice in listed)


def test_every_value_of_a_choice_is_taken_by_the_library_and_no_other_one() -> None:
    for name, values in mto.CHOICES.items():
        for value in values:
            assert MaskedTokenOptimization(**{name: value}).settings[name] == value
        with pytest.raises(ValueError, match=name):
            MaskedTokenOptimization(**{name: "another"})


def test_the_model_of_presets_refuses_what_the_table_does_not_have() -> None:
    good: dict[str, Any] = {name: switch.default for name, switch in SWITCHES.items()} | {"sparsity_layers": [0]}
    Preset(**good)
    for name, wrong in (("affinity", "another"), ("eps", 0.0), ("r_weight", -1.0), ("detach_encoder", 1)):
        with pytest.raises(ValueError, match=name):
            Preset(**good | {name: wrong})


def test_the_table_needs_no_torch() -> None:
    code = "import sys, mto.losses.switches; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
