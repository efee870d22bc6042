"""A tiny noisy model on tiny data, for tests of the engine."""

from pathlib import Path

import torch
from mmengine.model import BaseModel
from torch import nn
from torch.utils.data import Dataset

from mto.data.imagenet import build_loader
from mto.data.rng import generator
from mto.data.sampler import EpochSampler
from mto.training.engine import Engine, train
from mto.training.hardware import Hardware
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


class ToyModel(BaseModel):
    def __init__(self, dropout: float = 0.2) -> None:
        super().__init__()
        generator_ = torch.random.get_rng_state()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Linear(6, 8), nn.BatchNorm1d(8) if dropout else nn.Identity(), nn.Dropout(dropout), nn.Linear(8, 1)
        )
        torch.random.set_rng_state(generator_)

    def forward(self, x, y, mode="tensor"):
        return {"loss": (self.net(x) - y).square().mean()}


def fit(
    work_dir: Path,
    *,
    model: BaseModel | None = None,
    size: int = 24,
    batch: int = 8,
    hardware: Hardware = CPU,
    epochs: int | None = 4,
    iters: int | None = None,
    clip: float | None = 1.0,
    precision="fp32",
    seed: int = 0,
    **kwargs,
) -> Engine:
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
        build_optimizer(parameter_groups(model, weight_decay=0.05), {"lr": 0.05}),
        accumulation=plan.accumulation,
        clip_grad=clip,
        precision=precision,
    )
    return train(
        model=model,
        train_loader=build_loader(ToyData(size), sampler, plan.micro),
        optim_wrapper=wrapper,
        schedule=Schedule("cosine", total=epochs or iters, warmup=1),
        work_dir=work_dir,
        seed=seed,
        hardware=hardware,
        batch_size=batch,
        max_epochs=epochs if iters is None else None,
        max_iters=iters,
        log_interval=2,
        **kwargs,
    )
