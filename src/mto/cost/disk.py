"""What a run's files take on the disk, from the sizes of its networks. No torch here: a plan asks beforehand."""

from __future__ import annotations

from typing import Literal

#: Bytes of a parameter, and of each of AdamW's two moments: float32, whatever the precision of training.
FLOAT = 4
Stage = Literal["running", "kept", "pruned"]
#: Training states in a segment's folder, as (whole ones, weights alone).
STATES: dict[Stage, tuple[int, int]] = {"running": (2, 0), "kept": (1, 0), "pruned": (0, 1)}


def segment_bytes(encoder: int, trained: int, teacher: int = 0, stage: Stage = "kept") -> int:
    """Returns the bytes of one pre-training segment's folder, but for history and curves (megabytes at paper scale).

    A whole state has the trained parameters, their two moments and the teacher; a pruned one has no moments. A second
    name for a file (``progress/finished``, ``progress/last.pth``) takes no room where the file system has hard links.

    Args:
        encoder: parameters in encoder.safetensors.
        trained: parameters that are trained: the encoder's and what is beside it.
        teacher: parameters of the teacher, or 0.
        stage: "running": the newest state and the one before it, no encoder yet; "kept": finished, and a segment may
            continue it; "pruned": finished, and so is the segment after it.
    """
    whole, weights = STATES[stage]
    finished = 0 if stage == "running" else encoder
    return FLOAT * (finished + whole * (3 * trained + teacher) + weights * (trained + teacher))
