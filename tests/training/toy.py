"""A tiny noisy model on tiny data, for tests of the training loop, and observers of what happens in it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.utils.data import Dataset

from mto.config.job import Optim
from mto.data.imagenet import build_loader
from mto.data.rng import generator
from mto.data.sampler import EpochSampler
from mto.training import loop
from mto.training.contract import Length, Trainable
from mto.training.hardware import Hardware
from mto.training.loop import Loop
from mto.training.optim import StepWrapper, build_optimizer, parameter_groups
from mto.training.schedule import Schedule

CPU = Hardware()


class ToyData(Dataset):
    """Pairs (x, y) with y a linear function of x; the noise on x depends on (epoch, index) only."""

    def __init__(self, size: int = 24) -> None:
        self.x = torch.randn(size, 6, generator=generator("toy"))

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, key):
        epoch, index = key
        x = self.x[index] + 0.1 * torch.randn(6, generator=generator("noise", epoch, index))
        return {"x": x, "y": self.x[index].sum(0, keepdim=True)}


def as_it_is(batch: Any, training: bool) -> Any:
    return batch


class ToyModel(Trainable, nn.Module):
    def __init__(self, dropout: float = 0.2) -> None:
        super().__init__()
        self.data_preprocessor = as_it_is
        generator_ = torch.random.get_rng_state()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Linear(6, 8), nn.BatchNorm1d(8) if dropout else nn.Identity(), nn.Dropout(dropout), nn.Linear(8, 1)
        )
        torch.random.set_rng_state(generator_)

    def forward(self, x, y, mode="tensor"):
        return {"loss": (self.net(x) - y).square().mean()}


class Observer:
    """Looks on, or makes trouble, at three places of a step."""

    def before_pass(self, loop: Loop, batch: Any) -> None:
        """A micro-batch has come; rates and noise are those of its step."""

    def after_step(self, loop: Loop) -> None:
        """The parameters have moved, and nobody has looked at the row yet."""

    def after_watch(self, loop: Loop) -> None:
        """Nothing was wrong with the step."""


@dataclass
class Observed(Loop):
    """The loop, with observers."""

    observers: Sequence[Observer] = ()

    def take_step(self, stream):
        def seen():
            for batch in stream:
                for observer in self.observers:
                    observer.before_pass(self, batch)
                yield batch

        return super().take_step(seen())

    def watch(self, row):
        for observer in self.observers:
            observer.after_step(self)
        super().watch(row)
        for observer in self.observers:
            observer.after_watch(self)


@dataclass
class Job:
    """What a job is to the loop."""

    seed: int
    log_interval: int = 2
    more: dict[str, Any] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        return {"seed": self.seed, "log_interval": self.log_interval, **self.more}


@dataclass
class Work:
    """What a task is to the loop."""

    progress: Path
    job: Job
    hardware: Hardware = CPU
    lock: Any = None
    replay: Path | None = None
    name: str = "toy"
    inputs: dict[str, Path] = field(default_factory=dict)


def fit(
    work_dir: Path,
    *,
    model: Any = None,
    size: int = 24,
    batch: int = 8,
    hardware: Hardware = CPU,
    epochs: int | None = 4,
    iters: int | None = None,
    save_interval: int = 1000,
    stop_at: int | None = None,
    clip: float | None = 1.0,
    precision="fp32",
    seed: int = 0,
    job: dict[str, Any] | None = None,
    hooks: Sequence[Observer] = (),
    replay: Path | None = None,
    **kwargs,
) -> Loop:
    model = model or ToyModel()
    plan = hardware.plan(batch)
    sampler = EpochSampler(
        size,
        seed=seed,
        shuffle=True,
        drop_last_to=batch,
        rank=hardware.rank,
        world_size=hardware.world_size,
        infinite=True,
    )
    wrapper = StepWrapper(
        build_optimizer(parameter_groups(model, weight_decay=0.05), Optim(batch_size=4, lr=0.05, weight_decay=0.05)),
        accumulation=plan.accumulation,
        clip_grad=clip,
        precision=precision,
    )
    if iters is None:
        length = Length.in_epochs(epochs, sampler.used // batch, stop_at=stop_at)
    else:
        length = Length(iters, iters, save_interval, iters)
    observed = lambda *arguments: Observed(*arguments, observers=hooks)  # noqa: E731
    with mock.patch.object(loop, "Loop", observed):
        return loop.train(
            Work(work_dir, Job(seed, more=job or {}), hardware, replay=replay),
            model,
            wrapper,
            Schedule("cosine", total=epochs or iters, warmup=1),
            length,
            build_loader(ToyData(size), sampler, plan.micro, hardware.workers),
            **kwargs,
        )
