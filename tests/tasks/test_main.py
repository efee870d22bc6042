"""``python -m mto``: arguments, mistakes, several processes."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from tiny import finetune_job, linear_steps, pretrain_job, run

import mto.__main__ as entry
from mto.__main__ import main
from mto.errors import UserError
from mto.runtime.attempts import REFUSAL
from mto.runtime.lock import Superseded
from mto.tasks.task import read_job
from mto.training.hardware import Hardware


def mto(*arguments: object, **env: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "mto", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1", **env})


#: What enroot's and Kubeflow's launchers leave in the environment of a shell that holds one process.
LEFT_BY_OTHERS = {
    "RANK": "0",
    "WORLD_SIZE": "1",
    "LOCAL_RANK": "0",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29533",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
    "MTO_LAUNCHER": "1",
}


@pytest.mark.parametrize("left", [{}, LEFT_BY_OTHERS, {"RANK": "0"}, LEFT_BY_OTHERS | {"WORLD_SIZE": "2"}])
def test_two_processes_equal_one(images, tmp_path, left):
    """The same global batches, gradients averaged over ranks: equal to rounding. It relaunches itself under torch.

    So they are where another launcher left torch's names in the environment, and whatever these say."""
    job = tmp_path / "job.json"
    job.write_text(json.dumps(linear_steps(pretrain_job(images, "bootmae"))))
    assert main(["pretrain", "--job", str(job), "--out", str(tmp_path / "one")]) == 0
    result = mto("pretrain", "--job", job, "--out", tmp_path / "two", "--processes", 2, "--micro-batch", 3, **left)
    assert result.returncode == 0, result.stderr
    one, two = (load_file(tmp_path / name / "encoder.safetensors") for name in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-5)
    lines = [line for line in result.stdout.splitlines() if line.startswith("epoch")]
    assert len(lines) == 4  # one process speaks


def test_empty_inputs_and_no_micro_batch_are_defaults(images, tmp_path):
    """A rule's shell line is the same for a run's first segment."""
    job = json.dumps(pretrain_job(images, "mae", epoch=1))
    assert main(["pretrain", "--job", job, "--out", str(tmp_path), "--inputs", "state=", "--micro-batch", "0"]) == 0


def test_job_json_runs_again(images, tmp_path):
    job = pretrain_job(images, "mae", epoch=1)
    assert main(["pretrain", "--job", json.dumps(job), "--out", str(tmp_path / "a")]) == 0
    assert main(["pretrain", "--job", str(tmp_path / "a" / "job.json"), "--out", str(tmp_path / "b")]) == 0
    a, b = (load_file(tmp_path / name / "encoder.safetensors") for name in "ab")
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        ({}, ["--inputs", "state=nowhere.pth"], "--inputs state=nowhere.pth: no such file"),
        ({}, ["--inputs", "state"], "--inputs state: expected NAME=PATH"),
        ({}, ["--micro-batch", "5"], "a batch of 12 cannot be made"),
        ({"task": "finetune"}, [], "--job: a job of the task 'finetune', not 'pretrain'"),
        ({"precision": "fp16"}, [], "precision fp16 needs a GPU"),
    ],
)
def test_mistakes_are_one_line(images, tmp_path, capsys, change, arguments, message):
    job = pretrain_job(images, "mae") | change
    code = main(["pretrain", "--job", json.dumps(job), "--out", str(tmp_path), *arguments])
    error = capsys.readouterr().err
    assert code == 2
    assert error.startswith(f"mto: error: {message}")
    assert error.count("\n") == 1


def test_gpus_that_are_not_there(images, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    job = json.dumps(pretrain_job(images, "mae"))
    assert main(["pretrain", "--job", job, "--out", str(tmp_path), "--gpus", "1"]) == 2
    assert "--gpus 1: 0 CUDA device(s) visible" in capsys.readouterr().err


def test_a_driver_that_is_too_old_is_one_line(monkeypatch):
    """Devices are counted without CUDA, and so are there."""

    def refuse(device):
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 12040).\nPlease update")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", refuse)
    with pytest.raises(UserError, match=r"--gpus 1: CUDA does not start on .*; this torch needs a driver for CUDA "):
        Hardware(gpus=1).setup()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(RuntimeError, match="too old"):  # of another fault, which may pass
        Hardware(gpus=1).setup()


@pytest.mark.parametrize(
    ("deterministic", "asked", "benchmark"),
    [("strict", (True, False), False), ("warn", (True, True), False), ("off", (False, False), True)],
)
def test_what_is_asked_of_the_kernels(monkeypatch, deterministic, asked, benchmark):
    """Attention's deterministic backward kernels are torch's own choice, in strict mode alone."""
    seen = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", not benchmark)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")  # a user's own stays
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda on, *, warn_only: seen.append((on, warn_only)))
    Hardware(gpus=1, deterministic=deterministic).setup()
    assert seen == [asked]
    assert torch.backends.cudnn.benchmark is benchmark
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_an_operator_without_a_deterministic_form_is_one_line(images, tmp_path, capsys, monkeypatch):
    words = "cumsum_cuda_kernel does not have a deterministic implementation, but you set 'torch.use_deterministic_..."

    def fail(task):
        raise RuntimeError(words)

    monkeypatch.setattr("mto.tasks.pretrain.run", fail)
    assert main(["pretrain", "--job", json.dumps(pretrain_job(images, "mae")), "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        "mto: error: cumsum_cuda_kernel has no deterministic form on this device; set "
        "resources.pretrain.deterministic: warn in config.yaml, or --deterministic warn here\n"
    )


def test_a_gpu_that_is_too_small_is_one_line(images, tmp_path, capsys, monkeypatch):
    def fail(task):
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of ..."
        )

    monkeypatch.setattr("mto.tasks.pretrain.run", fail)
    job = json.dumps(pretrain_job(images, "mae"))
    assert main(["pretrain", "--job", job, "--out", str(tmp_path), "--micro-batch", "4"]) == 2
    assert capsys.readouterr().err == (
        "mto: error: CUDA out of memory; set resources.pretrain.memory: lean or least (now fast), or a smaller "
        "resources.pretrain.micro_batch (now 4), in config.yaml: the job goes on from its last state\n"
    )


def test_mixing_takes_pairs(images, pretrained, tmp_path, capsys):
    job = json.dumps(finetune_job(images, "mae") | {"optim": {**finetune_job(images, "mae")["optim"], "batch_size": 3}})
    inputs = f"encoder={pretrained('mae') / 'encoder.safetensors'}"
    assert main(["finetune", "--job", job, "--out", str(tmp_path), "--inputs", inputs]) == 2
    assert "mixup takes images in pairs, and a micro-batch has 3" in capsys.readouterr().err


@pytest.mark.parametrize("baseline", ["simmim", "bootmae"])
def test_strict_mode_trains_and_changes_nothing_on_the_cpu(images, pretrained, tmp_path, baseline):
    torch.use_deterministic_algorithms(True)
    try:
        out = run(pretrain_job(images, baseline), tmp_path)
    finally:
        torch.use_deterministic_algorithms(False)
    a, b = (load_file(folder / "encoder.safetensors") for folder in (out, pretrained(baseline)))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("arguments", ["", "dance", "pretrain", "pretrain --job {} --out x --gpus -1"])
def test_usage(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments.split())
    assert stop.value.code == 2
    assert "usage: python -m mto" in capsys.readouterr().err


def test_read_job(tmp_path):
    assert read_job('{"seed": 1}') == ({"seed": 1}, {})
    path = tmp_path / "job.json"
    path.write_text(json.dumps({"task": "linear", "job": {"seed": 2}, "inputs": {"encoder": "e.safetensors"}}))
    job, inputs = read_job(str(path))
    assert (job, str(inputs["encoder"])) == ({"seed": 2}, "e.safetensors")
    for bad, message in ((str(tmp_path / "none.json"), "No such file"), ("{", "not JSON")):
        with pytest.raises(Exception, match=message):
            read_job(bad)
    path.write_text("[1]")
    with pytest.raises(Exception, match="must be a JSON object"):
        read_job(str(path))


def test_start_up_imports_no_compiler():
    """Start-up is the demo's main cost: what a CPU job never uses is not imported, and comes when it is needed."""
    script = """
import sys
from mto.training.startup import lean
lean()
import torch, mto.tasks.pretrain, mto.tasks.finetune, mto.tasks.linear
loaded = set(sys.modules)
absent = ("torch.distributed.fsdp", "pandas", "mmdet", "tensorboard", "matplotlib.figure", "huggingface_hub.hf_api")
for name in ("torch._dynamo.symbolic_convert", "sympy", "pydantic", *absent):
    assert name not in loaded, name
from mto.data.imagenet import build_loader
layer = torch.nn.Linear(2, 2)
(batch,) = build_loader([{"x": torch.ones(2)}] * 4, None, 4)
layer(batch["x"]).sum().backward()
torch.optim.AdamW(layer.parameters(), fused=True).step()
for name in ("torch._dynamo.symbolic_convert", "sympy"):
    assert name not in sys.modules, name
compiled = torch.compile(torch.nn.ReLU(), backend="eager")
assert compiled(torch.tensor(-1.0)) == 0
assert "torch._dynamo.symbolic_convert" in sys.modules
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_a_copy_that_lost_its_folder_does_not_speak_of_a_mistake(monkeypatch, capsys):
    """The copy that took over writes the same log; a line of a mistake there would keep its job from being retried."""

    def run(*_):
        raise Superseded("x: taken over")

    monkeypatch.setattr(entry, "_run", run)
    assert entry.main(["pretrain", "--job", "{}", "--out", "x"]) == 2
    said = capsys.readouterr().err
    assert "x: taken over" in said
    assert REFUSAL not in said
