"""``python -m mto TASK ...``: one job of the study, or one of its tools.

python -m mto pretrain --job JOB --out DIR [--inputs state=PATH] [--gpus N] [--workers N] [--micro-batch N]
python -m mto finetune --job results/.../job.json --out DIR       # run a job again; it names its inputs
python -m mto report ...     python -m mto config ...             # see their --help
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from mto.errors import UserError

TASKS = ("pretrain", "finetune", "linear", "ade20k", "coco", "heterogeneity", "data")
TOOLS = {"config": "mto.cli", "report": "mto.report.cli", "released": "mto.tasks.released", "verify": "mto.tasks.data"}


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m mto",
        description="Run one job of the study.",
        epilog=f"Tools with options of their own: {', '.join(TOOLS)} (python -m mto TOOL --help).",
    )
    parser.add_argument("task", choices=TASKS, metavar="TASK", help=", ".join(TASKS))
    parser.add_argument(
        "--job", required=True, help="the job as JSON, or a file with it (a job.json knows its inputs too)"
    )
    parser.add_argument("--inputs", nargs="+", default=[], metavar="NAME=PATH", help="files of earlier jobs")
    parser.add_argument("--out", required=True, type=Path, help="folder of the outputs")
    parser.add_argument("--gpus", type=_count, default=0, metavar="N", help="GPUs to use; 0: the CPU (default)")
    parser.add_argument(
        "--workers", type=_count, default=0, metavar="N", help="data-loading processes per GPU (default 0)"
    )
    parser.add_argument(
        "--micro-batch", type=_count, default=0, metavar="N", help="images per pass and GPU; 0: all at once (default)"
    )
    parser.add_argument(
        "--verify", choices=["fast", "full"], default="fast", help="how closely the task data looks at its files"
    )
    parser.add_argument(
        "--processes", type=_positive, default=1, metavar="N", help="CPU processes that share the batch"
    )
    return parser.parse_args(argv)


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError("must be 0 or more")
    return value


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    """Run, and turn a user's mistake into one line and exit code 2."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        if argv and argv[0] in TOOLS:
            return import_module(TOOLS[argv[0]]).main(argv[1:]) or 0
        arguments = parse(argv)
        processes = max(arguments.gpus, arguments.processes)
        if processes > 1 and "RANK" not in os.environ:
            _relaunch(argv, processes)
        _run(arguments)
    except UserError as error:
        print(f"mto: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _relaunch(argv: list[str], processes: int) -> None:
    """Become torch's launcher of ``processes`` copies of this command."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    os.execv(sys.executable, [sys.executable, *launcher, "-m", "mto", *argv])


def _run(arguments: argparse.Namespace) -> None:
    from mto.tasks.io import IDENTITY, Task, read_job
    from mto.training.hardware import Hardware
    from mto.training.startup import lean

    job, inputs = read_job(arguments.job)
    inputs |= _inputs(arguments.inputs)
    if job.get("task", arguments.task) != arguments.task:
        raise UserError(f"--job: a job of the task '{job['task']}', not '{arguments.task}'")
    known = ("dataset", "root", "demo") if arguments.task == "data" else (*IDENTITY, "data")
    if lacking := [key for key in known if key not in job]:
        raise UserError(f"--job: lacks {', '.join(lacking)}; a job.json beside a task's outputs is whole")
    hardware = Hardware(arguments.gpus, arguments.workers, arguments.micro_batch or None, arguments.processes)
    if arguments.task == "data":
        import_module("mto.tasks.data").run(job, arguments.out, level=arguments.verify, workers=arguments.workers)
        return
    task = Task(arguments.task, job, inputs, arguments.out, hardware)
    task.start()
    if hardware.world_size == 1 and not hardware.gpus:
        lean()
    _limit_threads(hardware)
    hardware.setup()
    try:
        import_module(f"mto.tasks.{arguments.task}").run(task)
    finally:
        hardware.close()


def _inputs(pairs: Sequence[str]) -> dict[str, Path]:
    inputs = {}
    for pair in pairs:
        name, separator, path = pair.partition("=")
        if not (name and separator):
            raise UserError(f"--inputs {pair}: expected NAME=PATH")
        if path:  # a rule writes "state=" for the first segment, which continues nothing
            inputs[name] = Path(path)
    return inputs


def _limit_threads(hardware) -> None:
    """Threads of the CPU's kernels: what the scheduler granted, not what the machine has."""
    import torch

    granted = os.environ.get("OMP_NUM_THREADS") or os.environ.get("SLURM_CPUS_PER_TASK")
    cores = int(granted) if granted else len(os.sched_getaffinity(0))
    torch.set_num_threads(max(cores // hardware.world_size, 1))


if __name__ == "__main__":
    sys.exit(main())
