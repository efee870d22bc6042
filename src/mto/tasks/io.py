"""What every task shares: its job, its inputs, its folder of outputs, metrics.json with provenance."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mto.data import bad_files
from mto.errors import UserError
from mto.training.hardware import Hardware

if TYPE_CHECKING:
    from torch import Tensor

IDENTITY = ("task", "scale", "run", "baseline", "backbone", "seed", "epoch")
PACKAGES = ("torch", "torchvision", "timm", "onedl-mmengine", "onedl-mmcv", "onedl-mmsegmentation", "onedl-mmdetection")


@dataclass
class Task:
    """One job and where it works.

    Attributes:
        job: all that the task computes from; plain JSON.
        inputs: files of earlier jobs, by name.
        out: folder of the declared outputs.
        hardware: devices and workers, never part of the job.
    """

    name: str
    job: dict[str, Any]
    inputs: dict[str, Path]
    out: Path
    hardware: Hardware = field(default_factory=Hardware)

    def __post_init__(self) -> None:
        self._started = time.perf_counter()

    @property
    def progress(self) -> Path:
        """Checkpoint, history and curves: survives a failed attempt, since Snakemake does not know of it."""
        return self.out / "progress"

    def start(self) -> None:
        """Make the folder, write ``job.json``, by which the job can be run again, and learn where the dataset lies.

        The dataset's place comes from its manifest (the input ``data``), not from the job.

        Raises:
            UserError: an input is not there.
        """
        for name, path in self.inputs.items():
            if not path.exists():
                raise UserError(f"--inputs {name}={path}: no such file; it is an output of an earlier job")
        if not self.hardware.rank:
            self._record()
        bad_files.policy.record = self.progress / bad_files.RECORD
        if "data" in self.inputs:
            root = _read(self.inputs["data"])["job"]["root"]
            self.job = self.job | {"data": self.job["data"] | {"root": root}}

    def _record(self) -> None:
        inputs = {name: str(path) for name, path in self.inputs.items()}
        request = {"task": self.name, "job": self.job, "inputs": inputs}
        # Progress of another job, or on inputs made anew since, must not be continued.
        origin = request | {"made": {n: p.stat().st_mtime_ns for n, p in self.inputs.items() if n != "data"}}
        if self.progress.exists() and _read(self.progress / "origin.json") != origin:
            shutil.rmtree(self.progress)
        write_json(self.progress / "origin.json", origin)
        write_json(self.out / "job.json", request)

    def input(self, name: str) -> Path:
        """The path of an input.

        Raises:
            UserError: it was not given.
        """
        if name not in self.inputs:
            raise UserError(f"{self.name} needs --inputs {name}=PATH")
        return self.inputs[name]

    def read_encoder(self) -> dict[str, Tensor]:
        """The tensors of the input ``encoder``, under timm's names."""
        from safetensors.torch import load_file

        path = self.input("encoder")
        try:
            return load_file(path)
        except Exception as error:  # safetensors has an exception type of its own for each kind of damage
            raise UserError(f"{path}: not a safetensors file ({error})") from error

    def finish(self, metrics: dict[str, float], usage: dict[str, float] | None = None) -> None:
        """Write ``history.jsonl`` (if there is one) and ``metrics.json``, then drop the checkpoint; the curves stay.

        Args:
            usage: of the engine (`LogHook.usage`), which counts earlier attempts too.
        """
        if self.hardware.rank:
            return
        history = self.progress / "history.jsonl"
        if history.exists():
            with replacing(self.out / "history.jsonl") as temporary:
                shutil.copyfile(history, temporary)
        if passed := bad_files.policy.passed():
            metrics = {**metrics, "bad_files": len(passed)}
        usage = usage or {"wall_seconds": time.perf_counter() - self._started}
        write_json(
            self.out / "metrics.json",
            {key: self.job[key] for key in IDENTITY if key in self.job}
            | {"task": self.name, "metrics": metrics, "provenance": provenance(self.hardware, usage)},
        )
        for path in self.progress.iterdir():
            if path.name != "tensorboard":
                shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path that becomes ``path`` when the block ends well: a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    yield temporary
    os.replace(temporary, path)


def write_json(path: Path, value: Any) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


def link_or_copy(source: Path, target: Path) -> None:
    """Make ``target`` hold the file ``source``, at once and without a second copy where the file system can."""
    with replacing(target) as temporary:
        temporary.unlink(missing_ok=True)
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


def _read(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else None


def read_job(text: str) -> tuple[dict[str, Any], dict[str, Path]]:
    """A job and its inputs from JSON text, or from the path of a file with either a job or a ``job.json``.

    Raises:
        UserError: no such file, or no JSON object.
    """
    shown = "--job"
    if not text.lstrip().startswith("{"):
        shown = f"--job {text}"
        try:
            text = Path(text).read_text()
        except OSError as error:
            raise UserError(f"{shown}: {error.strerror}; give a job.json, or the job itself as JSON") from error
    try:
        job = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{shown}: not JSON ({error})") from error
    if not isinstance(job, dict):
        raise UserError(f"{shown}: a job is a JSON object, not {type(job).__name__}")
    if isinstance(job.get("job"), dict):
        return job["job"], {name: Path(path) for name, path in job.get("inputs", {}).items()}
    return job, {}


def provenance(hardware: Hardware, usage: dict[str, float]) -> dict[str, Any]:
    """What made a result: code, versions, device, time. ``gpu_hours`` is 0 on the CPU."""
    wall, train = usage["wall_seconds"], usage.get("train_seconds", 0.0)
    return {
        "commit": commit(),
        "versions": {"python": platform.python_version(), **_versions()},
        "device": device_name(hardware),
        "gpus": hardware.gpus,
        "wall_seconds": round(wall, 2),
        "gpu_hours": round(wall * hardware.gpus / 3600, 4),
        "images_per_second": round(usage["images"] / train, 2) if train else None,
    }


def commit() -> str | None:
    """The commit of this code, ``-dirty`` when files differ from it; None outside a git checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def device_name(hardware: Hardware) -> str:
    if hardware.gpus:
        import torch

        return torch.cuda.get_device_name(hardware.device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
