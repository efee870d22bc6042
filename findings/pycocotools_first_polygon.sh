#!/usr/bin/env bash
# pycocotools 2.0.11: what a list of polygons is taken for depends on the first polygon's length alone.
#
# Guess, written down first: the polygons of an object are read one by one, so that their order does not matter, and one of
# two points (four numbers, as some label tools leave it) has no area.
# Seen: [good, short] gives areas [45, 0]. [short, good] is a TypeError about a bounding box, since four numbers in front
#   make all of them boxes.
# Hurt: whoever evaluates relabelled COCO. The error comes with the first evaluation, which is after the training.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pycocotools==2.0.11 numpy==2.3.5
"$work/venv/bin/python" - <<'PY'
from pycocotools import mask

good, short = [20, 20, 30, 20, 30, 30], [3, 3, 9, 9]
areas = mask.area(mask.frPyObjects([good, short], 48, 48)).tolist()
print("good first:", areas)
try:
    mask.frPyObjects([short, good], 48, 48)
    said = "no error"
except TypeError as error:
    said = f"TypeError: {error}"
print("short first:", said)
assert areas == [45, 0], areas
assert "bb" in said, said
print("as found")
PY
