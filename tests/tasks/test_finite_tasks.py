"""A rate at which every stage leaves the numbers: one line that says so, exit code 2, and no result."""

import json
import re
from pathlib import Path

import pytest
from dense_jobs import ade20k_job, coco_job, save_encoder
from test_launch import start
from tiny import finetune_job, linear_job, pretrain_job

from mto.__main__ import main
from mto.data.demo import make_ade20k, make_coco
from mto.runtime.attempts import REFUSAL

WHAT = "(the loss is (nan|inf)|the gradient's norm is (nan|inf)|a weight is nan or infinite)"
LAST = r"(the last finite loss was \S+, at step \d+|no finite loss was logged before)"
LINE = re.compile(
    rf"{REFUSAL}\w+-vitb: {WHAT} at (epoch \d\.\d\d, )?step \d+ of \d+; {LAST}\. Started again, it goes on from the "
    r"(state of step \d+|start of this job)\. If that does not help, lower baselines\.\w+\.\w+\.lr in config\.yaml, "
    r"which starts it over\. The terms of the loss are in .*history\.jsonl\. "
    r"python -m mto replay .*failure\.json takes that step again\n"
)


@pytest.mark.parametrize("task", ["pretrain", "finetune", "linear", "ade20k", "coco"])
def test_every_stage(images, pretrained, tmp_path, capfd, task):
    makers = {"pretrain": pretrain_job, "finetune": finetune_job, "linear": linear_job}
    if task in makers:
        job = makers[task](images, "mae")
        encoder = pretrained("mae") / "encoder.safetensors"
    else:
        make, make_job = {"ade20k": (make_ade20k, ade20k_job), "coco": (make_coco, coco_job)}[task]
        make(tmp_path / "data", size=48, train=4, val=2)
        job = make_job(tmp_path / "data") | ({"iterations": 6} if task == "ade20k" else {"epochs": 3})
        encoder = save_encoder(tmp_path / "encoder.safetensors", job)
    job["optim"] |= {"lr": 1e36}
    inputs = [] if task == "pretrain" else ["--inputs", f"encoder={encoder}"]
    capfd.readouterr()
    assert main([task, "--job", json.dumps(job), "--out", str(tmp_path / "out"), *inputs]) == 2
    said = capfd.readouterr().err
    assert LINE.fullmatch(said), said
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_several_processes_say_it_once(images, tmp_path):
    job = pretrain_job(images, "mae")
    job["optim"] |= {"lr": 1e36}
    process = start("pretrain", "--job", json.dumps(job), "--out", tmp_path, "--processes", 2)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 2
    assert LINE.fullmatch(errors), errors


def test_the_command_that_it_names_takes_the_step_again(images, tmp_path, capfd):
    job = pretrain_job(images, "mae")
    job["optim"] |= {"lr": 1e36}
    assert main(["pretrain", "--job", json.dumps(job), "--out", str(tmp_path)]) == 2
    command = re.search(r"python -m mto (replay \S+)", capfd.readouterr().err)[1].split()
    before = sorted(tmp_path.iterdir())
    assert main(command) == 0
    assert capfd.readouterr().out.rstrip().endswith("; as recorded")
    assert sorted(tmp_path.iterdir()) == before
    failure = json.loads((tmp_path / "progress/failed/failure.json").read_text())
    assert [Path(image["file"]).exists() for image in failure["images"]] == [True] * 12
