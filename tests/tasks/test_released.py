"""Official checkpoints as runs of the study."""

import argparse
import json
import pickle
import sys
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mto.config import load
from mto.errors import UserError
from mto.names import Step
from mto.study.study import Study
from mto.tasks import pretrain
from mto.tasks.build import build_method
from mto.tasks.heterogeneity import load_model
from mto.tasks.released import import_checkpoint, main, read
from mto.tasks.task import Task
from typed_jobs import typed


@pytest.fixture
def job():
    return Study(load("config.yaml", scale="demo")).job(Step("pretrain", "mae-vitb", 0, 8)).plain()


def official_file(path, method, **extra):
    """The method's own weights under the official keys, beside what MAE's code saves with them."""
    state = {}
    for key, value in method.state_dict().items():
        names = [
            n
            for n in (key, key.removeprefix("encoder."), key.removeprefix("decoder."))
            if method.official_key(n) == key
        ]
        state[names[0]] = value
    torch.save({"model": state, "args": argparse.Namespace(epochs=1600), "epoch": 1599, **extra}, path)
    return path


def test_an_imported_checkpoint_is_a_run(tmp_path, job):
    method = build_method(typed(job).method, 7)
    file = official_file(tmp_path / "mae_full.pth", method)
    import_checkpoint(file, typed(job), tmp_path / "run")
    encoder = load_file(tmp_path / "run/encoder.safetensors")
    for name, value in method.encoder_state(None).items():
        assert torch.equal(encoder[name], value), name
    state = torch.load(tmp_path / "run/state.pth", weights_only=True)["state_dict"]
    assert torch.equal(state["method.mask_token"], method.mask_token)
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert (metrics["run"], metrics["epoch"], metrics["task"]) == ("mae-vitb", 8, "pretrain")
    with pytest.raises(UserError, match="this run exists"):
        import_checkpoint(file, typed(job), tmp_path / "run")


def test_an_encoder_alone_serves_all_but_heterogeneity(tmp_path, job):
    released = build_method(typed(job).method, 7).encoder.state_dict()
    torch.save({"model": released}, tmp_path / "mae_pretrain_vit_base.pth")
    import_checkpoint(tmp_path / "mae_pretrain_vit_base.pth", typed(job), tmp_path / "run")
    encoder = load_file(tmp_path / "run/encoder.safetensors")
    assert encoder.keys() == released.keys()
    assert all(torch.equal(encoder[name], value) for name, value in released.items())
    analysis = Study(load("config.yaml", scale="demo")).job(Step("heterogeneity", "mae-vitb", 0, 8)).plain()
    with pytest.raises(UserError, match=r"mae_pretrain_vit_base.pth, an encoder alone, .* the whole mae"):
        load_model(typed(analysis), tmp_path / "run/state.pth")


def test_what_is_no_such_checkpoint_is_refused(tmp_path, job):
    partial = tmp_path / "partial.pth"
    torch.save({"model": {"cls_token": torch.zeros(1, 1, 32)}}, partial)
    with pytest.raises(UserError, match=r"partial.pth: not an official MAE state dict.*checkpoint of mae-vitb\?"):
        import_checkpoint(partial, typed(job), tmp_path / "run")
    with pytest.raises(UserError, match="no such file"):
        import_checkpoint(tmp_path / "missing.pth", typed(job), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_simmims_settings_are_read_as_data(tmp_path, monkeypatch):
    """Its files hold a yacs.config.CfgNode, a dict with attributes; yacs need not be installed."""
    yacs = types.ModuleType("yacs.config")
    yacs.CfgNode = type("CfgNode", (dict,), {"__module__": "yacs.config"})
    settings = yacs.CfgNode(MODEL=yacs.CfgNode(DEPTH=12))
    settings.__dict__["__deprecated_keys__"] = set()
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
        patch.setitem(sys.modules, "yacs.config", yacs)
        torch.save({"model": {"encoder.cls_token": torch.ones(2)}, "config": settings}, tmp_path / "simmim.pth")
    assert torch.equal(read(tmp_path / "simmim.pth")["encoder.cls_token"], torch.ones(2))


@pytest.mark.parametrize("content", [b"", b"text, no pickle", [torch.ones(2)], {"model": None}, {"model": {"a": 1}}])
def test_a_file_of_anything_else_is_one_line(tmp_path, job, content):
    if isinstance(content, bytes):
        (tmp_path / "file.pth").write_bytes(content)
    else:
        torch.save(content, tmp_path / "file.pth")
    with pytest.raises(UserError, match=r"^\S*file\.pth: (not a checkpoint|no state dict)"):
        import_checkpoint(tmp_path / "file.pth", typed(job), tmp_path / "run")
    with pytest.raises(UserError, match="is a directory"):
        import_checkpoint(tmp_path, typed(job), tmp_path / "run")


def test_an_imported_run_is_not_continued(tmp_path, job):
    import_checkpoint(
        official_file(tmp_path / "full.pth", build_method(typed(job).method, typed(job).seed)),
        typed(job),
        tmp_path / "run",
    )
    inputs = {"state": tmp_path / "run/state.pth"}
    with pytest.raises(UserError, match=r"run: imported, .* no optimiser state"):
        pretrain.run(Task("pretrain", typed(job), inputs, tmp_path / "next"))


@pytest.mark.parametrize("arguments", [["--run", "mae-vitx"], ["--run", "mae-vitb", "--epoch", "3"]])
def test_a_step_that_the_study_lacks_is_named(tmp_path, arguments):
    with pytest.raises(UserError, match=r"the study has no such step; its runs are .*mae-vitb"):
        main([str(tmp_path / "file.pth"), *arguments, "--scale", "demo"])


class Harm:
    def __reduce__(self):
        return (open, ("harm", "w"))


def test_code_in_a_checkpoint_is_not_run(tmp_path, job, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "harmful.pth").write_bytes(pickle.dumps({"model": Harm()}))
    with pytest.raises(UserError, match="not a checkpoint of weights and plain values alone") as caught:
        import_checkpoint(tmp_path / "harmful.pth", typed(job), tmp_path / "run")
    assert "weights_only" not in str(caught.value)  # torch's advice is to switch the protection off
    assert not (tmp_path / "harm").exists()


def half_written(path):
    torch.save({"model": {"a": torch.ones(1000)}}, path)
    path.write_bytes(path.read_bytes()[:-100])


KINDS = {
    "empty": (lambda path: path.touch(), "empty; download it again"),
    "a pointer": (
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 343268717\n"),
        "the pointer of a file that git-lfs keeps",
    ),
    "a web page": (
        lambda path: path.write_text("<!DOCTYPE html><html>404"),
        "not a checkpoint: a web page; download it",
    ),
    "broken off": (half_written, "broken off; download it again"),
    "other objects": (
        lambda path: torch.save({"model": {"a": torch.ones(3)}, "out": Path("x")}, path),
        "nothing of it was run; it holds a pathlib.",
    ),
    "not finite": (
        lambda path: torch.save({"model": {"a": torch.ones(3), "b": torch.full((2,), float("nan"))}}, path),
        "1 of its 2 tensors have values that are no finite numbers, e.g. b",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_thing_that_is_no_checkpoint_is_told_apart(tmp_path, kind):
    make, expected = KINDS[kind]
    make(tmp_path / "x.pth")
    with pytest.raises(UserError) as caught:
        read(tmp_path / "x.pth")
    assert f"{tmp_path}/x.pth: " in str(caught.value)
    assert expected in str(caught.value)
