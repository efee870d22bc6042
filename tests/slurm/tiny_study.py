"""A study small enough to be trained again and again: one chain of segments, on 160 digits, with the real tasks."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import torch
import yaml
from lab import Cluster
from machine import wait
from safetensors.torch import load_file
from workflow_clone import ROOT, Clone, copy_workflow

from mto.config.study_plan import StudyPlan

HASTY = Path(__file__).parent / "hasty_snakemake.py"
RUN = "results/demo/pretrain/mae-vitb-mto/seed0"
SEGMENT = 12
EPOCHS = tuple(SEGMENT * number for number in range(1, 9))  # of the segments' ends

# The real `python -m mto`. What it says is also in SAID, for all attempts: Slurm cuts off what a job says last, and a
# log is of the last attempt. What asks for GPUs gets two CPU processes a node. Where a file `careful` lies, a short job
# too leaves two minutes before its time limit. It takes SWELLING MB more once the file `swell` names the folder that it
# writes: each attempt at that segment does, which the memory first asked for cannot hold, and half as much more can.
MEMORY, SWELLING = 2000, 1750
SAID = "said.log"
MAIN = f"""
import sys, threading, time
from pathlib import Path

class Both:
    def __init__(self, stream):
        self.stream, self.said = stream, open("{SAID}", "a", buffering=1)

    def write(self, text):
        self.said.write(text)
        return self.stream.write(text)

    def __getattr__(self, name):
        return getattr(self.stream, name)

sys.stdout = Both(sys.stdout)

def swell():
    note = Path("swell")
    while not (note.exists() and note.read_text() in sys.argv):
        time.sleep(0.2)
    held = b"1" * {SWELLING * 10**6}
    threading.Event().wait()

threading.Thread(target=swell, daemon=True).start()
from mto.commands import main
from mto.runtime import time_limit
if Path("careful").exists():
    time_limit.SHARE = float("inf")
words = sys.argv[1:]
if "--gpus" in words and words[(gpus := words.index("--gpus")) + 1] != "0":
    words[gpus : gpus + 2] = ["--processes", str(2 * int(words[words.index("--nodes") + 1]))]
sys.exit(main(words))
"""

# The committed profile, without a database, in a hurry, and on a study of little.
ON_SLURM = (
    *("--cores", "all", "--profile", "slurm", "--config", "scale=demo", "--latency-wait", "5"),
    *("--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "1"),
    *("--max-status-checks-per-second", "2"),
    *("--max-jobs-per-timespan", "20/1s"),  # Snakemake ends when the span of its last submission has ended
)


def tiny_study(path: Path) -> Clone:
    clone = copy_workflow(path)
    shutil.copy(ROOT / "src/mto/__main__.py", path / "src/mto/commands.py")
    (path / "src/mto/__main__.py").write_text(MAIN)
    file = path / "config.yaml"
    whole = yaml.safe_load(file.read_text())
    tables = {name: None for name in StudyPlan.model_fields if name.startswith(("table", "fig"))}
    study = tables | {
        "pretrain_epochs": EPOCHS[-1],
        "measured_epochs": list(EPOCHS),
        "from_scratch": False,
        "fig4_epochs": {
            "baselines": ["mae-vitb"],
            "epochs": list(EPOCHS),
        },
    }
    demo = {
        "study": study,
        "resources": {"pretrain": {"mem_mb": MEMORY}},
        "datasets": {"imagenet": {"make": {"train": 160, "val": 40}}},
    }
    whole["scales"] = {"demo": demo}
    file.write_text(yaml.safe_dump(whole, sort_keys=False))
    return clone


def folder(epoch: int) -> str:
    return f"{RUN}/epoch{epoch:04d}"


def target(epoch: int) -> str:
    return f"{folder(epoch)}/metrics.json"


class Run:
    """Snakemake at work in a clone, on a cluster."""

    def __init__(self, clone: Clone, cluster: Cluster, *arguments: str, **environment: str) -> None:
        self.clone, self.cluster = clone, cluster
        self.log = clone.path / f"snakemake.{len(list(clone.path.glob('snakemake.*.log')))}.log"  # of each start one
        env = {**os.environ, **cluster.environment, "HOME": str(clone.path), **environment}
        with self.log.open("w") as log:
            command = [sys.executable, str(HASTY), *ON_SLURM, *arguments]
            self.process = subprocess.Popen(command, cwd=clone.path, env=env, stdout=log, stderr=subprocess.STDOUT)

    def wait(self, seconds: float = 600) -> int:
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGINT)  # it cancels its jobs
            self.process.wait(60)
            raise AssertionError(f"not done within {seconds} s:\n{self.printed()}") from None

    def until(self, condition: Callable[[], Any], what: str, seconds: float = 600) -> Any:
        """Wait for something while Snakemake runs; return it."""

        def seen() -> Any:
            value = condition()
            assert value or self.process.poll() is None, f"ended before {what}:\n{self.printed()}"
            return value

        return wait(seen, what, seconds)

    def kill(self) -> None:
        """SIGKILL: its jobs live on."""
        self.process.kill()
        self.process.wait()

    def printed(self) -> str:
        return self.log.read_text()

    def submitted(self) -> list[str]:
        """Ids of the Slurm jobs of this start, in order."""
        return re.findall(r"has been submitted with SLURM jobid (\d+)", self.printed())

    def slurm_log(self, *jobs: str) -> str:
        """What Slurm wrote for these jobs; by default for all of this start."""
        files = ((self.clone.path / "logs/slurm").rglob(f"{number}.log") for number in jobs or self.submitted())
        return "".join(file.read_text() for found in files for file in found)

    def training(self, epoch: int) -> str:
        """Wait until two epochs or more of the segment that ends at ``epoch`` are done; return its Slurm job."""
        history = self.clone.path / folder(epoch) / "progress/history.jsonl"

        def under_way() -> bool:
            return history.exists() and len(history.read_text().splitlines()) >= 2

        self.until(under_way, f"epochs of the segment that ends at {epoch}")
        return self.submitted()[-1]


def tasks_of(clone: Clone) -> list[psutil.Process]:
    """The processes of `python -m mto` that work in a clone."""
    found = psutil.process_iter(["cmdline", "cwd"])  # None of what has ended meanwhile
    return [p for p in found if p.info["cwd"] == str(clone.path) and (p.info["cmdline"] or [])[1:3] == ["-m", "mto"]]


@contextmanager
def stopped(clone: Clone) -> Iterator[None]:
    """The tasks stand still, so that a fault meets them in the middle, however fast the machine."""
    processes = tasks_of(clone)
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.suspend()
    try:
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.resume()


def swell(clone: Clone) -> None:
    """Let the task at work, and each later attempt at the same, take too much memory."""
    (task,) = tasks_of(clone)
    words, before = task.cmdline(), task.memory_info().rss
    with stopped(clone):
        (clone.path / "swell").write_text(words[words.index("--out") + 1])

    def swollen() -> bool:
        try:
            return task.memory_info().rss - before > 0.98 * SWELLING * 10**6
        except psutil.NoSuchProcess:
            return True  # Slurm saw it first

    wait(swollen, "the task takes more memory")


class Undisturbed:
    """The tiny study's chain, trained without Slurm and without a fault, as far as somebody asks for it."""

    def __init__(self, path: Path) -> None:
        self.clone = tiny_study(path)
        self.log = path / "snakemake.log"
        self.process: subprocess.Popen[bytes] | None = None

    def begin(self, epoch: int) -> None:
        """Start training up to ``epoch``, in the background."""
        command = [sys.executable, "-m", "snakemake", "--cores", "1", "--quiet", "all", "--", target(epoch)]
        env = os.environ | {"HOME": str(self.clone.path)}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, cwd=self.clone.path, env=env, stdout=log, stderr=log)

    def end(self) -> None:
        if self.process:
            self.process.terminate()
            self.process.wait()

    def __call__(self, epoch: int) -> Path:
        """The folder of the segment that ends at ``epoch``."""
        folder_ = self.clone.path / folder(epoch)
        if self.process is None:
            self.begin(epoch)
        assert self.process.wait(1200) == 0, self.log.read_text()
        return folder_


def first_epoch(clone: Clone, epoch: int) -> float:
    """The first epoch that the last attempt at a segment trained, by its log."""
    log = (clone.path / f"logs/demo/pretrain/{folder(epoch).removeprefix('results/demo/pretrain/')}.log").read_text()
    return float(re.search(r"^epoch +([\d.]+)/", log, re.MULTILINE)[1])


def assert_same(one: Path, other: Path) -> None:
    """Two folders of one segment hold the same files, and in them the same numbers, to the last bit."""
    ours, theirs = ({file.name for file in path.iterdir()} for path in (one, other))
    assert ours == theirs
    ours, theirs = (load_file(path / "encoder.safetensors") for path in (one, other))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    ours, theirs = (json.loads((path / "metrics.json").read_text()) for path in (one, other))
    assert ours | {"provenance": None} == theirs | {"provenance": None}
    ours, theirs = (_history(path / "history.jsonl") for path in (one, other))
    assert ours == theirs
    ours, theirs = (torch.load(path / "state.pth", weights_only=True) for path in (one, other))
    # Of a segment whose next one has finished only the weights are left.
    for part in ("state_dict", "optimizer") if "optimizer" in ours and "optimizer" in theirs else ("state_dict",):
        a, b = (dict(_tensors(state[part])) for state in (ours, theirs))
        assert a.keys() == b.keys()
        assert len(a) > 50
        assert all(torch.equal(a[name], b[name]) for name in a)


def _history(file: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "images_per_second"} for row in rows]


def _tensors(node: Any, path: str = "") -> list[tuple[str, torch.Tensor]]:
    if isinstance(node, torch.Tensor):
        return [(path, node)]
    pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list | tuple) else ()
    return [leaf for name, value in pairs for leaf in _tensors(value, f"{path}/{name}")]
