"""What a job runs on: devices, processes, workers, and how they make up the configured batch.

Hardware is never part of a job: the same job on other hardware computes the same study, up to what one pass sees.
Batch norms: those of ConMIM's projector and of the probes see a micro-batch (officially 64 images, and 512 to 1024),
those of UPerNet and Mask R-CNN one micro-batch of every GPU. Mixup draws one share for a micro-batch and mixes within
it; drop path draws anew for each. Where images mask different numbers of patches (ConMIM's blocks), the loss is the
mean of the micro-batches' means, and so is L_r under ``batch_reduction: batch``.
"""

from __future__ import annotations

import os
import platform
import resource
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mto.errors import UserError
from mto.names import STAGES, Memory
from mto.runtime.ranks import number

if TYPE_CHECKING:
    import torch

#: The first compute capability with bfloat16 in hardware.
BF16 = (8, 0)
#: A loader's workers hand each tensor over as an open file, and many systems allow 1,024.
OPEN_FILES = 4096


@dataclass(frozen=True)
class BatchPlan:
    """A global batch as ranks x micro-batch x accumulation, exactly.

    Attributes:
        size: the configured (global) batch.
        micro: images per forward pass on one rank.
        accumulation: forward passes per optimiser step.
    """

    size: int
    micro: int
    accumulation: int


def plan_batch(size: int, world_size: int, micro_batch: int | None = None) -> BatchPlan:
    """Splits the global batch ``size`` over ``world_size`` ranks in passes of at most ``micro_batch`` images.

    Without ``micro_batch`` each rank takes its whole share in one pass.

    Raises:
        UserError: the batch cannot be made exactly; the message names the nearest that can.

    Example:
        >>> plan_batch(2048, world_size=8, micro_batch=64)
        BatchPlan(size=2048, micro=64, accumulation=4)
    """
    share = max(size // world_size, 1)
    micro = min(micro_batch or share, share)
    unit = world_size * micro
    if size % unit:
        nearest = max(round(size / unit), 1) * unit
        raise UserError(
            f"a batch of {size} cannot be made from {world_size} process(es) x micro-batch {micro}: "
            f"the nearest that can is {nearest}; change --micro-batch, --gpus or optim.batch_size"
        )
    return BatchPlan(size, micro, size // unit)


@dataclass(frozen=True)
class Hardware:
    """Devices of one job. ``gpus=0`` is the CPU, on which ``processes`` (default 1) share the batch over gloo.

    ``memory`` is how much a network keeps for its backward pass (`mto.methods.memory`).

    ``deterministic`` is about kernels on a GPU; those of the CPU are deterministic.

    * ``strict``: only deterministic ones, so that a resumed run equals an unbroken one bit for bit; an operator that
      has none is an error.
    * ``warn``: deterministic ones where torch has them, a warning elsewhere. Attention's backward pass belongs to
      "elsewhere": torch picks its deterministic kernel in strict mode alone.
    * ``off``: whatever is fastest on this device.
    """

    gpus: int = 0
    workers: int = 0
    micro_batch: int | None = None
    processes: int = 1
    deterministic: Literal["strict", "warn", "off"] = "strict"
    compile: bool = True
    memory: Memory = "fast"

    @property
    def compiles(self) -> bool:
        """Whether training steps are compiled: on GPUs, unless it was switched off."""
        return self.compile and self.gpus > 0

    @property
    def world_size(self) -> int:
        return max(self.gpus, self.processes)

    @property
    def rank(self) -> int:
        return number("RANK", 0) if self.world_size > 1 else 0

    @property
    def device(self) -> torch.device:
        import torch

        return torch.device("cuda", number("LOCAL_RANK", 0)) if self.gpus else torch.device("cpu")

    def plan(self, batch_size: int) -> BatchPlan:
        return plan_batch(batch_size, self.world_size, self.micro_batch)

    def setup(self) -> None:
        """Checks the devices, chooses the kind of kernels, and joins the other processes.

        Raises:
            UserError: GPUs were asked for and too few are visible; or another number of processes shares the job.
        """
        import torch

        if self.gpus:
            visible, here = torch.cuda.device_count(), number("LOCAL_WORLD_SIZE", self.gpus)
            if visible < here:
                raise UserError(f"--gpus {here}: {visible} CUDA device(s) visible here; use --gpus 0 for the CPU")
            try:
                torch.cuda.set_device(self.device)
            except RuntimeError as error:
                if torch.cuda.is_available():
                    raise
                raise UserError(  # devices are counted without CUDA, which an older driver does not start
                    f"--gpus {here}: CUDA does not start on {platform.node()}; this torch needs a driver for CUDA "
                    f"{torch.version.cuda}"
                ) from error
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            # As in Triton 3.9, whose default flips with 3.10: a new lock is not to change the bits of a compiled step.
            os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
            torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
            torch.use_deterministic_algorithms(self.deterministic != "off", warn_only=self.deterministic == "warn")
            torch.backends.cudnn.benchmark = self.deterministic == "off"
        now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        if 0 <= now < OPEN_FILES:
            resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES if most < 0 else min(OPEN_FILES, most), most))
        if self.world_size > 1 and not torch.distributed.is_initialized():
            torch.distributed.init_process_group("nccl" if self.gpus else "gloo")
        joined = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
        if joined != self.world_size:  # each would train on the share of one of `world_size`
            raise UserError(
                f"{self.world_size} processes were to share this job, but {joined} did; let `python -m mto` start them "
                "itself, by --gpus, --processes and --nodes"
            )

    def check_precision(self, precision: str, task: str) -> None:
        """Refuses bf16 on GPUs that have none where the step would be compiled; else says what it costs there.

        Raises:
            UserError: a compute capability below 8.0, and a task whose step is compiled.
        """
        import torch

        if not self.gpus or precision != "bf16" or torch.cuda.get_device_capability(self.device) >= BF16:
            return
        capability = ".".join(map(str, torch.cuda.get_device_capability(self.device)))
        found = f"precision: bf16, on a GPU of compute capability {capability}"
        remedy = "set precision: fp16 in config.yaml"
        if self.compiles and STAGES[task].compiles:
            raise UserError(
                f"{found}: it does not compile there, and saves 1.38 times the bytes for the backward pass: {remedy} "
                f"(or resources.{task}.compile: false, to train in it all the same, slower)"
            )
        if self.rank == 0:
            print(f"mto: {found}, which computes it by way of float32, slower and in more memory; {remedy}", flush=True)

    def close(self) -> None:
        import torch

        if self.world_size > 1 and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def without_deterministic_form(error: Exception, task: str) -> str | None:
    """Returns what to do about an operator that `strict` refuses, in one line; None for any other error."""
    operator, found, _ = str(error).partition(" does not have a deterministic implementation")
    if not (found and isinstance(error, RuntimeError)):
        return None
    return (  # torch's own words are long and advise to change the code
        f"{operator} has no deterministic form on this device; set "
        f"resources.{task}.deterministic: warn in config.yaml, or --deterministic warn here"
    )
