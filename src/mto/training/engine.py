"""The engine of all five GPU stages: mmengine's Runner, built from Python objects.

What it adds to a plain Runner: gradient accumulation to an exact global batch, rates and noise as functions of the
step, a state that a rerun picks up by itself at the very step, segments of one schedule, and plain logs.
"""

import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.model import BaseModel, MMDistributedDataParallel
from mmengine.runner import Runner
from torch import distributed, nn
from torch.utils.data import DataLoader

from mto.data.device.decode import batches
from mto.runtime.lock import Lock
from mto.training.checkpoint import State
from mto.training.compiled import fell_back
from mto.training.finite import FiniteHook
from mto.training.hardware import Hardware
from mto.training.hooks import CheckpointHook, ScheduleHook, SeedHook
from mto.training.log import LogHook
from mto.training.loop import StepLoop
from mto.training.optim import NORMS, StepWrapper
from mto.training.resume import describe_run, find_state, first_step
from mto.training.schedule import Schedule
from mto.training.signals import SignalHook
from mto.training.writer import Writer


class Engine(Runner):
    """A Runner on the devices of ``hardware``, without mmengine's start-up reports (they run compilers for seconds).

    Loading is strict: a state that does not fit the model is an error, not a warning.

    Args:
        state: to go on from, of `find_state`.
    """

    def __init__(self, *, hardware: Hardware, find_unused_parameters: bool, state: State | None, **kwargs: Any) -> None:
        self.hardware = hardware
        self.find_unused_parameters = find_unused_parameters
        self._state = state
        super().__init__(**kwargs)

    @property
    def step(self) -> int:
        """Optimiser steps done."""
        return self.train_loop.step

    @property
    def log_hook(self) -> LogHook:
        return next(hook for hook in self.hooks if isinstance(hook, LogHook))

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        model = model.to(self.hardware.device)
        if self.hardware.compiles and callable(compile_step := getattr(model, "compile_step", None)):
            compile_step()  # the dense tasks have none: their images differ in size
        if not self.distributed:
            return model
        wrapped = MMDistributedDataParallel(
            module=model,
            device_ids=[self.hardware.device.index] if self.hardware.gpus else None,
            forward_sync_buffers=False,
            find_unused_parameters=self.find_unused_parameters,
        )
        if not self.find_unused_parameters:
            settle_buckets(wrapped)
        return wrapped

    @property
    def fell_back(self) -> bool:
        """Whether training is eager though it was to be compiled."""
        return fell_back(unwrap(self.model))

    def batches(self, loader: DataLoader) -> Iterator[Any]:
        """As the model wants them (`mto.data.device.decode.batches`)."""
        return batches(loader, unwrap(self.model), self.hardware.device)

    def state(self) -> State:
        """All that it takes to go on from here; every rank must ask. Complete on rank 0 alone."""
        model = unwrap(self.model)
        state = {
            "state_dict": model.state_dict(),
            "optimizer": self.optim_wrapper.state_dict(),
            "statistics": self.gather(_statistics(model)),
        }
        self.call_hook("before_save_checkpoint", checkpoint=state)
        return state

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, on rank 0; elsewhere nothing."""
        if not self.distributed:
            return [value]
        values = [None] * self.world_size if self.rank == 0 else None
        distributed.gather_object(value, values)
        return values or []

    def load_or_resume(self) -> None:
        if self._state is None:
            return
        state, self._state = self._state, None
        self.call_hook("after_load_checkpoint", checkpoint=state)
        model = unwrap(self.model)
        model.load_state_dict(state["state_dict"])
        if len(state["statistics"]) == self.world_size:
            model.load_state_dict(state["statistics"][self.rank], strict=False)
        self.optim_wrapper.load_state_dict(state["optimizer"])
        self.train_loop.step = state["meta"]["step"]
        self.train_loop.round_open = state["meta"]["round_open"]

    def _init_model_weights(self) -> None:
        """The model comes with its weights.

        mmengine would call ``init_weights`` of every child that has one, as timm's encoders do: a pre-trained encoder
        would start afresh.
        """

    def build_visualizer(self, visualizer: Any = None) -> Any:
        """Nothing draws here: mmengine's would open a figure of matplotlib's, half a second of every job.

        Its loops write the dataset's names to what this returns.
        """
        return SimpleNamespace()

    def _log_env(self, env_cfg: dict) -> None:
        """Provenance is in metrics.json."""

    def dump_config(self) -> None:
        """There is no config: the job is beside the outputs."""


def settle_buckets(wrapped: MMDistributedDataParallel) -> None:
    """Let the gradients' order of summation be the same from the first step of every process on.

    The wrapper groups gradients anew after a process's first backward pass, in the order in which they came: a run that
    is resumed would add other numbers in another order than the unbroken one, as soon as more than two processes add.
    An empty backward pass through all parameters, last first, settles it before any real one. It has an input, which it
    does not use: with ``device_ids``, as on GPUs, the wrapper moves its inputs and fails where there are none.
    """
    model = wrapped.module
    model.forward = lambda _: sum(p.sum() * 0.0 for p in model.parameters() if p.requires_grad)
    wrapped(torch.zeros(())).backward()
    del model.forward
    for parameter in model.parameters():
        parameter.grad = None


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
    job: dict[str, Any] | None = None,
    lock: Lock | None = None,
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
        train_loader: micro-batches (`mto.data.imagenet.build_loader`) from an endless sampler
            (``EpochSampler(..., infinite=True)``).
        schedule: in epochs with ``max_epochs``, in optimiser steps with ``max_iters``.
        work_dir: state, history and curves; a ``last.pth`` in it is resumed from.
        batch_size: the global batch.
        job: what this run is. A state of another job is not continued.
        lock: of the run's folder, held; asked before each write.
        max_epochs, max_iters: length of the schedule, one of the two; ``max_iters`` counts optimiser steps.
        stop_at: epochs completed at the end of this segment; the whole schedule by default.
        val_interval, save_interval: in epochs (a state each epoch), or in optimiser steps with ``max_iters``.
        resume_from: state of the previous segment, used when ``work_dir`` has none. Where only its weights are left,
            training begins at the start, and the history where that segment's ends.

    Returns:
        The finished runner; ``runner.model`` (maybe wrapped for several processes), ``runner.log_hook.usage``.

    Raises:
        UserError: the state to go on from is damaged, or of another run; the loss, or a weight, is no number any more.
    """
    if (max_epochs is None) == (max_iters is None):
        raise ValueError("give max_epochs or max_iters")
    if hardware.gpus and optim_wrapper.autocast_dtype is not None:
        torch.set_float32_matmul_precision("high")  # the float32 products left under autocast (MTO's affinities): TF32
    work_dir.mkdir(parents=True, exist_ok=True)
    sampler: Any = train_loader.sampler
    if max_epochs is not None:
        steps_per_epoch = sampler.used // batch_size
        unit, length, round_units = steps_per_epoch, max_epochs, 1
    else:
        assert max_iters is not None
        steps_per_epoch = None
        unit, length, round_units = 1, max_iters, save_interval
    stop_step = (stop_at or length) * unit
    run = describe_run(
        job or {},
        dataset_size=sampler.size,
        batch_size=batch_size,
        steps_per_epoch=steps_per_epoch,
        total_steps=length * unit,
    )
    if hardware.world_size > 1:
        distributed.barrier()  # rank 0 has tidied the folder before the others look into it
    state = find_state(work_dir, resume_from, run, hardware.device, quiet=hardware.rank > 0)
    log_hook = LogHook(
        work_dir,
        batch_size=batch_size,
        log_interval=log_interval,
        steps_per_epoch=steps_per_epoch,
        stop_step=stop_step,
        first_step=first_step(resume_from),
    )
    writer = Writer()
    checkpoint = CheckpointHook(work_dir, run, lock, writer)
    own_hooks: list[Hook] = [ScheduleHook(schedule, unit), SeedHook(seed), log_hook, FiniteHook(work_dir, run, writer)]
    own_hooks += [checkpoint, SignalHook(checkpoint)]
    runner = Engine(
        hardware=hardware,
        find_unused_parameters=find_unused_parameters,
        state=state,
        model=model,
        work_dir=str(work_dir),
        train_dataloader=train_loader,
        train_cfg={
            "type": StepLoop,
            "accumulation": optim_wrapper.accumulation,
            "total_steps": length * unit,
            "stop_step": stop_step,
            "round_steps": round_units * unit,
            "epoch_steps": steps_per_epoch,
            "val_steps": val_interval * unit,
        },
        val_dataloader=val_loader,
        val_cfg={} if val_loader else None,
        val_evaluator=val_evaluator,
        optim_wrapper=optim_wrapper,
        default_hooks=dict.fromkeys(("runtime_info", "timer", "logger", "param_scheduler", "checkpoint")),
        custom_hooks=[*own_hooks, *hooks],
        launcher="pytorch" if hardware.world_size > 1 else "none",
        randomness={"seed": seed},
        log_level="ERROR",
        experiment_name=uuid.uuid4().hex,  # mmengine shares its message hub between runners of one name
    )
    with writer:  # a state that is still being written when an error ends the run is finished
        runner.train()
    return runner


def unwrap(model: nn.Module) -> Any:
    """The model itself, out of its distributed wrapper."""
    return model.module if isinstance(model, MMDistributedDataParallel) else model


def _statistics(model: nn.Module) -> dict[str, torch.Tensor]:
    """The running statistics of batch norms, which each rank keeps of its own share."""
    found: dict[str, torch.Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, NORMS):
            found |= {f"{name}.{key}": value.cpu() for key, value in module.named_buffers(recurse=False)}
    return found
