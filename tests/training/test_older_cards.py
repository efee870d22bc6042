"""What a job says of a GPU's generation, before it trains; the GPU is a name here."""

from __future__ import annotations

import os

import pytest
import torch

from mto.errors import UserError
from mto.training.hardware import Hardware


@pytest.fixture
def capability(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: request.param)


@pytest.mark.parametrize("capability", [(7, 5)], indirect=True)
@pytest.mark.parametrize("task", ["pretrain", "finetune", "linear"])
def test_bf16_is_refused_where_it_does_not_compile(capability: None, task: str) -> None:
    with pytest.raises(UserError) as refused:
        Hardware(gpus=1).check_precision("bf16", task)
    assert "\n" not in str(refused.value)
    for words in ("compute capability 7.5", "1.38 times the bytes", "set precision: fp16", f"resources.{task}.compile"):
        assert words in str(refused.value)


@pytest.mark.parametrize("capability", [(7, 5)], indirect=True)
@pytest.mark.parametrize(("task", "compiles"), [("pretrain", False), ("ade20k", True), ("coco", True)])
def test_where_nothing_is_compiled_bf16_is_the_user_s_own_choice(
    capability: None, capsys: pytest.CaptureFixture[str], task: str, compiles: bool
) -> None:
    Hardware(gpus=1, compile=compiles).check_precision("bf16", task)
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert "set precision: fp16" in said


@pytest.mark.parametrize(
    ("capability", "precision", "gpus"),
    [((8, 0), "bf16", 1), ((9, 0), "bf16", 1), ((7, 5), "fp16", 1), ((7, 5), "fp32", 1), ((7, 5), "bf16", 0)],
    indirect=["capability"],
)
def test_elsewhere_there_is_nothing_to_say(
    capability: None, capsys: pytest.CaptureFixture[str], precision: str, gpus: int
) -> None:
    Hardware(gpus=gpus).check_precision(precision, "pretrain")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("given", "set_to"), [(None, "1"), ("0", "0")])
def test_a_default_of_triton_s_that_will_change_is_pinned(
    monkeypatch: pytest.MonkeyPatch, given: str | None, set_to: str
) -> None:
    for name in ("TRITON_DEFAULT_FP_FUSION", "CUBLAS_WORKSPACE_CONFIG"):
        monkeypatch.setenv(name, given or "")  # so that it is put back
        if given is None:
            monkeypatch.delenv(name)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda *_, **__: None)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    Hardware(gpus=1).setup()
    assert os.environ["TRITON_DEFAULT_FP_FUSION"] == set_to
