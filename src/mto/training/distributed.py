"""Several processes of one job: torch's wrapper that adds their gradients, and what they tell each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from mto.training.hardware import Hardware


def world_size() -> int:
    """Returns the number of processes that share the job."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def wrap(model: nn.Module, hardware: Hardware) -> nn.Module:
    """Wraps a model for several processes, each of which has one; of one process it is the model itself."""
    if hardware.world_size == 1:
        return model
    wrapped = DistributedDataParallel(
        model,
        device_ids=[hardware.device.index] if hardware.gpus else None,
        forward_sync_buffers=False,
    )
    settle_buckets(wrapped)
    return wrapped


def unwrap(model: nn.Module) -> Any:
    """Returns the model itself, out of its distributed wrapper."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def settle_buckets(wrapped: DistributedDataParallel) -> None:
    """Makes the gradients' order of summation the same from the first step of every process on.

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


def gather(value: Any) -> list[Any]:
    """Returns every rank's value on rank 0, and elsewhere nothing; every rank must call it."""
    if world_size() == 1:
        return [value]
    values = [None] * world_size() if distributed.get_rank() == 0 else None
    distributed.gather_object(value, values)
    return values or []


def mean(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the means of scalars over the ranks, which all must have the same names."""
    if world_size() == 1 or not values:
        return dict(values)
    names = sorted(values)
    joined = torch.cat([values[name].flatten() for name in names])
    distributed.all_reduce(joined)
    return dict(zip(names, joined / world_size(), strict=True))


def average_buffers_(model: nn.Module) -> None:
    """Replaces a model's buffers by their means over the ranks: evaluation has one and the same batch statistics."""
    if world_size() == 1:
        return
    by_type: dict[torch.dtype, list[Tensor]] = {}
    for buffer in model.buffers():
        by_type.setdefault(buffer.dtype, []).append(buffer.data)
    for buffers in by_type.values():
        joined = torch.cat([buffer.flatten() for buffer in buffers])
        distributed.all_reduce(joined)
        parts = (joined / world_size()).split([buffer.numel() for buffer in buffers])
        for buffer, part in zip(buffers, parts, strict=True):
            buffer.copy_(part.view_as(buffer))
