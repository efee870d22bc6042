"""The state that a finished segment continued from is continued by nothing else: its weights are kept, and no more.

A run's chain is a line: `Study.previous` gives each segment one before it, and each state one after it. The
weights stay, for the heterogeneity analysis, now or later, and for another look at that epoch.
"""

from __future__ import annotations

from pathlib import Path

from mto.errors import StorageError, UserError
from mto.files import link_or_copy
from mto.runtime.lock import Lock

#: In the progress folder: the outputs of an attempt that reached its end, by hard link.
FINISHED = "finished"


def prune(state: Path, fingerprint: str) -> None:
    """Reduces the state.pth of the segment before to its weights, if it is the one that was continued.

    Done again after an interruption, it completes what is left to do. Where it cannot be done (someone is at work
    there, the disk is full, the folder is not ours) the state stays whole, and a line says why: what called this has
    its result already.

    Args:
        state: a declared output of that segment; Snakemake sees the same time of change afterwards.
        fingerprint: of the state that was continued.
    """
    from mto.training.checkpoint import keep_weights_alone, read_record

    try:
        with Lock(state.parent, patient=False):
            if read_record(state).get("fingerprint") != fingerprint:
                return  # made anew meanwhile, by another job maybe
            keep_weights_alone(state)
            twin = state.parent / "progress" / FINISHED / state.name
            if twin.exists():
                link_or_copy(state, twin)  # the second name held the whole file
    except (UserError, StorageError, OSError) as error:
        print(f"mto: {state}: kept whole, though nothing continues it any more ({error})", flush=True)
