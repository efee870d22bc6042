"""Several processes of one job: signals, mistakes and failures, as a scheduler and a person see them."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from tiny import finetune_job, linear_steps, make_images, pretrain_job

from mto.training.checkpoint import load_state


def start(*arguments: object, **env: str) -> subprocess.Popen:
    command = [sys.executable, "-u", "-m", "mto", *map(str, arguments)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **env},
        start_new_session=True,
    )


@pytest.mark.parametrize("to_all", [True, False], ids=["to all processes", "to the launcher"])
def test_a_signal_saves_and_ends_without_a_word_too_many(images, tmp_path, to_all):
    """Two processes with a loader's process each; Slurm signals all of them, at a time limit, or the first, on request.

    Then one process goes on alone, at the very step."""
    job = json.dumps(linear_steps(pretrain_job(images, "mae", epoch=60, epochs=60)) | {"log_interval": 1})
    process = start("pretrain", "--job", job, "--out", tmp_path, "--processes", 2, "--workers", 1)
    while "step" not in process.stdout.readline():
        assert process.poll() is None, process.stderr.read()
    number = signal.SIGTERM if to_all else signal.SIGUSR1
    (os.killpg if to_all else os.kill)(process.pid, number)
    said, errors = process.communicate(timeout=100)
    assert process.returncode == 128 + number
    assert errors == ""
    assert said.splitlines()[-1].startswith(f"mto: {number.name}: stopped and saved at step ")
    step = int(said.split("saved at step ")[1].split(";")[0])
    state = load_state(tmp_path / "progress" / "last.pth")
    assert (state["meta"]["step"], state["meta"]["samples"]) == (step, 12 * step)
    assert not (tmp_path / "running.json").exists()
    if to_all:
        return
    process = start("pretrain", "--job", job, "--out", tmp_path)
    assert f"step {step + 1:>3}/180" in process.stdout.readline()
    process.kill()
    process.communicate()


def test_a_signal_in_a_validation_that_two_processes_share(pretrained, tmp_path):
    """Some seconds long. They leave after a batch that both have, or the other would wait for the counts for ever."""
    images = make_images(tmp_path / "images")
    for index in range(3000):
        os.link(images / "val" / "class0" / "0.png", images / "val" / "class0" / f"again{index}.png")
    job = finetune_job(images, "mae")
    encoder = f"encoder={pretrained('mae') / 'encoder.safetensors'}"
    command = ["finetune", "--job", json.dumps(job), "--out", tmp_path / "out", "--inputs", encoder]
    process = start(*command, "--processes", 2, "--micro-batch", 6)
    while "step 6/9" not in process.stdout.readline():  # the end of the second epoch
        assert process.poll() is None, process.stderr.read()
    time.sleep(0.2)
    process.send_signal(signal.SIGUSR1)
    said, errors = process.communicate(timeout=100)
    assert (process.returncode, errors) == (128 + signal.SIGUSR1, "")
    assert said == "mto: SIGUSR1: stopped and saved at step 6; run again to continue from there\n"
    meta = load_state(tmp_path / "out" / "progress" / "last.pth")["meta"]
    assert (meta["step"], meta["round_open"]) == (6, True)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_time_limit_needs_no_signal(images, tmp_path, processes):
    """Slurm says that this job's time is all but over: all processes save and leave at one step."""
    squeue = tmp_path / "bin" / "squeue"
    squeue.parent.mkdir()
    squeue.write_text('#!/bin/sh\necho "$(date +%s)|2-00:00:00"\n')
    squeue.chmod(0o755)
    job = json.dumps(linear_steps(pretrain_job(images, "mae", epoch=60, epochs=60)))
    slurm = {"SLURM_JOB_ID": "7", "PATH": f"{squeue.parent}:{os.environ['PATH']}"}
    process = start("pretrain", "--job", job, "--out", tmp_path / "out", "--processes", processes, **slurm)
    said, errors = process.communicate(timeout=100)
    assert (process.returncode, errors) == (128 + signal.SIGXCPU, "")
    last = said.splitlines()[-1]
    assert last.startswith("mto: the time limit is near: stopped and saved at step ")
    step = int(last.split("saved at step ")[1].split(";")[0])
    assert load_state(tmp_path / "out" / "progress" / "last.pth")["meta"]["step"] == step < 180


def test_two_signals_are_as_one(images, tmp_path):
    """Slurm's own, to all processes, and the one that Snakemake passes on to them."""
    job = json.dumps(linear_steps(pretrain_job(images, "mae", epoch=60, epochs=60)) | {"log_interval": 1})
    process = start("pretrain", "--job", job, "--out", tmp_path, "--processes", 2, "--workers", 1)
    while "step" not in process.stdout.readline():
        assert process.poll() is None, process.stderr.read()
    for pause in (0, 0.002, 0.05, 0.2):  # the launcher may wait for its processes at each
        time.sleep(pause)
        os.killpg(process.pid, signal.SIGTERM)
    said, errors = process.communicate(timeout=100)
    assert (process.returncode, errors) == (128 + signal.SIGTERM, "")
    assert "mto: SIGTERM: stopped and saved at step " in said
    assert not (tmp_path / "running.json").exists()


def test_a_mistake_that_all_processes_meet_is_one_line(images, tmp_path):
    job = json.dumps(pretrain_job(images, "mae"))
    process = start("pretrain", "--job", job, "--out", tmp_path, "--processes", 3, "--micro-batch", 3)
    said, errors = process.communicate(timeout=100)
    assert process.returncode == 2
    assert errors == (
        "mto: error: a batch of 12 cannot be made from 3 process(es) x micro-batch 3: the nearest that can is 9; "
        "change --micro-batch, --gpus or optim.batch_size\n"
    )
    assert said == ""


def test_a_process_that_is_killed_ends_the_job_in_a_line(images, tmp_path):
    job = json.dumps(pretrain_job(images, "mae", epoch=60, epochs=60) | {"log_interval": 1})
    process = start("pretrain", "--job", job, "--out", tmp_path, "--processes", 2)
    while "step" not in process.stdout.readline():
        assert process.poll() is None, process.stderr.read()
    owner = json.loads((tmp_path / "running.json").read_text())
    os.kill(owner["pid"], signal.SIGKILL)
    began = time.monotonic()
    _, errors = process.communicate(timeout=100)
    assert time.monotonic() - began < 60
    assert process.returncode == 137
    assert "mto: a process was killed by signal 9 (9: out of memory?)" in errors
