"""encoder.safetensors: always the same bytes for the same weights, with a checksum that is compared on reading."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from mto.errors import UserError
from mto.files import replacing
from mto.storage import again, passing

if TYPE_CHECKING:
    from torch import Tensor

CHECKSUM = "blake2b"


def save_weights(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Writes ``tensors`` as a safetensors file whose metadata are ``metadata`` and a checksum, in the order of names.

    safetensors' own writer leaves that order to chance and closes the file to the user's group.
    """
    from safetensors.torch import save

    content = save(tensors, {"format": "pt"})
    length = int.from_bytes(content[:8], "little")
    header, body = json.loads(content[8 : 8 + length]), memoryview(content)[8 + length :]
    metadata = metadata | {"format": "pt", CHECKSUM: _checksum(body)}
    header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of 8 bytes
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.write(body)


def load_weights(path: Path) -> dict[str, Tensor]:
    """Returns the tensors of a safetensors file; one without a checksum, from elsewhere, is taken as it is.

    Raises:
        UserError: no safetensors file, or its tensors are not those that were written.
    """
    from safetensors.torch import load

    content = again(path.read_bytes, path)
    try:
        tensors = load(content)
        length = int.from_bytes(content[:8], "little")
        expected = json.loads(content[8 : 8 + length]).get("__metadata__", {}).get(CHECKSUM)
    except Exception as error:  # safetensors has an exception type of its own for each kind of damage
        if passing(error):
            raise
        raise UserError(f"{path}: not a safetensors file ({error}); make it again") from error
    if expected is not None and expected != _checksum(memoryview(content)[8 + length :]):
        raise UserError(f"{path}: damaged (its checksum is wrong); make it again: snakemake --forcerun {path}")
    return tensors


def metadata(path: Path) -> dict[str, str]:
    """Returns what a whole safetensors file says of itself; nothing where it says nothing."""

    def read() -> bytes:
        with path.open("rb") as file:
            return file.read(int.from_bytes(file.read(8), "little"))

    return json.loads(again(read, path)).get("__metadata__", {})


def _checksum(body: memoryview) -> str:
    return hashlib.blake2b(body, digest_size=16).hexdigest()
