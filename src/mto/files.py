"""Files that appear whole: written beside their place, flushed to the disk, renamed.

A reader never sees half a file, and neither does a machine that lost its power. All of them get the user's own umask.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mto.errors import UserError
from mto.storage import again


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path that becomes ``path`` when the block ends well, and goes away when it does not.

    Raises:
        UserError: the disk, or the user's share of it, is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)  # a full disk must not stay full of it
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"{path}: {error.strerror}; free some space and run again") from error
        raise


def sync(path: Path) -> None:
    """Waits until the file (or the folder's list of names) is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems cannot sync a folder
            raise
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Returns the file's value; None if there is no such file.

    Raises:
        UserError: it is not JSON.
        StorageError: see `mto.storage`.
    """
    try:
        return json.loads(again(path.read_bytes, path))
    except FileNotFoundError:
        return None
    except ValueError as error:  # JSONDecodeError, UnicodeDecodeError
        raise UserError(f"{path}: damaged, not JSON ({error}); remove it and run again") from error


def json_object(given: str, option: str) -> dict[str, Any]:
    """Returns the object that a command-line option gives: as JSON, or as the path of a file of it.

    Raises:
        UserError: no such file, or no JSON object.
    """
    shown = option
    if not given.lstrip().startswith(("{", "[")):
        shown = f"{option} {given}"
        try:
            given = again(Path(given).read_bytes, given).decode()
        except (OSError, ValueError) as error:  # UnicodeDecodeError
            what = getattr(error, "strerror", None) or "not text"
            hint = """give a file of JSON, or JSON itself, as '{"scale": "paper"}'"""
            raise UserError(f"{shown}: {what}; {hint}") from error
    try:
        value = json.loads(given)
    except ValueError as error:
        raise UserError(f"{shown}: not JSON ({error})") from error
    if not isinstance(value, dict):
        raise UserError(f"{shown}: must be a JSON object, not {type(value).__name__}")
    return value


def link_or_copy(source: Path, target: Path) -> None:
    """Makes ``target`` hold the file ``source``, at once and without a second copy where the file system can."""
    if target.exists() and target.samefile(source):
        return  # renaming one name of a file to another does nothing, and would leave the temporary one
    with replacing(target) as temporary:
        temporary.unlink(missing_ok=True)
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


def digest(path: Path) -> str:
    """Returns a hash of the content: the same bytes made anew are the same file."""

    def read() -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "blake2b").hexdigest()[:32]

    return again(read, path)
