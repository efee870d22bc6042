"""Official checkpoints as runs of the study."""

import argparse
import json
import pickle

import pytest
import torch
from safetensors.torch import load_file

from mto.config import load
from mto.errors import UserError
from mto.study import Step, Study
from mto.tasks.pretrain import build_method
from mto.tasks.released import import_checkpoint


@pytest.fixture
def job():
    return Study(load("config.yaml", scale="demo")).job(Step("pretrain", "mae-vitb", 0, 8))


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
    method = build_method(job | {"seed": 7})
    file = official_file(tmp_path / "mae_full.pth", method)
    import_checkpoint(file, job, tmp_path / "run")
    encoder = load_file(tmp_path / "run/encoder.safetensors")
    for name, value in method.encoder_state(None).items():
        assert torch.equal(encoder[name], value), name
    state = torch.load(tmp_path / "run/state.pth", weights_only=True)["state_dict"]
    assert torch.equal(state["method.mask_token"], method.mask_token)
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert (metrics["run"], metrics["epoch"], metrics["task"]) == ("mae-vitb", 8, "pretrain")
    with pytest.raises(UserError, match="this run exists"):
        import_checkpoint(file, job, tmp_path / "run")


def test_what_is_no_such_checkpoint_is_refused(tmp_path, job):
    encoder_only = tmp_path / "encoder.pth"
    torch.save({"model": {"cls_token": torch.zeros(1, 1, 32)}}, encoder_only)
    with pytest.raises(UserError, match=r"encoder.pth: not an official MAE state dict.*decoder"):
        import_checkpoint(encoder_only, job, tmp_path / "run")
    with pytest.raises(UserError, match="no such file"):
        import_checkpoint(tmp_path / "missing.pth", job, tmp_path / "run")
    assert not (tmp_path / "run").exists()


class Harm:
    def __reduce__(self):
        return (open, ("harm", "w"))


def test_code_in_a_checkpoint_is_not_run(tmp_path, job, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "harmful.pth").write_bytes(pickle.dumps({"model": Harm()}))
    with pytest.raises(UserError, match="not a file of weights alone"):
        import_checkpoint(tmp_path / "harmful.pth", job, tmp_path / "run")
    assert not (tmp_path / "harm").exists()
