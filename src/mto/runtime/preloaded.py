"""Preloaded tasks: a process that has imported everything forks a child for each task, so that none imports it again.

A study of small networks runs over a hundred tasks of seconds, and three seconds of each were imports. `python -m mto`
asks the process that listens at `VARIABLE`'s socket, if there is one, to fork: the child takes over the caller's
arguments, folder, environment, standard streams and, one after another, its signals, and its exit status becomes the
caller's. Where nobody listens the task starts as it always does. What it computes is the same either way.

The forking side is here too, and knows nothing of what it has imported (`mto.tasks.preload`). It runs on CPUs alone,
since a CUDA context survives no fork.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

#: Names the socket, in the environment of tasks.
VARIABLE = "MTO_PRELOADED"
#: What a caller passes on; by any other signal it dies, and its child is killed.
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
LARGEST = 1 << 20


def ask(argv: Sequence[str]) -> int | None:
    """Has the preloaded process run ``python -m mto`` with these arguments.

    Returns:
        The exit status, of a shell's kind (128 + n after signal n); None where nobody listens.
    """
    path = os.environ.get(VARIABLE)
    if not path:
        return None
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    wanted = json.dumps({"argv": list(argv), "folder": os.getcwd(), "environment": environment})
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.connect(path)
        socket.send_fds(connection, [wanted.encode()], [0, 1, 2])
    except OSError:  # or more than a socket takes at once
        connection.close()
        return None
    for number in PASSED_ON:
        signal.signal(number, lambda number, frame: connection.send(bytes([number])))
    status = connection.recv(1)
    return status[0] if status else 1


class Forks:
    """The process that forks.

    Args:
        path: of the socket, which appears once everything is ready.
        main: of the tasks: arguments to exit status. It is called in the children.
    """

    def __init__(self, path: Path, main: Callable[[list[str]], int]) -> None:
        self.path, self.main = path, main
        self.listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.children: dict[socket.socket, BaseProcess] = {}

    def serve(self) -> None:
        """Forks until standard input ends, as it does with whoever started this process; then lets children finish."""
        self.listening.bind(str(self.path))
        self.listening.listen(64)
        open_to: list[Any] = [sys.stdin, self.listening]
        while open_to or self.children:
            ends = {child.sentinel: connection for connection, child in self.children.items()}
            ready = wait([*open_to, *ends, *self.children])
            for end in ends.keys() & set(ready):
                self._end(ends[end])
            for connection in self.children.keys() & set(ready):
                self._pass_on(connection)
            if self.listening in ready:
                self._fork()
            if sys.stdin in ready and not os.read(0, 64):
                self.listening.close()
                with suppress(OSError):
                    self.path.unlink()
                    self.path.parent.rmdir()
                open_to = []

    def _fork(self) -> None:
        connection, _ = self.listening.accept()
        message, streams, _, _ = socket.recv_fds(connection, LARGEST, 3)
        if len(streams) == 3:  # else the caller died before it had asked
            child = get_context("fork").Process(target=self._run, args=(message, streams))
            child.start()
            self.children[connection] = child
        for stream in streams:
            os.close(stream)

    def _run(self, message: bytes, streams: list[int]) -> None:
        """Runs a task in the child, in its caller's place."""
        for other in (self.listening, *self.children):
            other.close()
        for stream, own in zip(streams, (0, 1, 2), strict=True):
            os.dup2(stream, own)
            os.close(stream)
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 (for good)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        wanted = json.loads(message)
        os.chdir(wanted["folder"])
        os.environ.clear()
        os.environ.update(wanted["environment"])
        sys.argv[1:] = wanted["argv"]
        sys.exit(self.main(wanted["argv"]))

    def _end(self, connection: socket.socket) -> None:
        """Tells the caller how its child has ended."""
        child = self.children.pop(connection)
        child.join()
        code = child.exitcode or 0
        with suppress(OSError):  # the caller may be gone
            connection.send(bytes([code if code >= 0 else 128 - code]))
        connection.close()

    def _pass_on(self, connection: socket.socket) -> None:
        """Sends a child what its caller was sent; a caller that is gone was killed, and so is its child."""
        number = connection.recv(1)
        child = self.children[connection]
        os.kill(child.pid or 0, number[0] if number else signal.SIGKILL)
        if not number:
            child.join()
            self.children.pop(connection).close()
            connection.close()
