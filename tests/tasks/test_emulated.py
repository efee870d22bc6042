"""The stages on one and two emulated GPUs, to their ends: the CPU's numbers, unbroken and in two parts.

``pytest tests/tasks/test_emulated.py -s -m "slow or not slow"`` prints the table of docs/emulated-gpu.md.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from dense_jobs import ade20k_job, coco_job, save_encoder
from tiny import METHODS, finetune_job, heterogeneity_job, linear_job, make_images, pretrain_job

from mto.data.demo import make_ade20k, make_coco
from mto.emulate.build import unavailable
from mto.emulate.card import Card

pytestmark = pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))

HERE = Path(__file__).parent
#: The step after which a job is told to stop, to be started again; pre-training goes on in a second segment.
STOPS = {"finetune": 5, "linear": 4, "ade20k": 2, "coco": 1}
SMALL = ("mae in bf16", "bootmae", "linear")
REST = ("simmim", "mae", "conmim", "finetune", "ade20k", "coco", "heterogeneity")
#: name -> relative and absolute distance from the CPU, which rounds otherwise; of bf16 each product does.
CLOSE = {"mae in bf16": (0.02, 0.02), "ade20k": (0.2, 1.0)}
#: name -> the metrics in the table.
SHOWN = {
    **dict.fromkeys(("finetune", "linear"), ("top1",)),
    "ade20k": ("mIoU",),
    "coco": ("box_ap", "mask_ap"),
    "heterogeneity": ("heterogeneity_1",),
}


def make_jobs(folder: Path) -> dict[str, dict]:
    images = make_images(folder / "images")
    make_ade20k(folder / "ade20k", size=48, train=4, val=2)
    make_coco(folder / "coco", size=48, train=4, val=2)
    jobs = {name: pretrain_job(images, name) for name in METHODS}
    jobs["mae in bf16"] = pretrain_job(images, "mae") | {"precision": "bf16"}
    jobs |= {"finetune": finetune_job(images, "mae"), "linear": linear_job(images, "mae")}
    jobs |= {"ade20k": ade20k_job(folder / "ade20k") | {"iterations": 3}, "coco": coco_job(folder / "coco")}
    jobs["ade20k"]["optim"]["batch_size"] = 4  # of two ranks, whose batch norms need two images each
    jobs["heterogeneity"] = heterogeneity_job(images, "mae")
    for name in STOPS:
        save_encoder(folder / f"{name}.safetensors", jobs[name])
    return jobs


def plan(folder: Path, jobs: dict[str, dict], names: tuple[str, ...], gpus: list[int]) -> list[dict]:
    """Each job unbroken and in two parts, on each number of GPUs; 0: on the CPU, unbroken."""
    made = []

    def argv(job: dict, out: Path, count: int, **inputs: Path) -> list[str]:
        given = ["--inputs", *(f"{name}={path}" for name, path in inputs.items())] if inputs else []
        return [job["task"], "--job", json.dumps(job), *given, "--out", str(out), "--gpus", str(count)]

    for count in gpus:
        for name in names:
            job, out = jobs[name], folder / str(count)
            inputs = {"encoder": folder / f"{name}.safetensors"} if name in STOPS else {}
            if name == "heterogeneity":  # of one GPU, always
                inputs = {"method": folder / "0" / "mae" / "state.pth"}
                if count > 1:
                    continue
            runs = {name: [[argv(job, out / name, count, **inputs), None]]}
            if count and name in STOPS:
                again = argv(job, out / f"{name}, resumed", count, **inputs)
                runs[f"{name}, resumed"] = [[again, STOPS[name]], [again, None]]
            elif count and job["task"] == "pretrain":
                first = argv(job | {"epoch": 1}, out / f"{name}, first", count)
                second = argv(job, out / f"{name}, resumed", count, state=out / f"{name}, first" / "state.pth")
                runs[f"{name}, resumed"] = [[first, None], [second, None]]
            for what, parts in runs.items():
                made.append({"name": f"{count} {what}", "processes": max(count, 1), "runs": parts})
    return made


def run(folder: Path, planned: list[dict], card: Card | None) -> dict[str, list[dict]]:
    (folder / "plan.json").write_text(json.dumps(planned))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **(card.environment() if card else {})}
    command = [sys.executable, str(HERE / "emulated_jobs.py"), str(folder / "plan.json"), str(folder / "result.json")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "result.json").read_text())


class Runs:
    """What jobs came to: on the CPU ("0 NAME"), and on one and two emulated GPUs ("1 NAME", "2 NAME, resumed")."""

    def __init__(self, folder: Path, names: tuple[str, ...]) -> None:
        self.folder, jobs = folder, make_jobs(folder)
        on_cpu = plan(folder, jobs, names, [0])
        on_gpu = plan(folder, jobs, names, [1, 2])
        self.results = run(folder, on_cpu, None) | run(folder, on_gpu, Card(count=2, values=True))
        print("", *self.table(), sep="\n")

    def metrics(self, name: str) -> dict[str, float]:
        report = self.place(name) / "metrics.json"
        assert report.exists(), f"{name}: {self.results[name][-1]['said']}"
        return json.loads(report.read_text())["metrics"]

    def losses(self, name: str) -> dict[int, float]:
        """By the step, of the job's history."""
        history = self.place(name) / "history.jsonl"
        rows = map(json.loads, history.read_text().splitlines()) if history.exists() else ()
        return {row["step"]: row["loss"] for row in rows if "loss" in row}

    def place(self, name: str) -> Path:
        count, _, job = name.partition(" ")
        return self.folder / count / job

    def table(self) -> list[str]:
        """In Markdown: each job's last loss and its metric, on the CPU, on one GPU and on two, unbroken and resumed."""
        columns = {"0": "CPU", "1": "1 GPU", "1r": "1 GPU, resumed", "2": "2 GPUs", "2r": "2 GPUs, resumed"}
        lines = [f"| job | | {' | '.join(columns.values())} |", f"|---|---|{'--:|' * len(columns)}"]
        for job in (name.removeprefix("0 ") for name in self.results if name.startswith("0 ")):
            cells: dict[str, list[str]] = {}
            for column in columns:
                name = f"{column[0]} {job}{', resumed' * column.endswith('r')}"
                if name not in self.results:
                    continue
                if losses := self.losses(name):
                    cells.setdefault("last loss", []).append(f"{losses[max(losses)]:.7g}")
                metrics = self.metrics(name)
                stream = next((key for key in metrics if key.endswith("heterogeneity_1")), "")
                for shown in SHOWN.get(job, (stream, "grad_norm")):
                    cells.setdefault(shown, []).append(f"{metrics[shown]:.7g}")
            for shown, values in cells.items():
                lines.append(f"| {job} | {shown} | {' | '.join(values + [''] * (len(columns) - len(values)))} |")
        return lines


@pytest.fixture(scope="module", params=["small", pytest.param("rest", marks=pytest.mark.slow)])
def runs(request, tmp_path_factory) -> Runs:
    return Runs(tmp_path_factory.mktemp(request.param), {"small": SMALL, "rest": REST}[request.param])


def test_on_one_gpu_a_job_gives_the_cpus_numbers(runs):
    for name in (name.removeprefix("0 ") for name in runs.results if name.startswith("0 ")):
        relative, absolute = CLOSE.get(name, (2e-4, 1e-4))
        on_cpu, on_gpu = runs.metrics(f"0 {name}"), runs.metrics(f"1 {name}")
        assert on_gpu.keys() == on_cpu.keys()
        assert on_gpu == pytest.approx(on_cpu, rel=relative, abs=absolute), name
        if name != "heterogeneity":
            there, here = runs.losses(f"1 {name}"), runs.losses(f"0 {name}")
            assert len(here) > 1
            assert there == pytest.approx(here, rel=relative), name


def test_two_gpus_give_the_numbers_of_one(runs):
    """Of methods that draw nothing for a micro-batch; how collapsed a batch is, one GPU sees of its share alone."""
    for name in (name.removeprefix("2 ") for name in runs.results if name.startswith("2 ")):
        one, two = runs.metrics(f"1 {name}"), runs.metrics(f"2 {name}")
        assert two.keys() == one.keys()
        if name.partition(",")[0] in ("mae", "bootmae"):
            compared = [key for key in one if key.startswith(("loss", "grad")) or "heterogeneity_" in key]
            assert len(compared) > 5
            assert [two[key] for key in compared] == pytest.approx([one[key] for key in compared], rel=2e-4), name


def test_a_job_in_two_parts_gives_the_numbers_of_one_unbroken_to_the_bit(runs):
    broken = [name for name in runs.results if name.endswith(", resumed")]
    assert broken
    for name in broken:
        whole = name.removesuffix(", resumed")
        assert runs.metrics(name) == runs.metrics(whole), name
        resumed, unbroken = runs.losses(name), runs.losses(whole)
        assert resumed.keys() <= unbroken.keys()
        assert {step: unbroken[step] for step in resumed} == resumed, name
        assert max(resumed) == max(unbroken)


def test_every_operator_computed_and_none_was_only_launched(runs):
    """A kernel that the runtime was asked for computed nothing, so that a number would be left out unseen."""
    for name, parts in runs.results.items():
        if not name.startswith("0 "):
            assert [part["kernels"] for part in parts] == [[]] * len(parts), name


def test_autocast_is_on_where_a_job_asks_for_it(runs):
    for name, parts in runs.results.items():
        if not name.startswith("0 "):
            products = parts[-1]["products"]
            assert ("bfloat16" in products) == ("bf16" in name), name
            if "bf16" in name:  # MTO's affinities are float32
                assert products["bfloat16"] > products.get("float32", 0)


def test_no_step_waits_for_the_gpu_unless_it_is_logged(runs):
    """Rows are of every second step and an epoch's last; what a step waits for is what came after the one before.

    UPerNet and Mask R-CNN wait, and the heterogeneity has no steps.
    """
    for name, parts in runs.results.items():
        if name[:2] in ("1 ", "2 ") and not any(other in name for other in ("ade20k", "coco", "heterogeneity")):
            waits = parts[0]["waits"]
            logged = {step for step in range(1, len(waits)) if step % 2 == 0 or step % 3 == 0}
            quiet = [waits[step] for step in range(1, len(waits)) if step not in logged]
            assert quiet
            assert not any(quiet), f"{name}: {waits}"
