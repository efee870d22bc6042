"""``python -m mto emulate``: any other command of ``python -m mto`` on GPUs that are not there.

python -m mto emulate --values pretrain --job JOB --out DIR --gpus 1         a whole job, numbers and all
python -m mto emulate --cards 2 --card-gb 24 --compute-capability 8.6 ...    two GPUs of 24 GB, as an RTX 3090

Without --values operators compute nothing, and what remains true is the memory, the kernels and the launches: enough
for a step of the bench, not for a whole job, which looks at its losses. With --values each operator runs on the CPU,
and nothing is compiled. Results name the emulated GPU as their device.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from mto.emulate.build import library
from mto.emulate.card import CHIPS, Card


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say which card is emulated; `asked` reads them."""
    parser.add_argument("--card-gb", type=int, default=80, metavar="GB", help="its memory, in GiB (default 80)")
    parser.add_argument(
        "--compute-capability",
        default="9.0",
        metavar="X.Y",
        help=f"{', '.join(f'{key}: {chip.example}' for key, chip in CHIPS.items())} (default 9.0)",
    )


def asked(args: argparse.Namespace, *, count: int = 1, values: bool = False) -> Card:
    """Returns the card of the options.

    Raises:
        UserError: no such compute capability, or a size that is none.
    """
    return Card(args.compute_capability, args.card_gb, count, values)


def again(command: Sequence[str], card: Card) -> NoReturn:
    """Starts ``python -m mto COMMAND`` in place of this process, with that card.

    Raises:
        UserError: it cannot be emulated here.
    """
    library()
    os.execve(sys.executable, [sys.executable, "-m", "mto", *command], os.environ | card.environment())


def main(argv: Sequence[str] | None = None) -> None:
    """Starts the command anew in an environment with the card; does not return.

    Raises:
        UserError: no such card, or it cannot be emulated here.
    """
    parser = argparse.ArgumentParser(
        prog="python -m mto emulate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    parser.add_argument("--cards", type=int, default=1, metavar="N", help="GPUs of the machine (default 1)")
    parser.add_argument("--values", action="store_true", help="operators compute, on the CPU")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="of python -m mto")
    args = parser.parse_args(argv)
    if not args.command:
        parser.error("which command? For example: python -m mto emulate bench --memory")
    again(args.command, asked(args, count=args.cards, values=args.values))
