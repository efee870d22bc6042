"""States written while training goes on: a copy in the host's memory, and a thread that takes it to the disk."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from torch import Tensor


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
        """Call ``write(*args)`` on the thread, once the write before it is done. Nothing may change ``args`` now."""
        self.wait()
        self._running = self._pool.submit(write, *args)

    def check(self) -> None:
        """Raise what ended the last write, if it has ended by an error."""
        if self._running and self._running.done():
            self.wait()

    def wait(self) -> None:
        """Until nothing is being written; raises what ended the last write."""
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
    """A copy of nested dicts, lists and tuples of tensors and plain values, with every tensor in the host's memory."""
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
