"""What a storage does for a moment is no fault of a file: it is read again, and only content that was read is judged.

Network file systems answer now and then that a handle is stale, that a server does not reply, that memory or file
descriptors are short. `again` is the one place that knows which errors pass. A job that still meets one after its last
pause ends as one that is worth another attempt, and advises nobody to remove anything.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from mto.errors import StorageError

Read = TypeVar("Read")

#: Seconds between two attempts to read.
PAUSES = (0.5, 2.0, 8.0, 20.0)
_NAMES = (
    "EIO ESTALE ETIMEDOUT EREMOTEIO ENOMEM ENOBUFS EMFILE ENFILE EAGAIN EBUSY EINTR ENOTCONN ECONNRESET ECONNREFUSED "
    "ECONNABORTED EHOSTDOWN EHOSTUNREACH ENETDOWN ENETUNREACH ENETRESET ENOLINK ECOMM EPROTO ESHUTDOWN"
)
PASSING = frozenset(getattr(errno, name) for name in _NAMES.split() if hasattr(errno, name))


def passing(error: BaseException) -> BaseException | None:
    """Returns what of an error and its causes says that the storage, or the memory, failed for a moment; else None.

    A library that reads may put an error of its own in its place: zipfile calls a file whose end it could not read no
    zip file.
    """
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        if isinstance(cause, MemoryError | StorageError) or (isinstance(cause, OSError) and cause.errno in PASSING):
            return cause
        seen.add(id(cause))
        cause = cause.__cause__ or cause.__context__
    return None


def again(read: Callable[[], Read], what: str | Path) -> Read:
    """Returns what ``read`` does, which is called again after each of `PAUSES` where the storage fails.

    Args:
        what: the file or folder, for the message.

    Raises:
        StorageError: it failed each time. Any other error is raised as it is.
    """
    for pause in (*PAUSES, None):
        try:
            return read()
        except StorageError:
            raise
        except Exception as error:
            cause = passing(error)
            if cause is None:
                raise
            if pause is None:
                words = getattr(cause, "strerror", None) or str(cause) or "out of memory"
                raise StorageError(f"{what}: {words.lower()}, {len(PAUSES) + 1} times in a row") from error
        time.sleep(pause)
    raise AssertionError("the last attempt returns or raises")


def exists(path: str | Path) -> bool:
    """Returns whether something is there. Python's own functions may take a server's silence for a no."""
    return _mode(path) is not None


def is_folder(path: str | Path) -> bool:
    """Returns whether a folder is there, as `exists` does."""
    mode = _mode(path)
    return mode is not None and stat.S_ISDIR(mode)


def _mode(path: str | Path) -> int | None:
    def look() -> int | None:
        try:
            return os.stat(path).st_mode
        except (FileNotFoundError, NotADirectoryError):
            return None

    return again(look, path)
