"""Training states on disk: one file that says whose it is, is checked when written and read, and never runs code.

A state is torch's own zip file, whose members carry a CRC-32 each, and one member more, ``run.json``: the job, the
size of the dataset, the length of the schedule, the step. ``unzip -p state.pth archive/run.json`` shows it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mto.errors import UserError
from mto.files import replacing
from mto.storage import again, exists, passing

RECORD = "archive/run.json"  # torch wants all members in one folder
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, LookupError, ValueError, NotImplementedError, RuntimeError, OSError)

State = dict[str, Any]


class Damaged(UserError):
    """The file is not what was written."""


def save_state(path: Path, content: State, record: dict[str, Any], changed_ns: int | None = None) -> None:
    """Writes ``content`` (tensors and plain values) with its ``record``.

    ``path`` changes only once the file is whole.

    Args:
        changed_ns: the file's time of change, if it is not to be now.

    Raises:
        UserError: the disk is full.
        Damaged: what was written reads back otherwise.
    """
    with replacing(path) as temporary:
        with temporary.open("wb") as file:
            torch.save(content, file)
        with zipfile.ZipFile(temporary, "a") as archive:
            archive.writestr(zipfile.ZipInfo(RECORD), json.dumps(record, sort_keys=True))
        verify(temporary)
        if changed_ns is not None:
            os.utime(temporary, ns=(changed_ns, changed_ns))


def keep_weights_alone(path: Path) -> None:
    """Drops from a state what only training on needs: the optimiser's moments, the open averages.

    Its record and its time of change stay: to Snakemake, and to whoever compares fingerprints, it is the same file.

    Raises:
        UserError: the file is damaged, or the disk is full; the state is what it was.
    """
    changed = path.stat().st_mtime_ns
    state = load_state(path)
    if "optimizer" in state:
        save_state(path, {"state_dict": state["state_dict"]}, state["meta"], changed)


def load_state(path: Path, device: torch.device | str = "cpu") -> State:
    """Returns what was saved, on ``device``, and under ``meta`` its record.

    The record is empty in a file that is not of this module.

    Raises:
        Damaged: a checksum is wrong, or the file is cut short.
        UserError: it would run code.
    """
    verify(path)

    def read() -> Any:
        with path.open("rb") as file:  # given a name, torch hides what the storage says
            return torch.load(file, map_location=device, weights_only=True)

    try:
        with _damage(path):
            state = again(read, path)
    except pickle.UnpicklingError:  # torch's own words advise to load it with weights_only=False
        raise UserError(f"{path}: holds more than tensors and plain values; nothing of it was run") from None
    if not isinstance(state, dict):
        raise UserError(f"{path}: not a training state")
    return state | {"meta": read_record(path)}


def read_record(path: Path) -> dict[str, Any]:
    """Returns the state's ``run.json``, without reading the tensors; empty if it has none."""

    def read() -> dict[str, Any]:
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read(RECORD)) if RECORD in archive.namelist() else {}

    with _damage(path):
        return again(read, path)


def verify(path: Path) -> None:
    """Reads the file once and compares every member with its CRC-32.

    Raises:
        Damaged: one differs, or the file is no whole state.
    """
    if not exists(path):
        raise UserError(f"{path}: no such file")
    guard_size(path)

    def read() -> str | None:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip()

    with _damage(path):
        broken = again(read, path)
    if broken is not None:
        raise Damaged(f"{path}: damaged (the checksum of {broken} is wrong)")


def guard_size(path: Path) -> None:
    """Refuses a zip file that unpacks to more than it holds: torch compresses nothing.

    Raises:
        Damaged: it is such a file.
    """

    def read() -> int:
        try:
            with zipfile.ZipFile(path) as archive:
                return sum(member.file_size for member in archive.infolist())
        except zipfile.BadZipFile as error:
            if passing(error):
                raise
            return 0  # a file in torch's old format

    with _damage(path):
        unpacked = again(read, path)
    size = again(path.stat, path).st_size
    if unpacked > size:
        raise Damaged(f"{path}: its {size:,} bytes unpack to {unpacked:,}, which no file of weights does; not read")


def fingerprint(tensors: dict[str, Tensor]) -> str:
    """Returns a digest of the tensors' names, shapes, types and bits."""
    total = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        total.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        total.update(value.reshape(-1).view(torch.uint8).numpy().data if value.numel() else b"")
    return total.hexdigest()


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Turns errors of the content into `Damaged`; those of the storage or of permissions stay what they are."""
    try:
        yield
    except DAMAGE as error:
        if passing(error) or (isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)):
            raise
        raise Damaged(f"{path}: damaged ({_first_line(error)})") from error


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
