"""Device leases between real processes; no GPU is needed, the devices are names."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mto.runtime import devices
from mto.runtime.devices import lease, visible

# Takes devices, says which, and holds them until its input ends.
HOLDER = """
import sys
from pathlib import Path
from mto.runtime import devices
devices.PAUSE = 0.02
print(",".join(devices.take(sys.argv[2].split(","), int(sys.argv[3]), Path(sys.argv[1]))), flush=True)
"""
HOLD = "sys.stdin.read()"


class Holder:
    def __init__(self, folder: Path, devices: str, count: int, then: str = HOLD) -> None:
        command = [sys.executable, "-c", HOLDER + then, str(folder), devices, str(count)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def devices(self) -> list[str]:
        return self.process.stdout.readline().strip().split(",")

    def warned(self) -> str:
        return self.process.stderr.readline()

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=60)


def test_no_two_processes_hold_one_device(tmp_path: Path) -> None:
    holders = [Holder(tmp_path, "0,1,2,3", count) for count in (1, 2, 1)]
    held = [name for holder in holders for name in holder.devices()]
    assert sorted(held) == ["0", "1", "2", "3"]
    for holder in holders:
        holder.end()


def test_more_jobs_than_devices_take_turns(tmp_path: Path) -> None:
    log = tmp_path / "log"
    then = f"""
import time
with open({str(log)!r}, "a") as log:
    print("begin", file=log, flush=True)
    time.sleep(0.05)
    print("end", file=log, flush=True)
"""
    holders = [Holder(tmp_path / "locks", "0", 1, then) for _ in range(5)]
    for holder in holders:
        assert holder.devices() == ["0"]
        holder.end()
    assert log.read_text().split() == ["begin", "end"] * 5


def test_waiting_is_said_and_ends_when_a_holder_is_killed(tmp_path: Path) -> None:
    first = Holder(tmp_path, "0,1", 2)
    assert first.devices() == ["0", "1"]
    second = Holder(tmp_path, "0,1", 1)
    assert "Waiting for 1 of GPUs 0, 1" in second.warned()
    first.process.send_signal(signal.SIGKILL)
    first.process.wait(timeout=60)
    assert second.devices() == ["0"]
    second.end()


def test_a_job_of_many_devices_is_not_overtaken(tmp_path: Path) -> None:
    small = Holder(tmp_path, "0,1", 1)
    small.devices()
    large = Holder(tmp_path, "0,1", 2)
    assert "Waiting for 2" in large.warned()
    late = Holder(tmp_path, "0,1", 1)  # device 1 is free, and the large job is first
    small.end()
    assert large.devices() == ["0", "1"]
    large.end()
    assert late.devices() == ["0"]
    late.end()


def test_only_visible_devices_are_leased(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-77")
    assert visible() == ["2", "GPU-77"]
    holder = Holder(tmp_path, "0,1,2", 3)
    holder.devices()
    lease(1, tmp_path)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-77"
    holder.end()


def test_slurm_has_parted_the_devices_of_a_job_but_not_those_of_an_allocation(tmp_path, monkeypatch) -> None:
    """A batch job has just what it asked for; jobs that Snakemake starts inside of salloc share what that has."""
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    lease(2)
    assert not list(tmp_path.iterdir())
    folder = devices._folder()
    assert folder.name.endswith("-77")
    holder = Holder(folder, "0,1", 1)
    assert holder.devices() == ["0"]
    lease(1)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"
    holder.end()


def test_too_few_devices_are_left_to_the_task_to_refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    lease(2, tmp_path)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
    assert not list(tmp_path.iterdir())
