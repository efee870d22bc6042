#!/usr/bin/env bash
# safetensors 0.8.0: read by its NumPy side, a file with bfloat16 or float8 in it is a KeyError with the name of a type.
#
# Guess, written down first: since NumPy has no such type, an error that says so and names the tensor.
# Seen: KeyError: 'BF16'. Neither the tensor nor the reason is in it, and the other tensors of the file cannot be had either.
# Hurt: whoever opens a published checkpoint without torch: it looks as if a tensor of that name were missing.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check safetensors==0.8.0 numpy==2.3.5
"$work/venv/bin/python" - <<'PY'
import json
import struct

from safetensors.numpy import load


def file_of(kind: str, bytes_each: int) -> bytes:
    """A sound file: two tensors of two zeros, the second in float32."""
    size = 2 * bytes_each
    head = {"weight": {"dtype": kind, "shape": [2], "data_offsets": [0, size]}}
    head["bias"] = {"dtype": "F32", "shape": [2], "data_offsets": [size, size + 8]}
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + bytes(size + 8)


assert sorted(load(file_of("F16", 2))) == ["bias", "weight"]
for kind, size in (("BF16", 2), ("F8_E4M3", 1)):
    try:
        load(file_of(kind, size))
        said = "no error"
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    print(kind, "->", said)
    assert said == f"KeyError: '{kind}'", said
print("as found")
PY
