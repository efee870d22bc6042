"""What a run leaves that met a loss or a gradient of no finite number, and how that step is taken again.

Beside the run's states comes a folder `failed`: `failure.json` says which step it was, on which images, from which
seeds and on what hardware; `before.pth` is the last state that was good. `python -m mto replay FILE` trains from that
state to the step, keeps the state right before it in `before.pth`, so that a second replay is one step long, and takes
the step. Images and noise are functions of seed, epoch and step: on the same device the step is the same to the bit.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mto.data.device.decode import batches
from mto.data.rng import seed_of
from mto.errors import UserError
from mto.files import link_or_copy, read_json, write_json
from mto.storage import exists
from mto.training.checkpoint import save_state
from mto.training.distributed import mean
from mto.training.resume import CHECKPOINT
from mto.training.writer import on_host

Loop = Any  # `mto.training.loop.Loop`, which imports this module

FOLDER, RECORD, BEFORE = "failed", "failure.json", "before.pth"
#: What a record says of the machine.
HARDWARE = ("gpus", "workers", "processes", "micro_batch", "deterministic", "compile")


class Trace:
    """Remembers on the device the first pass that was not finite, so that no step waits for it.

    Attributes:
        names: of the terms: what a pass logs whose name begins with "loss", in the first pass's order.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self._first: Tensor | None = None  # step, pass, the terms, the gradient's norm; step -1: there was none

    def note(self, step: int, number: int, scalars: dict[str, Tensor]) -> None:
        """Takes a pass's scalars.

        Args:
            step: optimiser steps done before it.
            number: of the pass in its step, from 1.
        """
        if "loss" not in scalars:
            return
        if not self.names:
            self.names = [name for name, value in scalars.items() if name.startswith("loss") and value.numel() == 1]
        loss = scalars["loss"].detach().double().reshape(())
        none = torch.full_like(loss, math.nan)
        terms = [scalars[name].detach().double().reshape(()) if name in scalars else none for name in self.names]
        self._keep(step, number, [*terms, none], loss)

    def note_norm(self, step: int, norm: Tensor) -> None:
        """Takes the gradient's norm after a step's last pass; not that of a scaled loss, which may overflow."""
        norm = norm.detach().double().reshape(())
        self._keep(step, 0, [*[torch.full_like(norm, math.nan)] * len(self.names), norm], norm)

    def _keep(self, step: int, number: int, values: list[Tensor], judged: Tensor) -> None:
        now = torch.stack([torch.full_like(judged, step), torch.full_like(judged, number), *values])
        if self._first is None:
            self._first = torch.full_like(now, -1.0)
        self._first = torch.where(judged.isfinite() | (self._first[0] >= 0), self._first, now)

    def read(self) -> dict[str, Any] | None:
        """Returns the first such pass: its `step`, its number there as `pass`, and its `terms`; None if there was none.

        Where the losses were finite and the gradient was not, `pass` is 0 and the only term is `grad_norm`. Values are
        text, since JSON has no NaN.
        """
        found = [] if self._first is None else self._first.tolist()
        if not found or found[0] < 0:
            return None
        step, number, *values = found
        terms = dict(zip(self.names, values, strict=False)) if number else {"grad_norm": values[-1]}
        return {"step": int(step), "pass": int(number), "terms": {name: repr(value) for name, value in terms.items()}}


# ------------------------------------------------------------------------------------------------------------- keeping
def keep(loop: Loop, reason: str) -> str | None:
    """Writes down what it takes to meet a failure again; returns the command that does, None of a failure in a replay.

    Args:
        reason: the line that the run ends with.
    """
    work, hardware = loop.work, loop.hardware
    if work.replay:
        return None
    file = work.progress / FOLDER / RECORD
    if hardware.rank == 0:
        first = loop.trace.read()
        step = first["step"] if first else max(loop.step - 1, 0)
        before = file.with_name(BEFORE)
        before.unlink(missing_ok=True)
        if exists(work.progress / CHECKPOINT):
            link_or_copy(work.progress / CHECKPOINT, before)
        record = {
            "task": work.name,
            "job": work.job.plain(),
            "inputs": {name: str(path) for name, path in work.inputs.items()},
            "hardware": {name: getattr(hardware, name) for name in HARDWARE},
            "reason": reason,
            "step": step,
            "first": first,
            "noise_seeds": [seed_of(work.job.seed, "noise", step, rank) for rank in range(hardware.world_size)],
            "images": images_of(loop, step),
        }
        write_json(file, record)
    return f"python -m mto replay {file}"


def images_of(loop: Loop, step: int) -> list[dict[str, Any]]:
    """Returns a step's images in the order of the whole batch: epoch, index and, where it has one, file."""
    sampler: Any = loop.loader.sampler
    pairs = sampler.batch(step, loop.record["batch_size"])
    path = getattr(getattr(loop.loader.dataset, "images", None), "path", None)
    return [{"epoch": e, "index": i} | ({"file": path(i)} if callable(path) else {}) for e, i in pairs]


# ----------------------------------------------------------------------------------------------------------- replaying
def read(file: Path) -> dict[str, Any]:
    """Returns a failure's record.

    Raises:
        UserError: the file is none.
    """
    found = read_json(file)
    if not isinstance(found, dict) or "step" not in found or "job" not in found:
        raise UserError(f"{file}: no record of a failed step; a run that met one names its {RECORD}")
    return found


def replay(loop: Loop, file: Path) -> None:
    """Trains to the step of a record, takes it, and says what it gave.

    Raises:
        SystemExit: always. 0: that step failed again; 1: it did not, or an earlier one failed.
    """
    record, lead = read(file), loop.hardware.rank == 0
    step = record["step"]
    if lead:
        print(f"mto: training from step {loop.step} to step {step}, which failed", flush=True)
    loop.wrapped.train()
    loop.loader.sampler.skip(loop.step * loop.optimizer.accumulation * loop.loader.batch_size)
    stream = batches(loop.loader, loop.model, loop.hardware.device)
    failed = False
    while loop.step <= step and not failed:
        if loop.step == step:
            _keep_before(loop, file)
        loop.take_step(stream)
        failed = _failed(loop)
    loop.log.close()
    if lead:
        print(told(record, loop.trace.read(), failed), flush=True)
    raise SystemExit(0 if failed and loop.step == step + 1 else 1)


def _failed(loop: Loop) -> bool:
    """Returns whether any process met a loss, a gradient or a weight that is not finite."""
    weights = [value.isfinite().all() for value in loop.model.state_dict().values() if value.is_floating_point()]
    wrong = loop.trace.read() is not None or not torch.stack(weights).all()
    return bool(mean({"wrong": torch.tensor(float(wrong), device=loop.hardware.device)})["wrong"])


def _keep_before(loop: Loop, file: Path) -> None:
    """Keeps the state right before the step, for the next replay."""
    state = on_host(loop.state())
    if loop.hardware.rank == 0:
        meta = loop.record | {"step": loop.step, "samples": loop.step * loop.record["batch_size"], "epoch": loop.epoch}
        save_state(file.with_name(BEFORE), state, meta | {"round_open": False})


def told(record: dict[str, Any], found: dict[str, Any] | None, failed: bool) -> str:
    """Returns the lines that compare a replayed step with its record."""
    if not failed:
        return f"mto: step {record['step']}: its losses and its gradient are finite numbers here"
    if found is None:
        return f"mto: step {record['step']}: a weight after it, or a loss in another process, is no finite number"
    terms = ", ".join(f"{name} {value}" for name, value in found["terms"].items())
    where = f"mto: step {found['step']}, {'pass ' + str(found['pass']) if found['pass'] else 'its gradient'}: {terms}"
    if record["first"] is None:
        return where
    return f"{where}; {'as recorded' if found == record['first'] else 'recorded was ' + str(record['first'])}"
