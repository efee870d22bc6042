"""Which GPU is emulated, and how a process is told; imports no torch."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import NamedTuple

from mto.errors import UserError

#: Of a process that is to run on emulated GPUs: `Card.told`.
VARIABLE = "MTO_EMULATE"


class Chip(NamedTuple):
    """A chip of a compute capability, as NVIDIA's CUDA programming guide and data sheets have it; memory in bytes."""

    multiprocessors: int
    shared_of_a_block: int
    shared: int
    threads: int
    l2: int
    example: str


#: compute capability -> its best-known chip
CHIPS = {
    "7.5": Chip(40, 65536, 65536, 1024, 4 << 20, "T4"),
    "8.0": Chip(108, 166912, 167936, 2048, 40 << 20, "A100"),
    "8.6": Chip(82, 101376, 102400, 1536, 6 << 20, "RTX 3090"),
    "8.9": Chip(128, 101376, 102400, 1536, 72 << 20, "RTX 4090"),
    "9.0": Chip(132, 232448, 233472, 2048, 50 << 20, "H100"),
}


@dataclass(frozen=True)
class Card:
    """One or several equal GPUs.

    Attributes:
        compute_capability: of `CHIPS`.
        gigabytes: memory of each, in GiB.
        count: GPUs of the machine.
        values: whether operators compute, on the CPU; without it only sizes and launches mean something.
    """

    compute_capability: str = "9.0"
    gigabytes: int = 80
    count: int = 1
    values: bool = False

    def __post_init__(self) -> None:
        if self.compute_capability not in CHIPS:
            known = ", ".join(f"{key} ({chip.example})" for key, chip in CHIPS.items())
            raise UserError(f"--compute-capability {self.compute_capability}: not known; there are {known}")
        if self.gigabytes < 1:
            raise UserError(f"--card-gb {self.gigabytes}: must be 1 or more")
        if self.count < 1:
            raise UserError(f"--cards {self.count}: must be 1 or more")

    @property
    def chip(self) -> Chip:
        return CHIPS[self.compute_capability]

    def environment(self) -> dict[str, str]:
        """Returns the variables of a new process that is to have this card."""
        return {VARIABLE: json.dumps(asdict(self))}

    @classmethod
    def asked(cls, environment: Mapping[str, str] = os.environ) -> Card | None:
        """Returns the card that this process is to have; None where it has the machine's own."""
        told = environment.get(VARIABLE)
        return cls(**json.loads(told)) if told else None
