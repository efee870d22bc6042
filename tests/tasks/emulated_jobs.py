"""Whole jobs of the tasks, one after another in one process or two: ``python emulated_jobs.py PLAN RESULT``.

The plan is JSON: ``[{"name", "processes", "runs": [[argv, stop], ...]}, ...]``. ``argv`` is of ``python -m mto``; with
``stop`` a run is told to stop after so many steps. The environment says whether a GPU is emulated. The result is JSON
too: by name what each run came to.
"""

import contextlib
import io
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from mto.__main__ import main
from mto.emulate import start
from mto.emulate.card import Card
from mto.runtime.ranks import LAUNCHER

if card := Card.asked():
    start.start(card)

import torch
from torch import multiprocessing
from torch.optim.optimizer import register_optimizer_step_post_hook


class Watch:
    """Stops a job after some steps, and notes how often each step waited for the GPU."""

    def __init__(self, stop: int | None) -> None:
        self.stop = stop
        self.waits: list[int] = []
        self.hook = register_optimizer_step_post_hook(lambda *_: self.after_step())

    def after_step(self) -> None:
        if values := start.values():
            self.waits.append(values.waits.total())
            values.waits.clear()
        self.steps += 1
        if self.steps == self.stop:
            os.kill(os.getpid(), signal.SIGUSR1)

    steps = 0


def run(argv: list[str], stop: int | None) -> dict:
    watch, said = Watch(stop), io.StringIO()
    torch.set_float32_matmul_precision("highest")  # a new process's, which an earlier job in bf16 has changed
    if values := start.values():
        values.products.clear()
        start.reset()
    code = 1
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = main(argv)
    except SystemExit as stopped:
        code = stopped.code
    except Exception as error:
        said.write(f"{type(error).__name__}: {error}")
    watch.hook.remove()
    result = {"code": code, "said": said.getvalue()[-2000:], "waits": watch.waits, "steps": watch.steps}
    if values:
        result["products"] = {str(kind).removeprefix("torch."): n for kind, n in values.products.items()}
        result["kernels"] = [what for what in start.counted() if what.startswith("launch")]
    return result


def work(rank: int, plan: list[dict], result: str, processes: int, together: Any) -> None:
    torch.set_num_threads(1)
    results = {}
    for job in plan:
        if job["processes"] != processes:
            continue
        if processes > 1:
            os.environ |= {LAUNCHER: str(os.getppid()), "MASTER_ADDR": "localhost"}
            os.environ |= dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank))
            os.environ |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(processes))
        results[job["name"]] = []
        for (argv, stop), port in zip(job["runs"], job["ports"], strict=True):
            together.wait(600)  # or one would look for what the other has yet to write
            os.environ["MASTER_PORT"] = str(port)
            results[job["name"]].append(run(argv, stop))
    if rank == 0:
        Path(f"{result}.{processes}").write_text(json.dumps(results))


if __name__ == "__main__":
    import mto.tasks.ade20k
    import mto.tasks.coco
    import mto.tasks.heterogeneity
    import mto.tasks.pretrain  # noqa: F401
    from mto.openmmlab.libraries import load_mmdet, load_mmseg

    load_mmseg()
    load_mmdet()
    plan, result = json.loads(Path(sys.argv[1]).read_text()), sys.argv[2]
    with contextlib.ExitStack() as sockets:
        for job in plan:
            free = [sockets.enter_context(socket.socket()) for _ in job["runs"]]
            for each in free:
                each.bind(("localhost", 0))
            job["ports"] = [each.getsockname()[1] for each in free]
    every = {}
    for processes in sorted({job["processes"] for job in plan}):
        arguments = (plan, result, processes, multiprocessing.get_context("fork").Barrier(processes))
        multiprocessing.start_processes(work, arguments, nprocs=processes, start_method="fork")
        every |= json.loads(Path(f"{result}.{processes}").read_text())
    Path(result).write_text(json.dumps(every))
