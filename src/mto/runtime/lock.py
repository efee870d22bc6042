"""One writer per folder: a file that names who is at work there, and whose time of change is the owner's heartbeat.

Made for network file systems and jobs on several machines: the file appears by a hard link, which is atomic there, and
clocks are never compared. An owner is dead when its process is gone from this machine, or when a waiting copy saw no
heartbeat for `DEAD_AFTER` seconds. An owner that was thought dead and wakes up finds the file to be another's before it
writes again, and leaves.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from mto.errors import UserError

#: Who is at work in a folder.
NAME = "running.json"
BEAT = 5.0
#: Seconds. Network file systems may show a change as late as a minute.
DEAD_AFTER = 90.0


class Superseded(UserError):
    """Another copy took the folder over: this one must not write any more."""


class Lock:
    """Hold ``folder`` while this job works in it; use as a context manager.

    Args:
        folder: made if it is not there.
        on_beat: called with each heartbeat, from a thread of its own.
        patient: wait for another copy's end; else its presence is an error.

    Entering waits as long as another copy is at work, and says so once; ``MTO_LOCK=refuse`` makes that an error.
    """

    def __init__(self, folder: Path, on_beat: Callable[[], None] = lambda: None, *, patient: bool = True) -> None:
        self.path = folder / NAME
        self.on_beat = on_beat
        self.patient = patient and os.environ.get("MTO_LOCK") != "refuse"
        self.owner = _whoami()
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Lock:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._wait(self._take)
        self._thread = threading.Thread(target=self._keep_beating, name="heartbeat", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._end.set()
        if self._thread:
            self._thread.join()
        if self._is_ours():
            self.path.unlink(missing_ok=True)

    def check(self) -> None:
        """Checks, before each write, that the folder is still this job's; does nothing if the lock was not asked for.

        Raises:
            Superseded: the folder is another's by now.
        """
        if self._thread and not self._is_ours():
            other = _read(self.path)
            by = describe(other) if other else "someone who removed the lock"
            raise Superseded(f"{self.path.parent}: taken over by {by} while this copy stood still; it writes no more")

    # ------------------------------------------------------------------------------------------------------------------
    def _wait(self, attempt: Callable[[], bool]) -> None:
        seen: tuple[str, int] | None = None
        since = 0.0
        said = False
        while not attempt():
            owner = _read(self.path)
            if owner is None:  # gone this moment
                continue
            beat = (owner.get("token", ""), _time_of_change(self.path))
            if beat != seen:
                seen, since = beat, time.monotonic()
            if _is_gone(owner) or time.monotonic() - since > DEAD_AFTER:
                print(f"mto: {self.path.parent}: {describe(owner)} is dead; this copy takes over", flush=True)
                self._remove(owner)
                continue
            if not self.patient:
                raise UserError(f"{self.path.parent}: {describe(owner)} is at work here")
            if not said:
                print(f"mto: {self.path.parent}: {describe(owner)} is at work here; waiting for its end", flush=True)
                said = True
            time.sleep(min(1.0, DEAD_AFTER / 10))

    def _take(self) -> bool:
        """Lets the lock appear with its content, unless there is one; returns whether it did."""
        draft = self.path.with_name(f".{NAME}.{self.owner['token']}")
        draft.write_text(json.dumps(self.owner, indent=1), encoding="utf-8")
        try:
            os.link(draft, self.path)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            try:
                with self.path.open("x", encoding="utf-8") as file:
                    file.write(draft.read_text(encoding="utf-8"))
            except FileExistsError:
                return False
        finally:
            draft.unlink(missing_ok=True)
        return True

    def _remove(self, dead: dict[str, Any]) -> None:
        """Takes a dead owner's lock away, and nobody else's: of several that try, one moves it."""
        moved = self.path.with_name(f".{NAME}.{self.owner['token']}.dead")
        try:
            os.rename(self.path, moved)
        except FileNotFoundError:
            return
        taken = _read(moved)
        if taken and taken.get("token") != dead.get("token"):  # someone else took over in between: give it back
            with suppress(OSError):  # yet another has it by now: the one that was moved will notice before it writes
                os.link(moved, self.path)
        moved.unlink(missing_ok=True)

    def _is_ours(self) -> bool:
        owner = _read(self.path)
        return owner is not None and owner.get("token") == self.owner["token"]

    def _keep_beating(self) -> None:
        while not self._end.wait(BEAT):
            try:
                if self._is_ours():
                    os.utime(self.path)
                    self.on_beat()
            except OSError:
                continue  # a file system that is away for a while


def describe(owner: dict[str, Any]) -> str:
    """Returns an owner in words, such as ``Slurm job 4711 on node7 (pid 123)``."""
    job = f"Slurm job {owner['slurm_job']}" if owner.get("slurm_job") else "a process"
    return f"{job} on {owner.get('host', '?')} (pid {owner.get('pid', '?')})"


def _whoami() -> dict[str, Any]:
    return {
        "token": uuid.uuid4().hex,
        "host": socket.gethostname(),
        "machine": _machine(),
        "pid": os.getpid(),
        "began": _start_of(os.getpid()),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
    }


def _machine() -> str:
    """Returns what names this boot of this machine and its set of process ids: containers may share a host's name."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _start_of(pid: int) -> str | None:
    """Returns when a process began, in ticks since boot; None if there is none, or it is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def _is_gone(owner: dict[str, Any]) -> bool:
    if owner.get("machine") != _machine() or not Path("/proc/self/stat").exists():
        return False
    return _start_of(int(owner["pid"])) != owner.get("began")


def _read(path: Path) -> dict[str, Any] | None:
    """Returns the owner, or None if there is no lock.

    If it cannot be read the owner is empty, and taken for dead only once its heartbeat has stopped.
    """
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return owner if isinstance(owner, dict) else {}


def _time_of_change(path: Path) -> int:
    try:
        with path.open("rb") as file:  # opening asks a network file system's server
            return os.fstat(file.fileno()).st_mtime_ns
    except OSError:
        return 0
