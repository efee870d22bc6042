#!/usr/bin/env bash
# pyarrow 23: one row of a parquet file costs the bytes of its whole row group.
#
# Guess, written down first: with pages and an index in the file, a reader that asks for one row reads about that row.
# Seen: reading row 7 of a group of 100 images of 10 kB each reads about a megabyte, a hundred rows for one.
# Hurt: whoever shuffles ImageNet as parquet, a hundred rows a group: each image costs a hundred.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pyarrow==23.0.0
cd "$work"
"$work/venv/bin/python" - <<'PY'
import io
import random

import pyarrow
import pyarrow.parquet as parquet

image = 10_000
rows = [random.Random(number).randbytes(image) for number in range(400)]
parquet.write_table(
    pyarrow.table({"image": rows}), "images.parquet", row_group_size=100, write_page_index=True,
    data_page_size=image, use_dictionary=False, compression="none",
)


class Counted(io.FileIO):
    """A file that counts what is read of it."""

    total = 0

    def readinto(self, buffer):
        got = super().readinto(buffer)
        Counted.total += got
        return got

    def read(self, size=-1):
        got = super().read(size)
        Counted.total += len(got)
        return got


with Counted("images.parquet") as file:
    opened = parquet.ParquetFile(file)
    opened.metadata  # the footer is read by now
    before = Counted.total
    row = opened.read_row_group(0, columns=["image"]).slice(7, 1)
    cost = Counted.total - before
print(f"bytes of the row: {len(row['image'][0].as_py())}, bytes read: {cost}")
assert cost > 90 * image, cost
print("as found")
PY
