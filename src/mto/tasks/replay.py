"""``python -m mto replay FILE``: take the step again at which a training left the finite numbers.

The record and the state before it lie beside the training's progress (`mto.training.failure`). Nothing of the training
itself is changed: this one works in a folder of its own beside the record.
"""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from mto.training.failure import read


def main(argv: Sequence[str] | None = None) -> int:
    """Replays one step; see ``--help``. Returns 0 if it failed again.

    Raises:
        UserError: the file is no record of a failed step.
    """
    parser = argparse.ArgumentParser(
        prog="python -m mto replay",
        description="Train from the last good state to the step that failed, take it, and compare it with its record.",
    )
    parser.add_argument("record", type=Path, help="failure.json, as the failed training named it")
    parser.add_argument("--gpus", type=int, help="instead of the recorded number; 0: the CPU, whose digits differ")
    parser.add_argument("--workers", type=int, help="instead of the recorded number; alters no result")
    args = parser.parse_args(argv)
    record = read(args.record)
    had, out = record["hardware"], args.record.parent / "replay"
    gpus = had["gpus"] if args.gpus is None else args.gpus
    workers = had["workers"] if args.workers is None else args.workers
    shutil.rmtree(out, ignore_errors=True)
    options: dict[str, object] = {
        "--job": args.record,
        "--out": out,
        "--replay": args.record,
        "--gpus": gpus,
        "--workers": workers,
        "--processes": had["processes"],
        "--micro-batch": had["micro_batch"] or 0,
        "--deterministic": had["deterministic"],
    }
    words = [str(word) for option in options.items() for word in option]
    command = [sys.executable, "-m", "mto", record["task"], *words, "--compile" if had["compile"] else "--no-compile"]
    return subprocess.run(command, check=False).returncode
