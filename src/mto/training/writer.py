"""States written while training goes on: a copy in the host's memory, and a thread that takes it to the disk."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from torch import Tensor

from mto.files import link_or_copy, sync
from mto.runtime.lock import Lock
from mto.training.checkpoint import State, fingerprint, save_state
from mto.training.log import HISTORY
from mto.training.resume import CHECKPOINT, PREVIOUS


class Writer:
    """One write at a time, on a thread. What goes wrong there is raised here: at the next `check`, `wait` or `start`.

    Used as a context it does not leave a write unfinished behind, whatever ends the block.

    Example:
        >>> with Writer() as writer:
        ...     writer.start(save_state, path, on_host(state), record)
        ...     step()
        ...     writer.check()
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "writer")
        self._running: Future[None] | None = None

    def start(self, write: Callable[..., None], *args: Any) -> None:
        """Calls ``write(*args)`` on the thread, once the write before it is done.

        Nothing may change ``args`` from now on.
        """
        self.wait()
        self._running = self._pool.submit(write, *args)

    def check(self) -> None:
        """Raises what ended the last write, if it has ended by an error."""
        if self._running and self._running.done():
            self.wait()

    def wait(self) -> None:
        """Waits until nothing is being written; raises what ended the last write."""
        running, self._running = self._running, None
        if running:
            running.result()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.wait()
        except Exception:
            if kind is None:  # else the block's own error is the one to show
                raise
        finally:
            self._pool.shutdown()


def on_host(value: Any) -> Any:
    """Copies nested dicts, lists and tuples of tensors and plain values, every tensor into the host's memory."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        copied = copy.copy(value)  # the type stays, and what a module's state says of versions
        for name, part in value.items():
            copied[name] = on_host(part)
        return copied
    if isinstance(value, list | tuple):
        return type(value)(on_host(part) for part in value)
    return value


class Checkpoints:
    """Keeps the run's newest state in ``last.pth``, and the one before it in ``previous.pth``.

    A thread writes, while training goes on; the next state waits for it. Where a write failed, the next step raises it.

    Args:
        directory: where they are kept.
        lock: of the folder; None: nobody else can be at work in it.
        writer: open as long as the run is at work.
    """

    def __init__(self, directory: Path, lock: Lock | None, writer: Writer) -> None:
        self.directory = directory
        self.lock = lock
        self.writer = writer

    def save(self, state: State, record: dict[str, Any], at_end: bool) -> None:
        """Copies a state, and begins to write it.

        Args:
            record: whose it is, and of which step.
            at_end: it is the segment's last, which other jobs know by its fingerprint.
        """
        self.writer.wait()  # or three states would be in memory
        self.writer.start(self._write, on_host(state), record, at_end)

    def _write(self, state: State, record: dict[str, Any], at_end: bool) -> None:
        if self.lock:
            self.lock.check()
        if at_end:
            record = record | {"fingerprint": fingerprint(state["state_dict"])}
        history = self.directory / HISTORY
        if history.exists():
            sync(history)  # its rows belong to the state
        last, previous = self.directory / CHECKPOINT, self.directory / PREVIOUS
        if last.exists():
            link_or_copy(last, previous)
        save_state(last, state, record)
