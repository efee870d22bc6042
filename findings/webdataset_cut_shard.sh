#!/usr/bin/env bash
# webdataset 1.0.2: a shard that ends between two members is read as if it were whole.
#
# Guess, written down first: a tar without its end (two blocks of zeros) is an error, or a warning at least.
# Seen: 3 of 5 samples are given, with no warning and no error.
# Hurt: whoever trains on shards after a copy that broke off: images are missing, epochs are shorter, nothing says so.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check webdataset==1.0.2 numpy==2.3.5
cd "$work"
"$work/venv/bin/python" - <<'PY'
import io
import tarfile

import webdataset

with tarfile.open("whole.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
    for number in range(5):
        member = tarfile.TarInfo(f"{number:04d}.cls")
        content = str(number).encode()
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
with tarfile.open("whole.tar") as tar:
    fourth = tar.getmembers()[3].offset
with open("whole.tar", "rb") as whole, open("cut.tar", "wb") as cut:
    cut.write(whole.read(fourth))

counts = [sum(1 for _ in webdataset.WebDataset(name, shardshuffle=False)) for name in ("whole.tar", "cut.tar")]
print("samples of the whole shard and of the cut one:", counts)
assert counts == [5, 3], counts
print("as found")
PY
