#!/usr/bin/env bash
# Python 3.11.7, zipfile: a disk that fails to read is told as "File is not a zip file".
#
# Guess, written down first: a read that fails with EIO is an OSError, for ZipFile and for is_zipfile, as it is for tarfile.
# Seen: ZipFile raises BadZipFile, and is_zipfile answers False. tarfile lets the OSError through.
# Hurt: whoever reads checkpoints (torch.save writes zip files) or .npz from a network file system: a failure of a moment looks
#   like a damaged file, and a program that removes damaged files removes a sound one.
set -euo pipefail
python3 - <<'PY'
import errno
import io
import os
import sys
import tarfile
import zipfile


class Failing(io.BytesIO):
    """A sound file on a disk that cannot be read at the moment."""

    def read(self, *_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def what_comes(call, content):
    try:
        return repr(call(Failing(content)))
    except Exception as error:
        return f"{type(error).__name__}: {error}"


packed, bundled = io.BytesIO(), io.BytesIO()
with zipfile.ZipFile(packed, "w") as archive:
    archive.writestr("member", "content")
with tarfile.open(fileobj=bundled, mode="w") as archive:
    archive.addfile(tarfile.TarInfo("member"))
assert zipfile.is_zipfile(packed)

seen = {
    "ZipFile": what_comes(zipfile.ZipFile, packed.getvalue()),
    "is_zipfile": what_comes(zipfile.is_zipfile, packed.getvalue()),
    "tarfile.open": what_comes(lambda file: tarfile.open(fileobj=file), bundled.getvalue()),
}
print(sys.version.split()[0], seen)
assert seen["ZipFile"].startswith("BadZipFile"), seen
assert seen["is_zipfile"] == "False", seen
assert seen["tarfile.open"].startswith("OSError"), seen
print("as found")
PY
