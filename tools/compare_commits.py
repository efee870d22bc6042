"""Compares what two commits train, bit for bit: the guard of every change that is to alter no number.

    .venv/bin/python tools/compare_commits.py main                 # main against this checkout as it stands
    .venv/bin/python tools/compare_commits.py v1.0 main --stage pretrain finetune
    .venv/bin/python tools/compare_commits.py main --continued     # and this checkout goes on from main's states

Each commit is checked out into a work tree of its own, and both run the same jobs through the same command line, as
Snakemake would: pre-training of the four baselines without and with MTO, fine-tuning (with mixup, drop path, clipping,
a running average and bfloat16), linear probes (LARS, and a head on every block), ADE20K and COCO. The jobs are those of
the scale demo in this checkout, shortened to two or three dozen steps of two micro-batches each, in one process and in
two. Compared are the weights, the teacher or the running average, the optimiser's moments and rates, the rows of the
history (without times), and the published results. State files are compared by what they hold and not by their bytes,
so that another layout of the file is no difference; what only one of the two keeps beside these parts is ignored.

With ``--continued`` each job is also begun by BASE, stopped by a signal in its middle, and finished by HEAD: a running
study goes on after the change as if nothing had been.

Prints a row for each job and exits with 1 where anything differs, with 2 where a job failed. All of it takes some five
minutes on two idle cores, mostly imports; ``--stage`` and ``--processes`` choose a part, and ``--keep FOLDER`` keeps
what a commit made for the next comparison. The two commits must run in the environment of this checkout's Python.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parents[1]
STAGES = ("pretrain", "finetune", "linear", "ade20k", "coco")
PARTS = ("weights", "teacher", "optimiser", "history", "results")
#: Of a history: what depends on the clock.
TIMES = ("images_per_second",)
#: Where a job's last training state is kept, which a finished job removes.
STATE = "compared.pth"
KEEP_STATE = f'''
import os, pathlib
_unlink = pathlib.Path.unlink
def unlink(self, missing_ok=False):
    if self.name == "last.pth" and self.exists():
        kept = self.parent.parent / "{STATE}"
        _unlink(kept, missing_ok=True)
        os.link(self, kept)
    _unlink(self, missing_ok)
pathlib.Path.unlink = unlink
'''


class Failed(Exception):
    """A job of one of the commits did not come to its end."""


@dataclass(frozen=True)
class Case:
    """A job that both commits run."""

    name: str
    job: dict[str, Any]

    @property
    def dataset(self) -> str:
        return self.job["task"] if self.job["task"] in ("ade20k", "coco") else "imagenet"

    def micro_batch(self, processes: int) -> int:
        """Two micro-batches make a step."""
        return self.job["optim"]["batch_size"] // (2 * processes)


@dataclass(frozen=True)
class Side:
    """One of the two commits: its name, its work tree, and the folder of what it makes."""

    name: str
    tree: Path
    folder: Path

    def environment(self) -> dict[str, str]:
        site = self.folder / "site"
        site.mkdir(parents=True, exist_ok=True)
        (site / "sitecustomize.py").write_text(KEEP_STATE)
        paths = os.pathsep.join([str(site), str(self.tree / "src")])
        return os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Starts ``python -m mto`` of this commit."""
        return subprocess.Popen(
            [sys.executable, "-m", "mto", *arguments],
            cwd=self.tree,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def finish(self, what: str, process: subprocess.Popen[str]) -> None:
        """Waits for a process.

        Raises:
            Failed: its exit code is not 0.
        """
        said = process.communicate()[0]
        if process.returncode:
            raise Failed(f"{self.name}: {what} ended with {process.returncode}:\n{said[-2000:]}")

    def make_data(self, jobs: dict[str, dict[str, Any]]) -> None:
        """Makes the demo's datasets, in small, unless they are there from before."""
        for name, job in jobs.items():
            out = self.folder / "data" / name
            if (out / "manifest.json").exists():
                continue
            job = job | {"root": str(out)}
            self.finish(f"data {name}", self.start("data", "--job", json.dumps(job), "--out", str(out)))

    def run(self, case: Case, processes: int, out: Path) -> subprocess.Popen[str]:
        """Starts a job in ``out``, or goes on with it."""
        return self.start(
            *(case.job["task"], "--job", json.dumps(case.job), "--out", str(out), "--guard", "0", "--gradients", "2"),
            *("--inputs", f"data={self.folder / 'data' / case.dataset / 'manifest.json'}"),
            *("--processes", str(processes), "--micro-batch", str(case.micro_batch(processes))),
        )


def cases(stages: Sequence[str]) -> list[Case]:
    """Returns the jobs of some stages: the demo's, shorter, and with what the demo leaves out."""
    study = _study()

    def job(stage: str, run: str, epoch: int, **changes: Any) -> dict[str, Any]:
        from mto.study.study import Step

        made = study.job(Step(stage, run, 0, epoch)).plain() | {"log_interval": 3}
        for key, value in changes.items():
            made[key] = made[key] | value if isinstance(value, dict) else value
        return made

    found = [
        Case(f"pretrain {name}{mto}", job("pretrain", f"{name}-vitb{mto}", 4, epochs=4))
        for name in ("simmim", "mae", "bootmae", "conmim")
        for mto in ("", "-mto")
    ]
    augment = {"mixup": 0.8, "cutmix": 1.0, "reprob": 0.25, "smoothing": 0.1, "hflip": 0.5, "crop_scale": [0.5, 1.0]}
    for name, changes in {
        "mae": {},
        "bootmae": {"ema_decay": 0.9, "precision": "bf16", "encoder": {"drop_path": 0.1}},
    }.items():
        made = job("finetune", f"{name}-vitb", 0, epochs=3, eval_interval=2, **changes)
        made["data"] = made["data"] | {"augment": made["data"]["augment"] | (augment if changes else {})}
        found.append(Case(f"finetune {name}", made))
    for name in ("mae", "conmim"):
        optim = {"batch_size": 32}
        made = job("linear", f"{name}-vitb", 0, epochs=3, eval_interval=2, optim=optim)
        found.append(Case(f"linear {name}", made))
    optim = {"batch_size": 8}
    dense = {"ade20k": {"iterations": 24, "save_interval": 10}, "coco": {"epochs": 3}}
    for stage, length in dense.items():
        made = job(stage, "mae-vitb", 0, optim=optim, **length)
        made["schedule"] = made["schedule"] | {"warmup_iterations": 6}
        found.append(Case(f"{stage} mae", made))
    return [case for case in found if case.job["task"] in stages]


def data_jobs(datasets: set[str]) -> dict[str, dict[str, Any]]:
    """Returns the jobs that make small datasets of digits, by the dataset's name."""
    sizes = {"imagenet": {"train": 256, "val": 64}, "ade20k": {"train": 40, "val": 4}, "coco": {"train": 40, "val": 4}}
    made = {name: _study().data_job(name).plain() for name in datasets}
    return {name: job | {"make": job["make"] | sizes[name]} for name, job in made.items()}


def _study() -> Any:
    from mto.config import load
    from mto.study.study import Study

    return Study(load(ROOT / "config.yaml", scale="demo"))


# ---------------------------------------------------------------------------------------------------------- comparing
def contents(out: Path) -> dict[str, dict[str, Any]]:
    """Returns all that a finished job left, by part and by name.

    Raises:
        Failed: it left no training state.
    """
    if not (out / STATE).exists():
        raise Failed(f"{out}: no training state was left")
    state = torch.load(out / STATE, map_location="cpu", weights_only=True)
    weights, optimiser = state["state_dict"], state["optimizer"]
    parts: dict[str, dict[str, Any]] = {part: {} for part in PARTS}
    for name, value in weights.items():
        parts["teacher" if name.startswith(("teacher.", "ema.")) else "weights"][name] = value
    for index, moments in optimiser["state"].items():
        parts["optimiser"] |= {f"parameter {index}: {name}": value for name, value in moments.items()}
    for index, group in enumerate(optimiser["param_groups"]):
        parts["optimiser"] |= {f"group {index}: {name}": value for name, value in group.items()}
    for number, line in enumerate((out / "history.jsonl").read_text().splitlines()):
        row = json.loads(line)
        parts["history"] |= {f"row {number}: {name}": value for name, value in row.items() if name not in TIMES}
    parts["results"] = json.loads((out / "metrics.json").read_text())["metrics"]
    if (encoder := out / "encoder.safetensors").exists():
        parts["results"] |= load_file(encoder)
    return parts


def difference(ours: dict[str, Any], theirs: dict[str, Any]) -> str | None:
    """Returns what differs between two sets of named values, in a few words; None if nothing does."""
    unequal = [
        name
        for name in sorted(ours.keys() | theirs.keys())
        if name not in ours or name not in theirs or not same(ours[name], theirs[name])
    ]
    if not unequal:
        return None
    missing = sum(name not in ours or name not in theirs for name in unequal)
    distances = [_distance(ours.get(name), theirs.get(name)) for name in unequal]
    return (
        f"{len(unequal)} of {len(ours.keys() | theirs.keys())} differ"
        + (f" ({missing} on one side only)" if missing else f", by at most {max(distances):.1e}")
        + f", first {unequal[0]}"
    )


def same(a: Any, b: Any) -> bool:
    """Whether two values are equal to the last bit; a NaN equals itself."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        if a.dtype != b.dtype or a.shape != b.shape:
            return False
        bits = [value.contiguous().reshape(-1).view(torch.uint8) for value in (a, b)]
        return torch.equal(*bits)
    return repr(a) == repr(b)


def _distance(a: Any, b: Any) -> float:
    try:
        return float((torch.as_tensor(a).double() - torch.as_tensor(b).double()).abs().max())
    except (TypeError, ValueError, RuntimeError):
        return float("nan")


# -------------------------------------------------------------------------------------------------------------- running
def compared(case: Case, processes: int, base: Side, head: Side, continued: bool) -> tuple[str, list[str | None]]:
    """Runs a case on both sides; returns its row's name and what differs in each part."""
    name = f"{case.name}, {processes} process{'es' if processes > 1 else ''}"
    folder = name.replace(", ", "-").replace(" ", "-")
    whole = base.folder / folder
    finish(base, case, processes, whole)
    other = head.folder / folder
    if continued:
        name, other = f"{name}, continued", head.folder / f"{folder}-continued"
        begin(base, case, processes, other)
    finish(head, case, processes, other)
    ours, theirs = contents(whole), contents(other)
    return name, [difference(ours[part], theirs[part]) if ours[part] or theirs[part] else "" for part in PARTS]


def finish(side: Side, case: Case, processes: int, out: Path) -> None:
    """Runs a job to its end, unless it is there from before."""
    if not (out / "metrics.json").exists():
        side.finish(case.name, side.run(case, processes, out))


def begin(side: Side, case: Case, processes: int, out: Path) -> None:
    """Runs a job until it has kept a state, then asks it to stop.

    Raises:
        Failed: it ended before.
    """
    process = side.run(case, processes, out)
    while process.poll() is None and not (out / "progress" / "last.pth").exists():
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    said = process.communicate()[0]
    if process.returncode != 128 + signal.SIGTERM:
        raise Failed(f"{side.name}: {case.name} was to stop and ended with {process.returncode}:\n{said[-2000:]}")


@contextmanager
def checked_out(commit: str | None, folder: Path) -> Iterator[tuple[str, Path]]:
    """Gives a commit's short name and a work tree of it; of None this checkout, as it stands."""
    if commit is None:
        yield "this checkout", ROOT
        return
    name = _git("rev-parse", "--short", f"{commit}^{{commit}}")
    _git("worktree", "add", "--detach", "--force", str(folder), name)
    try:
        yield name, folder
    finally:
        _git("worktree", "remove", "--force", str(folder))


def _git(*arguments: str) -> str:
    result = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(f"git {' '.join(arguments)}: {result.stderr.strip()}")
    return result.stdout.strip()


def show(rows: Sequence[tuple[str, Sequence[str | None]]]) -> str:
    """Returns the table: a row for each job, and below it what differs."""
    width = max(len(name) for name, _ in rows)
    lines = [f"{'':<{width}}  {'  '.join(f'{part:<9}' for part in PARTS)}"]
    for name, cells in rows:
        words = ["equal" if cell is None else "-" if cell == "" else "DIFFERS" for cell in cells]
        lines.append(f"{name:<{width}}  {'  '.join(f'{word:<9}' for word in words)}".rstrip())
        lines += [f"    {part}: {cell}" for part, cell in zip(PARTS, cells, strict=True) if cell]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    summary, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", metavar="BASE", help="a commit")
    parser.add_argument("head", metavar="HEAD", nargs="?", help="another (default: this checkout as it stands)")
    parser.add_argument("--stage", nargs="+", choices=STAGES, default=STAGES, help="only these stages")
    parser.add_argument("--processes", nargs="+", type=int, choices=(1, 2), default=(1, 2), help="default: 1 2")
    parser.add_argument("--continued", action="store_true", help="also let HEAD finish what BASE has begun")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="for the results of commits, to be used again")
    parser.add_argument("--at-once", type=int, default=len(os.sched_getaffinity(0)), help="default: all cores")
    args = parser.parse_args(argv)
    chosen = cases(args.stage)
    with (
        tempfile.TemporaryDirectory(prefix="compare-") as temporary,
        checked_out(args.base, Path(temporary) / "base-tree") as (base_name, base_tree),
        checked_out(args.head, Path(temporary) / "head-tree") as (head_name, head_tree),
        ThreadPoolExecutor(args.at_once) as pool,
    ):
        kept = args.keep.resolve() if args.keep else Path(temporary)
        base = Side(base_name, base_tree, kept / base_name)
        # A checkout changes, and a commit that is compared with itself is to run twice.
        again = args.head is None or head_name == base_name
        head = Side(head_name, head_tree, (Path(temporary) / "head") if again else kept / head_name)
        rows = []
        try:
            for side in (base, head):
                side.make_data(data_jobs({case.dataset for case in chosen}))
            for continued in (False, True) if args.continued else (False,):
                work = [(case, number) for case in chosen for number in args.processes]
                waiting = [pool.submit(compared, case, number, base, head, continued) for case, number in work]
                rows += [one.result() for one in waiting]
        except Failed as failure:
            print(failure, file=sys.stderr)
            pool.shutdown(cancel_futures=True)
            return 2
    different = sum(any(cells) for _, cells in rows)
    print(f"{base.name} and {head.name}, bit for bit:\n{show(rows)}\n{len(rows) - different} of {len(rows)} are equal")
    return int(different > 0)


if __name__ == "__main__":
    sys.exit(main())
