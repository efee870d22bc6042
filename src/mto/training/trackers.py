"""Where a training's curves go, beside its history.jsonl: TensorBoard's files, trackio, wandb.

`log` in config.yaml chooses. It alters no result and is in no job, so that another choice runs nothing again. A curve
is named by the identity of what is trained, and so goes on over attempts and over the segments of a pre-training.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from mto.errors import UserError
from mto.names import TRACKERS, Step
from mto.training.startup import complete

#: Names the trackers, with commas between them; set by the Snakefile from config.yaml.
VARIABLE = "MTO_LOG"
#: The tracker that this repository's own environment has.
DEFAULT = "tensorboard"

Job = Mapping[str, Any]


class Tracker(Protocol):
    """One place for curves."""

    def add(self, step: int, scalars: dict[str, float]) -> None:
        """Adds a point to each curve."""

    def close(self) -> None:
        """Writes what waits to be written."""


def asked() -> list[str]:
    """Returns the names of the trackers that this process is to use.

    Raises:
        UserError: one is unknown, or not installed.
    """
    names = [name for name in os.environ.get(VARIABLE, DEFAULT).split(",") if name]
    refuse(names)
    return names


def refuse(names: list[str]) -> None:
    """Raises a mistake of `log` in one line, before anything trains.

    Raises:
        UserError: a tracker is unknown, or not installed.
    """
    if unknown := [name for name in names if name not in TRACKERS]:
        raise UserError(f"log: no such tracker: {', '.join(unknown)} (there are {', '.join(TRACKERS)})")
    if missing := [name for name in names if find_spec(name) is None]:
        extras = ",".join(name for name in missing if name != DEFAULT) or "study"
        raise UserError(
            f"log: {', '.join(missing)} is not installed: pip install '.[{extras}]', or leave it out of log"
        )


def settings(names: list[str], results: Path) -> dict[str, str]:
    """Returns the environment of jobs that use these trackers; what is set in it already stays.

    Args:
        results: the folder of the scale, which has a store for each tracker.
    """
    places: dict[str, dict[str, str]] = {
        "trackio": {"TRACKIO_DIR": str(results / "trackio")},
        "wandb": {"WANDB_DIR": str(results), "WANDB_MODE": "offline"},
    }
    own = {key: value for name in names for key, value in places.get(name, {}).items()}
    return {VARIABLE: ",".join(names)} | {key: os.environ.get(key, value) for key, value in own.items()}


def identity(job: Job, directory: Path) -> str:
    """Returns the name of a curve: `pretrain-mae-vitb-mto-seed0`, or `finetune-mae-vitb-seed0-epoch0800`.

    The segments of a pre-training are one curve. A pilot's is one of its own, which its folder tells.

    Args:
        directory: of the training's progress, in that of its step.
    """
    try:
        kind = Step.at(directory.absolute().parent).task
    except ValueError:
        kind = job.get("task", "train")
    parts = [kind, job.get("run", directory.parent.name), f"seed{job['seed']}"]
    if kind != "pretrain" and job.get("epoch") is not None:
        parts.append(f"epoch{job['epoch']:04d}")
    return "-".join(parts)


class Trackio:
    """A run of trackio, in the local store that TRACKIO_DIR names."""

    def __init__(self, job: Job, directory: Path) -> None:
        import trackio

        project, name = f"mto-{job.get('scale', 'own')}", identity(job, directory)
        hardware = {"auto_log_gpu": False, "auto_log_cpu": False}
        self._run = trackio.init(project, name=name, resume="allow", config=dict(job), embed=False, **hardware)

    def add(self, step: int, scalars: dict[str, float]) -> None:
        """Adds a point to each curve."""
        self._run.log(scalars, step=step)

    def close(self) -> None:
        """Writes what waits to be written."""
        self._run.finish()


class Wandb:
    """A run of wandb, in files below WANDB_DIR unless WANDB_MODE says otherwise: `wandb sync` sends them."""

    def __init__(self, job: Job, directory: Path) -> None:
        import wandb

        project, name = f"mto-{job.get('scale', 'own')}", identity(job, directory)
        mode: Any = os.environ.get("WANDB_MODE", "offline")
        self._run = wandb.init(project=project, id=name, name=name, resume="allow", config=dict(job), mode=mode)

    def add(self, step: int, scalars: dict[str, float]) -> None:
        """Adds a point to each curve."""
        self._run.log(scalars, step=step)

    def close(self) -> None:
        """Writes what waits to be written."""
        self._run.finish()


class Curves:
    """All trackers of one training.

    A tracker that fails, as for want of a disk, is left out from there on with one line: no training ends by it.

    Args:
        names: of the trackers.
        directory: of the training's progress.
        first_step: of the first point.
    """

    def __init__(self, names: list[str], job: Job, directory: Path, first_step: int) -> None:
        self._open: dict[str, Tracker] = {}
        for name in names:
            self._guarded(name, lambda name=name: self._open.update({name: build(name, job, directory, first_step)}))

    def add(self, step: int, scalars: dict[str, float], known: bool) -> None:
        """Adds a point to each curve.

        Args:
            known: an earlier attempt, which was killed after it, has added this very point. TensorBoard hides what is
                there from the first step of a file on, so that it gets the point again; the others keep what they have.
        """
        for name, tracker in list(self._open.items()):
            if name == DEFAULT or not known:
                self._guarded(name, lambda tracker=tracker: tracker.add(step, scalars))

    def close(self) -> None:
        """Writes what waits to be written."""
        for name, tracker in list(self._open.items()):
            self._guarded(name, tracker.close)
        self._open = {}

    def _guarded(self, name: str, action: Any) -> None:
        try:
            action()
        except Exception as error:
            self._open.pop(name, None)
            why = next(iter(str(error).splitlines()), "") or type(error).__name__
            print(f"mto: log: {name}: {why}; its curves end here, and history.jsonl goes on", flush=True)


def build(name: str, job: Job, directory: Path, first_step: int) -> Tracker:
    """Opens a tracker."""
    if name == "tensorboard":
        from mto.training.scalars import CurveWriter

        return CurveWriter(directory / "tensorboard", first_step)
    complete()  # both ask for what a small job starts without
    return Trackio(job, directory) if name == "trackio" else Wandb(job, directory)
