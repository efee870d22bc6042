"""``python -m mto TASK ...``: one job of the study, or one of its tools.

python -m mto pretrain --job JOB --out DIR [--inputs state=PATH] [--gpus N] [--nodes N] [--workers N] [--micro-batch N]
python -m mto finetune --job results/.../job.json --out DIR       # run a job again; it names its inputs
python -m mto report ...     python -m mto config ...             # see their --help
"""

from __future__ import annotations

import argparse
import io
import os
import select
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path

from mto.emulate.card import Card
from mto.errors import StorageError, UserError
from mto.names import MEMORIES, SPARED, STAGES
from mto.runtime import preloaded
from mto.runtime.devices import lease
from mto.runtime.launch import another_told, launch, report_mistake
from mto.runtime.lock import Superseded
from mto.runtime.nodes import BEGAN, is_one_of_several, spread
from mto.runtime.ranks import forget_others, is_launched, number

TASKS = (*STAGES, "data")
TOOLS = {
    "bench": "mto.bench.cli",
    "config": "mto.study.cli",
    "emulate": "mto.emulate.cli",
    "encoder": "mto.tasks.encoder",
    "export": "mto.export.cli",
    "plan": "mto.cost.cli",
    "preflight": "mto.cost.preflight",
    "report": "mto.report.cli",
    "released": "mto.tasks.released",
    "replay": "mto.tasks.replay",
    "verify": "mto.tasks.data",
    "preload": "mto.tasks.preload",
}


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
        "--nodes", type=_positive, default=1, metavar="N", help="nodes of this Slurm job that share them (default 1)"
    )
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
    parser.add_argument(
        "--guard",
        type=_count,
        default=10,
        metavar="N",
        help="stop pre-training with MTO after N log intervals of collapse; 0: never (default 10)",
    )
    parser.add_argument(
        "--gradients",
        type=_count,
        default=10,
        metavar="N",
        help="log intervals between comparisons of MTO's gradients with the method's; 0: none (default 10)",
    )
    parser.add_argument(
        "--prune",
        action="store_true",
        help="once done, reduce the input state to its weights, when no other job will continue it",
    )
    parser.add_argument(
        "--keep-state", dest="prune", action="store_false", help="leave the input state whole (default)"
    )
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="on a GPU compile the training step of pretrain, finetune and linear (default)",
    )
    parser.add_argument(
        "--memory",
        choices=MEMORIES,
        default="fast",
        help="what is kept for the backward pass: all of it (default); what is no norm's or activation's; of a block "
        "its input alone",
    )
    parser.add_argument(
        "--deterministic",
        choices=("strict", "warn", "off"),
        help="kernels on a GPU: the deterministic ones, or an error (default); where they exist, attention's excepted "
        "(ade20k, coco); the fastest",
    )
    parser.add_argument("--replay", type=Path, help=argparse.SUPPRESS)  # of `python -m mto replay`
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


def _tool(argv: Sequence[str]) -> int:
    """Runs a tool; where the reader of its output has left, as `head` does, it ends as quietly as other programs."""
    try:
        status = import_module(TOOLS[argv[0]]).main(argv[1:]) or 0
        sys.stdout.flush()
    except BrokenPipeError:
        written = select.poll()
        written.register(sys.stdout.fileno(), 0)
        if not any(event & select.POLLERR for _, event in written.poll(0)):
            raise  # it was another pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it exits
        return 128 + signal.SIGPIPE
    return status


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a task or a tool, and turns a user's mistake into one line and exit code 2."""
    argv = list(sys.argv[1:] if argv is None else argv)
    began = time.time()
    forget_others()
    for stream in (sys.stdout, sys.stderr):  # names of files may be no UTF-8, and a terminal's locale may lack a sign
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        if (card := Card.asked()) is not None:
            import_module("mto.emulate.start").start(card)
        if argv and (argv[0] in TASKS or argv[0] == "report") and (status := preloaded.ask(argv)) is not None:
            return status
        if argv and argv[0] in TOOLS:
            return _tool(argv)
        arguments = parse(argv)
        return _run(arguments, argv, began)
    except Superseded as event:
        # Not in the words of a mistake: the copy that goes on writes the same log, and `attempts` retries no mistake.
        report_mistake(f"mto: superseded: {event}")
        return 2
    except UserError as error:
        report_mistake(f"mto: error: {error}")
        return 2
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("", "mto"):
            raise
        how = "the study needs more than torch: pip install 'mto[study]', or make setup"
        report_mistake(f"mto: error: {missing} is not installed; {how}")
        return 2
    except StorageError as error:  # in other words than a mistake: it is retried
        print(f"mto: storage: {error}; nothing is wrong with what was read, run again", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except Exception:
        if another_told():
            return 2
        raise


def _run(arguments: argparse.Namespace, argv: list[str], began: float) -> int:
    from mto.config.job import DataJob, read
    from mto.config.job import parse as parse_job
    from mto.tasks.task import Task, read_job
    from mto.training.hardware import Hardware, without_deterministic_form
    from mto.training.startup import lean, uncollected

    given, inputs = read_job(arguments.job)
    inputs |= _inputs(arguments.inputs)
    if given.get("task", arguments.task) != arguments.task:
        raise UserError(f"--job: a job of the task '{given['task']}', not '{arguments.task}'")
    hardware = Hardware(
        arguments.gpus,
        arguments.workers,
        arguments.micro_batch or None,
        arguments.processes,
        arguments.deterministic or (STAGES[arguments.task].kernels if arguments.task in STAGES else "strict"),
        arguments.compile,
        arguments.memory,
    )
    if arguments.task == "data":
        dataset = parse_job(DataJob, given | {"task": "data"})
        import_module("mto.tasks.data").run(dataset, arguments.out, level=arguments.verify, workers=arguments.workers)
        return 0
    job = read(given | {"task": arguments.task})
    alone = not is_launched()
    if alone and is_one_of_several():
        return launch(argv, hardware.world_size // arguments.nodes, began, arguments.nodes)
    began = began if alone else float(os.environ.get(BEGAN, began))
    watch = {"guard": arguments.guard, "gradient_interval": arguments.gradients, "prune": arguments.prune}
    watch |= {"replay": arguments.replay}
    task = Task(arguments.task, job, inputs, arguments.out, hardware, began, **watch)
    if alone and max(hardware.world_size, arguments.nodes) > 1:
        with task.lock:
            task.start()
            if task.publish_again():
                return 0
        if arguments.nodes > 1:
            spread(argv, hardware.world_size, arguments.nodes, arguments.gpus, began)
        lease(arguments.gpus)
        return launch(argv, hardware.world_size, began)
    with task.lock if hardware.rank == 0 else nullcontext():
        with uncollected():  # it imports torch, to read states
            task.start()
        if alone and task.publish_again():
            return 0
        if hardware.world_size == 1 and not hardware.gpus:
            lean()
        if alone:
            lease(arguments.gpus)
        _limit_threads(hardware)
        hardware.setup()
        try:
            hardware.check_precision(job.precision, arguments.task)
            with uncollected():
                run = import_module(f"mto.tasks.{arguments.task}").run
            run(task)
        except RuntimeError as error:
            from torch import OutOfMemoryError

            if isinstance(error, OutOfMemoryError):
                now = hardware.micro_batch or "a GPU's whole share of the batch"
                leaner = arguments.task in SPARED and hardware.memory != "least"
                option = (
                    f"resources.{arguments.task}.memory: lean or least (now {hardware.memory}), or " if leaner else ""
                )
                raise UserError(
                    f"{str(error).split('. ')[0]}; set {option}a smaller resources.{arguments.task}.micro_batch (now "
                    f"{now}), in config.yaml: the job goes on from its last state"
                ) from error
            if mended := without_deterministic_form(error, arguments.task):
                raise UserError(mended) from error
            raise
        finally:
            hardware.close()
    return 0


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
    """Limits the threads of the CPU's kernels to what the scheduler granted, not what the machine has."""
    import torch

    # Slurm's word may be a whole allocation's, in which Snakemake runs many jobs: it counts first where `spread` asked
    # Slurm for this very process, and last elsewhere. OMP_NUM_THREADS may be a list by level.
    names = ("OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK")
    said = [os.environ.get(name) for name in (reversed(names) if is_one_of_several() else names)]
    here = len(os.sched_getaffinity(0))
    cores = min(next((int(each.split(",")[0]) for each in said if each), here), here)
    threads = max(cores // number("LOCAL_WORLD_SIZE", hardware.world_size), 1)
    torch.set_num_threads(threads)


if __name__ == "__main__":
    sys.exit(main())
