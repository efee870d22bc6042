"""Which state a run goes on from, and whether that state is its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mto.errors import UserError
from mto.storage import exists
from mto.training.checkpoint import Damaged, State, load_state, read_record

#: The newest state of a run, and the one before it.
CHECKPOINT = "last.pth"
PREVIOUS = "previous.pth"
#: Of a job's data: where the files lie, which is no part of the run.
PLACES = ("root", "listing", "cache_folder")


class WarmStart(NamedTuple):
    """Where a run leaves another, whose state it goes on from.

    Attributes:
        job: of the other run, as its states have it.
        step: the optimiser step at which it does.
    """

    job: dict[str, Any]
    step: int

    def check(self, path: Path, state: State) -> None:
        """Refuses the other run's state at another step.

        Raises:
            UserError: it is not of the step.
        """
        if (found := state["meta"]["step"]) != self.step:
            raise UserError(
                f"{path}: of step {found} of {self.job['run']}, but this run leaves it at step {self.step} "
                "(mto.starts_at in config.yaml)"
            )


def describe_run(
    job: dict[str, Any], *, dataset_size: int, batch_size: int, steps_per_epoch: int | None, total_steps: int
) -> dict[str, Any]:
    """Returns what a state says of its run: only a run of which all of this is true may continue it."""
    sizes = {"dataset_size": dataset_size, "batch_size": batch_size}
    return {"job": _without_places(job), **sizes, "steps_per_epoch": steps_per_epoch, "total_steps": total_steps}


def _without_places(job: dict[str, Any]) -> dict[str, Any]:
    return {**job, "data": {k: v for k, v in job.get("data", {}).items() if k not in PLACES}}


def find_state(
    directory: Path,
    inherited: Path | None,
    record: dict[str, Any],
    device: torch.device | str = "cpu",
    quiet: bool = False,
    start: WarmStart | None = None,
) -> State | None:
    """Returns the state to go on from: the newest whole one in ``directory``, else the one ``inherited``, if any.

    None stands for the start of the run: of an ``inherited`` state that was pruned only the weights are left. The
    numbers are the same, since a segment that continues another equals an unbroken run.

    Args:
        record: the run, of `describe_run`.
        device: for the tensors.
        quiet: do not say that a state was passed over.
        start: of a run that goes on from another's state; then ``inherited`` may be of that run.

    Raises:
        UserError: it is of another run, dataset or schedule; or damaged, with no older one.
    """
    kept = [path for path in (directory / CHECKPOINT, directory / PREVIOUS) if exists(path)]
    problems = []
    for path in kept:
        try:
            state = load_state(path, device)
        except Damaged as error:
            problems.append(str(error))
            continue
        check_state(path, state, record, f"remove {directory} to start this job over")
        for problem in [] if quiet else problems:
            print(f"mto: {problem}; going on from {path}, step {state['meta']['step']}", flush=True)
        return state
    if problems:
        raise UserError(f"{problems[0]}, and there is no older state; remove {directory} to start this job over")
    if inherited is None:
        return None
    remedy = f"make it again: snakemake --forcerun {inherited}"
    try:
        state = load_state(inherited, device)
    except Damaged as error:
        raise UserError(f"{error}; {remedy}") from error
    if start is not None and state["meta"].get("job", {}).get("run") == start.job["run"]:
        check_state(inherited, state, record | {"job": _without_places(start.job)}, remedy)
        start.check(inherited, state)
    else:
        check_state(inherited, state, record, remedy)
    if "optimizer" in state:
        return state
    if not quiet:
        print(
            f"mto: {inherited}: only weights are left of this state, since the segment after it had finished; training "
            f"again from the start instead of step {state['meta']['step']}, which gives the same numbers",
            flush=True,
        )
    return None


def first_step(inherited: Path | None) -> int:
    """Returns the step after which a segment's own history begins, wherever its training does."""
    if inherited is not None:
        with suppress(Damaged):  # whoever needs more than that of it says so
            return read_record(inherited).get("step", 0)
    return 0


def check_state(path: Path, state: State, record: dict[str, Any], remedy: str) -> None:
    """Refuses a state that another run left.

    Raises:
        UserError: one line that says what differs.
    """
    found = state["meta"]
    if "step" not in found:
        raise UserError(f"{path}: no training state, nothing can be continued from it; {remedy}")
    if differences := list(differing(found["job"], record["job"])):
        raise UserError(f"{path}: of another job ({', '.join(differences[:3])}); {remedy}")
    for key, what in (
        ("dataset_size", "training images"),
        ("batch_size", "images a step"),
        ("steps_per_epoch", "steps an epoch"),
        ("total_steps", "steps in the whole schedule"),
    ):
        if found[key] != record[key]:
            raise UserError(f"{path}: made with {found[key]} {what}, but there are {record[key]} now; {remedy}")


def differing(there: Any, here: Any, name: str = "") -> Iterator[str]:
    """Yields ``optim.lr 0.1 there, 0.2 here`` for each value of two nested mappings that differs."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in sorted(there.keys() | here.keys()):
            yield from differing(there.get(key), here.get(key), f"{name}.{key}" if name else key)
    elif there != here:
        yield f"{name} {there} there, {here} here"
