"""Parameter groups (weight decay, layer decay), the two optimisers, and how a step is taken."""

from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mto.config.job import Optim
from mto.errors import UserError
from mto.training.schedule import Schedule

Precision = Literal["fp32", "bf16", "fp16"]
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)
#: Autocast type of each precision; None: no autocast.
AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def parameter_groups(
    model: nn.Module,
    *,
    weight_decay: float,
    no_decay: set[str] | frozenset[str] = frozenset(),
    layer_decay: float | None = None,
    depth: int | None = None,
    prefix: str = "",
    decay_vectors: bool = False,
) -> list[dict[str, Any]]:
    """Returns groups of trainable parameters, each with ``weight_decay`` and ``multiplier`` (of the learning rate).

    Not decayed: tensors of at most one dimension, biases (all four official codes), and the names in ``no_decay``.
    With ``layer_decay`` the multiplier of level l = 0..depth + 1 is layer_decay^(depth + 1 - l) (MAE:util/lr_decay.py).

    Args:
        prefix: of the encoder's parameters inside ``model``; parameters outside it count as the last level.
        decay_vectors: decay biases and other vectors too, all but those of norms (detectron2:solver/build.py).
    """
    norms = {
        f"{name}.{leaf}"
        for name, module in model.named_modules()
        if isinstance(module, NORMS)
        for leaf, _ in module.named_parameters(recurse=False)
    }
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        own = name.removeprefix(prefix)
        vector = parameter.ndim <= 1 or name.endswith(".bias")
        spared = name in norms if decay_vectors else vector
        exempt = spared or own in no_decay or own.split(".")[-1] in no_decay
        multiplier = 1.0
        if layer_decay is not None:
            from mto.methods.encoder import layer_id

            assert depth is not None, "layer decay needs the depth of the encoder"
            level = layer_id(own, depth) if name.startswith(prefix) else depth + 1
            multiplier = layer_decay ** (depth + 1 - level)
        decay = 0.0 if exempt else weight_decay
        group = groups.setdefault(
            (multiplier, decay), {"params": [], "names": [], "weight_decay": decay, "multiplier": multiplier}
        )
        group["params"].append(parameter)
        group["names"].append(name)
    return [groups[key] for key in sorted(groups)]


def build_optimizer(groups: list[dict[str, Any]], optim: Optim) -> torch.optim.Optimizer:
    """Builds AdamW, or LARS as MAE's probe uses it, for a job's ``optim``.

    The rate itself is set before every step.
    """
    groups = [{k: v for k, v in group.items() if k != "names"} | {"peak_lr": optim.lr} for group in groups]
    if optim.kind == "lars":
        from timm.optim.lars import Lars

        # Only tensors of more than one dimension get trust scaling (MAE:util/lars.py:29).
        split = []
        for group in groups:
            for adapt in (True, False):
                params = [p for p in group["params"] if (p.ndim > 1) == adapt]
                if params:
                    decay = group["weight_decay"] if adapt else 0.0
                    split.append(group | {"params": params, "always_adapt": adapt, "weight_decay": decay})
        return Lars(split, lr=optim.lr, momentum=optim.momentum, trust_coeff=0.001, eps=0.0)
    first, second = optim.betas
    return torch.optim.AdamW(groups, lr=optim.lr, betas=(first, second), eps=optim.eps, fused=True)


class StepWrapper:
    """An optimiser with accumulation, mixed precision on any device, clipping, and the gradient norm of every step.

    The loss is divided by ``accumulation``; the step, the clipping and the norm see the accumulated gradient.

    Args:
        accumulation: backward passes per step.
        clip_grad: largest global norm, or None.
        precision: ``fp16`` needs a CUDA device (and scales the loss); ``bf16`` runs anywhere.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        accumulation: int = 1,
        clip_grad: float | None = None,
        precision: Precision = "fp32",
        device: torch.device | str = "cpu",
    ) -> None:
        self.optimizer = optimizer
        self.device = torch.device(device)
        if precision == "fp16" and self.device.type != "cuda":
            raise UserError("precision fp16 needs a GPU; use bf16 or fp32 on the CPU")
        self.accumulation = accumulation
        self.clip_grad = clip_grad
        self.autocast_dtype = AUTOCAST[precision]
        self.scaler = torch.amp.GradScaler(self.device.type) if precision == "fp16" else None
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]

    @property
    def lr(self) -> float:
        """The largest rate of the parameter groups."""
        return max(group["lr"] for group in self.optimizer.param_groups)

    def set_rates(self, schedule: Schedule, step: int, steps_per_unit: int) -> None:
        """Sets every group's rate, as a function of the step alone.

        Args:
            step: optimiser steps done.
            steps_per_unit: of the schedule's unit: an epoch's steps, or 1.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = schedule.lr(step / steps_per_unit, group["peak_lr"], group["multiplier"], 1 / steps_per_unit)

    def autocast(self) -> AbstractContextManager[None]:
        """Returns the context of a forward pass."""
        return torch.autocast(self.device.type, self.autocast_dtype, enabled=self.autocast_dtype is not None)

    def backward(self, loss: Tensor) -> None:
        """Adds a micro-batch's gradient, of its share in the step's loss."""
        loss = loss / self.accumulation
        (self.scaler.scale(loss) if self.scaler else loss).backward()

    def step(self) -> Tensor:
        """Clips the gradient, moves the parameters, and forgets the gradient; returns its norm before clipping."""
        if self.scaler:
            self.scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        if self.clip_grad:
            nn.utils.clip_grads_with_norm_(self._parameters, self.clip_grad, norm)
        if self.scaler:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self.optimizer.step()
        self.optimizer.zero_grad()
        return norm

    def state_dict(self) -> dict[str, Any]:
        """Returns torch's state of the optimiser, and the loss scaler's if there is one."""
        return self.optimizer.state_dict() | ({"loss_scaler": self.scaler.state_dict()} if self.scaler else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a state, whatever else it holds (older ones have more)."""
        if self.scaler and state.get("loss_scaler"):
            self.scaler.load_state_dict(state["loss_scaler"])
        self.optimizer.load_state_dict({name: state[name] for name in ("state", "param_groups")})
