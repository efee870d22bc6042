"""What a job does with an image, and which jobs do the same. It needs no torch."""

from __future__ import annotations

import json
from typing import NamedTuple

from mto.config.job import Job

#: What no count and no rate depends on.
APART = (
    *("scale", "recipe", "run", "seed", "epoch", "epochs", "iterations", "code_version", "precision"),
    *("optim", "schedule", "log_interval", "eval_interval", "save_interval"),
)


class Work(NamedTuple):
    """What a job does with an image, counted on its own network.

    Attributes:
        train: floating-point operations for an image trained on, forward, backward and teacher.
        evaluate: for an image evaluated.
        trained: numbers that are trained.
        fixed: other numbers in a training state: teachers, running averages, frozen parts, buffers.
        encoder: numbers in encoder.safetensors; 0 where there is none.
        moved: of pre-training, bytes that operators other than products read and write for an image trained on, each
            tensor of an operator once. Weights are among them, so that only the difference of two jobs with one
            network means something: what MTO's operators move.
    """

    train: float
    evaluate: float
    trained: int
    fixed: int
    encoder: int
    moved: float = 0.0


def work_key(job: Job) -> str:
    """Returns what jobs that do the same with an image have in common: the network, the mask, the losses, the sizes."""
    plain = job.plain()
    data = {key: value for key, value in plain["data"].items() if key not in ("mean", "std", "root", "classes")}
    apart = (*APART, "method") if "encoder" in plain else APART  # of a job from scratch: whose first weights it has
    rest = {key: value for key, value in plain.items() if key not in apart}
    return json.dumps({**rest, "data": data}, sort_keys=True, separators=(",", ":"))
