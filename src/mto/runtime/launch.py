"""Several processes of one job, by torch's elastic launcher, and quietly: one line for a mistake, none for a signal."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from mto.runtime.nodes import BEGAN, RENDEZVOUS
from mto.runtime.ranks import LAUNCHER, is_launched

#: Where the first process that meets a user's mistake writes it.
MISTAKE = "MTO_MISTAKE"
#: Seconds that processes have to finish a step and save once they are asked to stop.
PATIENCE = 600
SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1")


def launch(argv: Sequence[str], processes: int, began: float, nodes: int = 1) -> int:
    """Runs ``python -m mto ARGV`` in ``processes`` processes on this machine, which share the job.

    With several ``nodes`` each of them does so, and they meet at `mto.runtime.nodes.RENDEZVOUS`.

    Returns:
        The exit code: 2 for a user's mistake, printed once; 128 + signal where one ended it.
    """
    from torch.distributed.elastic.multiprocessing import api
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.disable(logging.CRITICAL)  # the launcher reports each signal and each failure at length
    api._terminate_process_handler = _stop  # type: ignore[assignment]
    config = LaunchConfig(
        min_nodes=nodes,
        max_nodes=nodes,
        nproc_per_node=processes,
        run_id=os.environ["SLURM_JOB_ID"] if nodes > 1 else uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint=os.environ[RENDEZVOUS] if nodes > 1 else "localhost:0",
        max_restarts=0,
        signals_to_handle=",".join(SIGNALS),
        shutdown_timeout=PATIENCE,
    )
    with tempfile.TemporaryDirectory() as folder:
        mistake = Path(folder) / "mistake"
        os.environ |= {LAUNCHER: str(os.getpid()), MISTAKE: str(mistake)}
        os.environ.setdefault(BEGAN, str(began))
        try:
            elastic_launch(config, sys.executable)("-m", "mto", *argv)
        except api.SignalException as event:
            return 128 + int(event.sigval)
        except ChildFailedError as error:
            if mistake.exists():
                print(mistake.read_text(encoding="utf-8", errors="surrogateescape"), file=sys.stderr)
                return 2
            _, failure = error.get_first_failure()
            code = failure.exitcode
            if code < 0:
                print(f"mto: a process was killed by signal {-code} (9: out of memory?)", file=sys.stderr)
            return code if code > 0 else 128 - code
    return 0


def _stop(number: int, frame: Any) -> NoReturn:
    """Takes the first signal and no more: in torch's own handler a second one ends the wait for the processes.

    Slurm may signal every process of a job, and Snakemake, which is one of them, those below it once more.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException

    for name in SIGNALS:
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    raise SignalException(f"signal {number}", signal.Signals(number))


def report_mistake(line: str) -> None:
    """Prints a user's mistake; of several processes that meet one, the first has the launcher print its line."""
    path = os.environ.get(MISTAKE)
    if path is None or not is_launched():
        print(line, file=sys.stderr)
        return
    try:
        with open(path, "x", encoding="utf-8", errors="surrogateescape") as file:
            file.write(line)
    except FileExistsError:
        pass


def another_told(patience: float = 3.0) -> bool:
    """Returns whether another process of this job met a user's mistake, and so left this one without its partner."""
    path = os.environ.get(MISTAKE)
    if path is None or not is_launched():
        return False
    end = time.monotonic() + patience  # the other closes its connections before it writes
    while not os.path.exists(path) and time.monotonic() < end:
        time.sleep(0.1)
    return os.path.exists(path)
