"""What made a result: code, versions, device, and the time that was paid for it."""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mto.training.hardware import Hardware

PACKAGES = ("torch", "torchvision", "timm", "onedl-mmengine", "onedl-mmcv", "onedl-mmsegmentation", "onedl-mmdetection")
#: What a result is made by, from the top of the checkout. Every user edits config.yaml and the Slurm profile, and many
#: link results/ to a larger disk; the job beside a result has its settings.
CODE = ("src", "rules", "Snakefile", "envs")


class Attempts:
    """The time of every attempt at a job, killed ones too, from the start of its first process.

    Each attempt keeps a file of its own up to date: what it took so far, and on how many GPUs.

    Args:
        folder: of the files.
        gpus: of this attempt.
        began: when it was started, in seconds since 1970.
    """

    def __init__(self, folder: Path, gpus: int, began: float) -> None:
        self.folder = folder
        self.gpus = gpus
        self.began = began

    def note(self) -> None:
        """Writes down the time until now."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{int(self.began)}-{socket.gethostname()}-{os.getpid()}.json"
        partial = path.with_suffix(".tmp")
        partial.write_text(json.dumps({"gpus": self.gpus, "seconds": time.time() - self.began}), encoding="utf-8")
        os.replace(partial, path)

    def paid(self) -> tuple[float, float]:
        """Returns the seconds, and GPU-seconds, of all attempts."""
        noted = []
        for path in self.folder.glob("*.json"):
            try:
                noted.append(json.loads(path.read_text(encoding="utf-8")))
            except ValueError:
                continue  # half of one that a failing machine left
        return sum(a["seconds"] for a in noted), sum(a["seconds"] * a["gpus"] for a in noted)


def provenance(hardware: Hardware, attempts: Attempts, usage: dict[str, float]) -> dict[str, Any]:
    """Returns what made a result: commit, versions, device, and the time that was paid for it.

    Args:
        usage: of the log (`mto.training.log.Log`), or nothing.

    ``wall_seconds`` and ``gpu_hours`` are all attempts' together, each with its own number of GPUs (0 on the CPU);
    ``images_per_second`` is that of training alone; ``eager_images`` are there where the compiler failed.
    """
    attempts.note()
    wall, gpu_seconds = attempts.paid()
    train = usage.get("train_seconds", 0.0)
    return {
        "commit": commit(),
        "versions": {"python": platform.python_version(), **_versions()},
        "device": device_name(hardware),
        "gpus": hardware.gpus,
        "wall_seconds": round(wall, 2),
        "gpu_hours": round(gpu_seconds / 3600, 4),
        "images_per_second": round(usage["images"] / train, 2) if train else None,
        **({"eager_images": usage["eager_images"]} if usage.get("eager_images") else {}),
    }


def commit() -> str | None:
    """Returns this code's commit, ``-dirty`` when a file of `CODE` differs from it; None outside a git checkout."""
    head = _git("rev-parse", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", *(f":/{path}" for path in CODE))
    return None if head is None or changed is None else f"{head}-dirty" if changed else head


def _git(*arguments: str) -> str | None:
    """Returns git's output, None where it fails; it takes no lock, for which many jobs would compete."""
    command = ["git", "--no-optional-locks", "-C", str(Path(__file__).parent), *arguments]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None


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
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
