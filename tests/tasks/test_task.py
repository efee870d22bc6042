"""What surrounds every task: progress kept and dropped, outputs published again, chains, time that was paid for."""

import errno
import json
import os
import stat
import threading
import time

import pytest
from tiny import finetune_job, linear_job, make_images, pretrain_job

from mto.__main__ import main
from mto.errors import UserError
from mto.files import link_or_copy, read_json, replacing, write_json
from mto.runtime.lock import Lock
from mto.tasks.provenance import Attempts
from mto.tasks.task import Task
from mto.training.weights import load_weights, save_weights
from typed_jobs import typed

OUTPUTS = ("encoder.safetensors", "state.pth", "metrics.json", "history.jsonl")


def pretrain(job, out, *inputs) -> int:
    return main(["pretrain", "--job", json.dumps(job), "--out", str(out), "--inputs", *inputs, "state="])


@pytest.fixture
def finished(images, tmp_path):
    """A finished segment and its job."""
    job = pretrain_job(images, "mae", epoch=1)
    assert pretrain(job, tmp_path / "run") == 0
    return job, tmp_path / "run"


def remove_outputs(out) -> dict[str, bytes]:
    """As Snakemake does before it runs a job again."""
    made = {name: (out / name).read_bytes() for name in OUTPUTS}
    for name in OUTPUTS:
        (out / name).unlink()
    return made


# ------------------------------------------------------------------------------------------------ published once more
def test_a_finished_job_that_was_reported_failed_is_not_trained_again(finished, capsys):
    job, out = finished
    made = remove_outputs(out)
    began = time.time()
    capsys.readouterr()
    assert pretrain(job, out) == 0
    assert {name: (out / name).read_bytes() for name in OUTPUTS} == made
    assert all((out / name).stat().st_mtime >= began - 1 for name in OUTPUTS)  # newer than its inputs
    said = capsys.readouterr().out
    assert "this job had finished; its outputs are in their places again" in said
    assert "step" not in said


def test_a_forced_run_starts_from_the_first_step(finished, capsys):
    job, out = finished
    made = remove_outputs(out)
    (out / "progress" / "restart").touch()
    capsys.readouterr()
    assert pretrain(job, out) == 0
    assert "epoch 0.67/1  step 2/3" in capsys.readouterr().out
    assert (out / "encoder.safetensors").read_bytes() == made["encoder.safetensors"]  # byte for byte
    assert not (out / "progress" / "restart").exists()


def test_another_job_is_trained(finished):
    job, out = finished
    made = remove_outputs(out)
    assert pretrain(job | {"seed": 1}, out) == 0
    assert (out / "encoder.safetensors").read_bytes() != made["encoder.safetensors"]


def test_inputs_made_anew_with_the_same_bits_are_the_same(images, finished, tmp_path, capsys):
    first_job, first = finished
    job, state = pretrain_job(images, "mae", epoch=2), f"state={first / 'state.pth'}"
    arguments = ["pretrain", "--job", json.dumps(job), "--out", str(tmp_path / "second"), "--inputs", state]
    assert main(arguments) == 0
    (first / "progress" / "restart").touch()
    assert pretrain(first_job, first) == 0
    capsys.readouterr()
    assert main(arguments) == 0
    assert "had finished" in capsys.readouterr().out
    (first / "state.pth").unlink()
    (first / "progress" / "restart").touch()
    assert pretrain(first_job | {"seed": 1}, first) == 0
    assert main(arguments) == 2  # the same place, another run's state


@pytest.mark.parametrize("task", ["finetune", "linear"])
def test_measuring_tasks_too(images, pretrained, tmp_path, capsys, task):
    job = {"finetune": finetune_job, "linear": linear_job}[task](images, "mae")
    encoder = f"encoder={pretrained('mae') / 'encoder.safetensors'}"
    arguments = [task, "--job", json.dumps(job), "--out", str(tmp_path), "--inputs", encoder]
    assert main(arguments) == 0
    made = (tmp_path / "metrics.json").read_text()
    (tmp_path / "metrics.json").unlink()
    assert main(arguments) == 0
    assert (tmp_path / "metrics.json").read_text() == made
    assert "had finished" in capsys.readouterr().out
    kept = {path.name for path in (tmp_path / "progress").iterdir()}
    assert kept == {"finished", "tensorboard", "attempts", "origin.json"}  # no state: it would be a second network


# ------------------------------------------------------------------------------------------------------------- chains
def test_a_segment_on_another_jobs_state_is_refused(images, finished, tmp_path, capsys):
    """A later edit of the recipe, after the first segment's end was lost from Snakemake's books."""
    _, first = finished
    job = pretrain_job(images, "mae", epoch=2)
    job["optim"]["lr"] = 5e-4
    inputs = ["--inputs", f"state={first / 'state.pth'}"]
    assert main(["pretrain", "--job", json.dumps(job), "--out", str(tmp_path / "second"), *inputs]) == 2
    said = capsys.readouterr().err
    assert f"{first / 'state.pth'}: of another job (optim.lr 0.001 there, 0.0005 here)" in said
    assert f"snakemake --forcerun {first / 'state.pth'}" in said
    assert said.count("\n") == 1


def test_an_epoch_beyond_the_schedule_is_refused(images, tmp_path, capsys):
    assert pretrain(pretrain_job(images, "mae", epoch=8, epochs=4), tmp_path) == 2
    said = capsys.readouterr().err
    assert "epoch 8 of mae-vitb lies beyond its schedule of 4 epochs" in said
    assert "total_epochs" in said


def test_another_size_of_the_dataset_is_refused(images, tmp_path, capsys):
    """Between segments, and between two attempts at one."""
    root = make_images(tmp_path / "images")
    job = pretrain_job(root, "mae", epoch=1)
    assert pretrain(job, tmp_path / "first") == 0
    (root / "train" / "class0" / "0.png").rename(root / "train" / "class0" / "more.png")
    for index in range(12):
        os.link(root / "train" / "class0" / "more.png", root / "train" / "class0" / f"again{index}.png")
    second = ["--out", str(tmp_path / "second"), "--inputs", f"state={tmp_path / 'first' / 'state.pth'}"]
    assert main(["pretrain", "--job", json.dumps(pretrain_job(root, "mae", epoch=2)), *second]) == 2
    assert "made with 36 training images, but there are 48 now" in capsys.readouterr().err


def test_a_damaged_note_is_one_line(images, tmp_path, capsys):
    """What a failing machine leaves of a file that says whose the progress is, and of a dataset's manifest."""
    job, origin, manifest = pretrain_job(images, "mae"), tmp_path / "progress" / "origin.json", tmp_path / "m.json"
    origin.parent.mkdir()
    origin.write_text('{"task": "pre')
    assert pretrain(job, tmp_path) == 2
    said = capsys.readouterr().err
    assert said == f"mto: error: {origin}: damaged; remove {origin.parent} to start over\n"
    for content, expected in (('{"job": ', "damaged, not JSON ("), ("[]", "damaged, names no dataset; remove it")):
        manifest.write_text(content)
        assert pretrain(job, tmp_path / "other", f"data={manifest}") == 2
        said = capsys.readouterr().err
        assert said.startswith(f"mto: error: {manifest}: {expected}")
        assert said.count("\n") == 1


# ----------------------------------------------------------------------------------------------------------- one writer
def test_a_second_copy_of_a_job_waits(images, tmp_path, capsys):
    job, held = pretrain_job(images, "mae", epoch=1), threading.Event()

    def another_copy():
        with Lock(tmp_path):
            held.set()
            time.sleep(1)
            seen.extend(tmp_path.iterdir())

    seen: list = []
    other = threading.Thread(target=another_copy)
    other.start()
    held.wait()
    assert pretrain(job, tmp_path) == 0
    other.join()
    assert [path.name for path in seen] == ["running.json"]  # it wrote nothing while it waited
    assert "waiting for its end" in capsys.readouterr().out


# ----------------------------------------------------------------------------------------------------------------- time
def test_every_attempts_time_counts_with_its_own_gpus(tmp_path):
    killed = Attempts(tmp_path, gpus=8, began=time.time() - 100)
    killed.note()
    last = Attempts(tmp_path, gpus=2, began=time.time() - 50)
    last.note()
    last.note()
    (tmp_path / "broken.json").write_text('{"gp')
    wall, gpu_seconds = last.paid()
    assert wall == pytest.approx(150, abs=5)
    assert gpu_seconds == pytest.approx(8 * 100 + 2 * 50, abs=50)


def test_metrics_count_an_attempt_that_was_killed(images, tmp_path):
    job = pretrain_job(images, "mae", epoch=1)
    task = Task("pretrain", typed(job), {}, tmp_path, began=time.time() - 1000)
    task.start()  # and dies
    assert pretrain(job, tmp_path) == 0
    paid = json.loads((tmp_path / "metrics.json").read_text())["provenance"]
    assert 1000 < paid["wall_seconds"] < 1300
    assert paid["gpu_hours"] == 0


THREADS = [
    ({"OMP_NUM_THREADS": "1"}, {}, 1),
    ({"OMP_NUM_THREADS": "1", "SLURM_CPUS_PER_TASK": "32"}, {}, 1),  # an allocation in which Snakemake runs jobs of 1
    ({"OMP_NUM_THREADS": "4,2"}, {"processes": 2}, 2),
    ({"SLURM_CPUS_PER_TASK": "4"}, {}, 4),
    ({"SLURM_CPUS_PER_TASK": "32"}, {}, 8),  # never more than this process may use
    ({"OMP_NUM_THREADS": "1", "SLURM_CPUS_PER_TASK": "4", "MTO_RENDEZVOUS": "a:1"}, {}, 4),  # our own `srun` asked
    ({}, {"processes": 3}, 2),
]


@pytest.mark.parametrize(("said", "hardware", "threads"), THREADS)
def test_threads_are_those_of_the_job(monkeypatch, said, hardware, threads):
    import torch

    from mto.__main__ import _limit_threads
    from mto.training.hardware import Hardware

    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)  # a real change would alter other tests' sums
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "SLURM_CPUS_PER_TASK", "MTO_RENDEZVOUS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    _limit_threads(Hardware(**hardware))
    assert asked == [threads]


# ---------------------------------------------------------------------------------------------------------------- files
def test_outputs_get_the_umask_and_leave_nothing_half_written(finished):
    _, out = finished
    mask = os.umask(0)
    os.umask(mask)
    for name in OUTPUTS:
        assert stat.S_IMODE((out / name).stat().st_mode) == 0o666 & ~mask
    assert not list(out.rglob("*.tmp"))
    assert not list(out.rglob("running.json"))


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "metrics.json"
    write_json(path, {"a": 1})
    writing = replacing(path)
    writing.__enter__().write_text("half")
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(UserError, match=r"metrics.json: No space left on device; free some"):
        writing.__exit__(OSError, full, None)
    assert read_json(path) == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.json"]
    for _ in range(2):  # it may be there already, by an earlier attempt
        link_or_copy(path, tmp_path / "b" / "same.json")
    assert path.samefile(tmp_path / "b" / "same.json")
    assert [file.name for file in (tmp_path / "b").iterdir()] == ["same.json"]
    path.write_text("{")
    with pytest.raises(UserError, match=r"metrics.json: damaged, not JSON .* remove it"):
        read_json(path)


def test_weights_have_one_form_and_a_checksum(tmp_path):
    import torch

    tensors = {"b.weight": torch.randn(3, 2), "a": torch.arange(4), "empty": torch.zeros(0)}
    metadata = {"run": "mae-vitb", "seed": "0", "epoch": "2"}
    contents = set()
    for attempt in range(8):  # safetensors itself would shuffle them
        save_weights(tmp_path / f"{attempt}.safetensors", tensors, metadata)
        contents.add((tmp_path / f"{attempt}.safetensors").read_bytes())
    assert len(contents) == 1
    path = tmp_path / "0.safetensors"
    assert all(torch.equal(value, tensors[name]) for name, value in load_weights(path).items())
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"0.safetensors: damaged \(its checksum is wrong\)"):
        load_weights(path)
    path.write_bytes(content[:40])
    with pytest.raises(UserError, match="not a safetensors file"):
        load_weights(path)
