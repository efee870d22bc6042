"""The engine of all five GPU stages: mmengine's Runner, built from Python objects.

What it adds to a plain Runner: gradient accumulation to an exact global batch, rates as a function of the step, noise
re-seeded each round, an atomic checkpoint that a rerun picks up by itself, segments of one schedule, and plain logs.
"""

import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.model import BaseModel, MMDistributedDataParallel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from mto.training.hardware import Hardware
from mto.training.hooks import CHECKPOINT, CheckpointHook, ScheduleHook, SeedHook, SignalHook
from mto.training.log import LogHook
from mto.training.loops import EpochLoop, IterationLoop
from mto.training.optim import StepWrapper
from mto.training.schedule import Schedule


class Engine(Runner):
    """A Runner on the devices of ``hardware``, without mmengine's start-up reports (they run compilers for seconds).

    Loading is strict: a checkpoint that does not fit the model is an error, not a warning.
    """

    def __init__(self, *, hardware: Hardware, find_unused_parameters: bool, **kwargs: Any) -> None:
        self.hardware = hardware
        self.find_unused_parameters = find_unused_parameters
        super().__init__(**kwargs)

    @property
    def log_hook(self) -> LogHook:
        return next(hook for hook in self.hooks if isinstance(hook, LogHook))

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        model = model.to(self.hardware.device)
        if not self.distributed:
            return model
        return MMDistributedDataParallel(
            module=model,
            device_ids=[self.hardware.device.index] if self.hardware.gpus else None,
            broadcast_buffers=False,
            find_unused_parameters=self.find_unused_parameters,
        )

    def load_checkpoint(self, filename: str, map_location: Any = "cpu", strict: bool = True, **kwargs: Any) -> dict:
        return super().load_checkpoint(filename, map_location=self.hardware.device, strict=strict, **kwargs)

    def _init_model_weights(self) -> None:
        """The model comes with its weights.

        mmengine would call ``init_weights`` of every child that has one, as timm's encoders do: a pre-trained encoder
        would start afresh.
        """

    def _log_env(self, env_cfg: dict) -> None:
        """Provenance is in metrics.json."""

    def dump_config(self) -> None:
        """There is no config: the job is beside the outputs."""


def train(
    *,
    model: BaseModel,
    train_loader: DataLoader,
    optim_wrapper: StepWrapper,
    schedule: Schedule,
    work_dir: Path,
    seed: int,
    hardware: Hardware,
    batch_size: int,
    max_epochs: int | None = None,
    max_iters: int | None = None,
    stop_at: int | None = None,
    val_loader: DataLoader | None = None,
    val_evaluator: Evaluator | None = None,
    val_interval: int = 1,
    save_interval: int = 1000,
    resume_from: Path | None = None,
    log_interval: int = 20,
    hooks: Sequence[Hook] = (),
    find_unused_parameters: bool = False,
) -> Engine:
    """Train, validate, keep a checkpoint, and pick up where an earlier attempt was cut off.

    Args:
        model: ``forward(mode="loss")`` returns a dict of losses; it is moved to the device here.
        train_loader: micro-batches (`mto.data.imagenet.build_loader`); with ``max_iters`` its sampler
            is endless (``EpochSampler(..., infinite=True)``).
        schedule: in epochs with ``max_epochs``, in optimiser steps with ``max_iters``.
        work_dir: checkpoint, history and curves; a ``last.pth`` in it is resumed from.
        batch_size: the global batch.
        max_epochs, max_iters: length of the schedule, one of the two; ``max_iters`` counts optimiser steps.
        stop_at: epochs completed at the end of this segment; the whole schedule by default.
        val_interval, save_interval: in epochs (a checkpoint each epoch), or in optimiser steps with ``max_iters``.
        resume_from: state of the previous segment, used when ``work_dir`` has none.

    Returns:
        The finished runner; ``runner.model`` (maybe wrapped for several processes), ``runner.log_hook.usage``.
    """
    if (max_epochs is None) == (max_iters is None):
        raise ValueError("give max_epochs or max_iters")
    if hardware.gpus and optim_wrapper.autocast_dtype is not None:
        torch.set_float32_matmul_precision("high")  # the float32 products left under autocast (MTO's affinities): TF32
    work_dir.mkdir(parents=True, exist_ok=True)
    accumulation = optim_wrapper.accumulation
    steps_per_epoch = None
    loop: dict[str, Any]
    if max_epochs is not None:
        steps_per_epoch = len(train_loader) // accumulation
        stop_step = (stop_at or max_epochs) * steps_per_epoch
        loop = {"type": EpochLoop, "max_epochs": max_epochs, "val_interval": val_interval}
    else:
        assert max_iters is not None
        stop_step = max_iters
        loop = {
            "type": IterationLoop,
            "max_iters": max_iters * accumulation,
            "round_length": save_interval * accumulation,
            "val_interval": val_interval * accumulation,
        }
    checkpoint = work_dir / CHECKPOINT
    resume = checkpoint if checkpoint.exists() else resume_from
    log_hook = LogHook(
        work_dir, batch_size=batch_size, log_interval=log_interval, steps_per_epoch=steps_per_epoch, stop_step=stop_step
    )
    own_hooks = [
        ScheduleHook(schedule, steps_per_epoch or 1),
        SeedHook(seed, by_epoch=max_epochs is not None),
        log_hook,
        CheckpointHook(work_dir, stop_at),
        SignalHook(),
    ]
    runner = Engine(
        hardware=hardware,
        find_unused_parameters=find_unused_parameters,
        model=model,
        work_dir=str(work_dir),
        train_dataloader=train_loader,
        train_cfg=loop,
        val_dataloader=val_loader,
        val_cfg={} if val_loader else None,
        val_evaluator=val_evaluator,
        optim_wrapper=optim_wrapper,
        default_hooks=dict.fromkeys(("runtime_info", "timer", "logger", "param_scheduler", "checkpoint")),
        custom_hooks=[*own_hooks, *hooks],
        load_from=str(resume) if resume else None,
        resume=resume is not None,
        launcher="pytorch" if hardware.world_size > 1 else "none",
        randomness={"seed": seed},
        log_level="ERROR",
        experiment_name=uuid.uuid4().hex,  # mmengine shares its message hub between runners of one name
    )
    runner.train()
    return runner


def unwrap(model: nn.Module) -> Any:
    """The model itself, out of its distributed wrapper."""
    return model.module if isinstance(model, MMDistributedDataParallel) else model


def load_state(path: Path) -> dict[str, Any]:
    """A ``state.pth`` of this engine on the CPU: ``state_dict``, ``meta``, ``optimizer``, ..."""
    return torch.load(path, map_location="cpu", weights_only=True)
