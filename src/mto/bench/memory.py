"""What a training step needs, counted exactly: memory, what is kept for backward, traffic, launches, waits.

On a GPU that is there or, with `mto.emulate`, on one that is not: the numbers are the same, and need no time to settle.
"""

from __future__ import annotations

import argparse
import gc
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mto.bench.cases import STAGES
from mto.bench.run import OUT_OF_MEMORY, Bench, Trained
from mto.bench.workloads import job_of
from mto.config.job import LoggedJob, Mto, PretrainJob
from mto.emulate import start
from mto.study.study import Study
from mto.training.optim import AUTOCAST

Row = dict[str, Any]
MIB = 2**20
PLAIN = "without MTO"

#: The official repositories' own steps, counted once in this very way (emulated H100, bf16, deterministic, ViT-B/16 at
#: 224, micro-batch 64, at the commits of docs/agreement.md): peak in MiB, MiB an image kept for backward, traffic in
#: GB, launches.
OFFICIAL: dict[str, tuple[int, float, float, int]] = {
    "simmim": (6910, 103.2, 86.4, 1250),
    "mae": (5399, 77.7, 59.2, 1580),
    "bootmae": (4760, 61.8, 72.6, 1981),
    "conmim": (7367, 109.0, 110.6, 1567),
}


def measure(args: argparse.Namespace, bench: Bench, study: Study, say: Callable[[str], None]) -> list[Row]:
    """Returns a row for each baseline and stage; of pre-training with MTO one for each preset asked for.

    Keys are those of `step` and `ratios`; ``official_ratio`` is the peak over that of `OFFICIAL`, at the same sizes.
    """
    rows: list[Row] = []
    for baseline in args.baseline:
        say(baseline)
        plain: Row = {}
        for stage in args.stage:
            task = STAGES[stage][0]
            bench.setup(study.resources(task).kernels)
            job = job_of(study, stage, baseline, args.depth)
            images = args.images or study.resources(task).micro_batch or job.optim.batch_size
            for name, each in _variants(study, stage, job, args.preset):
                row: Row = {"baseline": baseline, "stage": task, "variant": name, "images": images}
                row |= step(bench, each, images, modules=args.modules)
                plain = row if name == PLAIN else plain
                row |= ratios(row, plain) if stage == "pretrain-mto" else {}
                if (
                    isinstance(each, PretrainJob)
                    and not bench.compile
                    and images == 64
                    and sizes(each) == (224, 16, 768, 12)
                ):
                    row |= {"official_ratio": row["peak_mib"] / OFFICIAL[baseline][0]} if "peak_mib" in row else {}
                rows.append(row)
    return rows


def _variants(study: Study, stage: str, job: LoggedJob, presets: Sequence[str]) -> Iterator[tuple[str, LoggedJob]]:
    if stage != "pretrain-mto":
        yield PLAIN if stage == "pretrain" else "", job
        return
    assert isinstance(job, PretrainJob)
    for preset in presets:
        mto = Mto.model_validate({"terms": job.mto.terms, **study.config.mto.presets[preset].model_dump()})
        yield preset, job.model_copy(update={"mto": mto})


def sizes(job: PretrainJob) -> tuple[int, ...]:
    """Returns the sides of an image and of a patch, the encoder's width and its depth."""
    method = job.method
    return method.img_size, method.patch_size, method.embed_dim, method.depth


def ratios(row: Row, plain: Row) -> Row:
    """Returns shares of the step without MTO; of the comparison of gradients, of the step with MTO."""
    compared = ("peak_mib", "comparing_mib", "kept_mib", "traffic_gb", "launches")
    base = {**plain, "comparing_mib": row.get("peak_mib")}  # the comparison is a pass of this step's own
    return {
        f"{key.partition('_')[0]}_ratio": row[key] / base[key] for key in compared if row.get(key) and base.get(key)
    }


def step(bench: Bench, job: LoggedJob, images: int, modules: bool = False) -> Row:
    """Returns the numbers of one training step of a job; of one that does not fit the device, its ``error``.

    * ``peak_mib``: the allocator's peak, over what stays from step to step (``stays_mib``); ``reserved_mib``
    * ``comparing_mib``: the peak where MTO's gradients are compared with the method's, as now and then
    * ``kept_mib``: an image, the storages kept for the backward pass; ``kept_once_mib``: those that no image adds to
    * ``traffic_gb``: bytes that operators read and write, forward and backward, each tensor once
    * ``launches``, ``waits``: of the whole step, on an emulated GPU
    * ``compiled``: as `Trained.compiled` has it

    A step is one that is not logged. Traffic and what is kept are of the eager step of our own models.
    """
    try:
        return _step(bench, job, images, modules)
    except torch.OutOfMemoryError:
        return {"error": f"{OUT_OF_MEMORY} at micro-batch {images}"}
    finally:
        bench.free()


def _step(bench: Bench, job: LoggedJob, images: int, modules: bool) -> Row:
    trained = bench.prepare(job, images)
    row = peak(trained) | {"compiled": trained.compiled}
    if start.started():
        start.reset()
        trained.step()
        counted = start.counted()
        row["launches"] = sum(count for what, count in counted.items() if what.startswith("launch "))
        row["waits"] = sum(count for what, count in counted.items() if what.startswith("wait "))
    model: Any = trained.work.model
    if isinstance(job, PretrainJob) and job.mto.terms:
        model.measure_gradients = True
        row["comparing_mib"] = peak(trained, warmup=0)["peak_mib"]
        model.measure_gradients = False
    if job.task in ("pretrain", "finetune", "linear") and not bench.compile:
        whole, half = (kept(trained, part) for part in (images, images // 2))
        row["kept_mib"] = (whole.total - half.total) / (images - images // 2) / MIB
        row["kept_once_mib"] = whole.total / MIB - images * row["kept_mib"]
        row["traffic_gb"] = traffic(trained) / 1e9
        if modules:
            row["modules"] = whole.table()
    return row


def peak(trained: Trained, warmup: int = 2) -> Row:
    """Returns the allocator's peak of a step, in MiB, over what stays from one to the next.

    What stays is given as it was asked for: the allocator's blocks are up to a MiB larger, by what was freed before.
    """
    for _ in range(warmup):
        trained.step()
    gc.collect()
    torch.cuda.reset_peak_memory_stats()
    stays = torch.cuda.memory_allocated()
    asked = torch.cuda.memory_stats()["requested_bytes.all.current"]
    trained.step()
    return {
        "stays_mib": asked / MIB,
        "peak_mib": (torch.cuda.max_memory_allocated() - stays) / MIB,
        "reserved_mib": torch.cuda.max_memory_reserved() / MIB,
    }


class Kept:
    """The distinct storages that a forward pass keeps for the backward pass, and the module that each was kept in.

    Parameters and buffers are not among them: they are there anyway.
    """

    def __init__(self, model: nn.Module) -> None:
        self.storages: dict[int, tuple[int, str]] = {}
        self._spared = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
        self._model, self._within, self._alive = model, ["the model itself"], []  # type: ignore[var-annotated]

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watches the passes within; afterwards no tensor is held any more."""
        hooks = []
        for name, module in self._model.named_modules():
            where = f"{re.sub(r'[0-9]+', '#', name) or 'the model itself'} ({type(module).__name__})"
            enter = module.register_forward_pre_hook(lambda *_, where=where: self._within.append(where), prepend=True)
            leave = module.register_forward_hook(lambda *_: self._leave(), always_call=True)
            hooks += [enter, leave]
        with torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor):
            yield
        for hook in hooks:
            hook.remove()
        self._alive.clear()

    def _leave(self) -> None:
        self._within.pop()

    def _keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        address = storage.data_ptr()
        if address not in self._spared and address not in self.storages:
            described = f"{self._within[-1]}: {tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
            self.storages[address] = storage.nbytes(), described
            self._alive.append(tensor)  # or its address would be another's later on
        return tensor.detach()  # an output that its own graph keeps as it is would never be freed

    @property
    def total(self) -> int:
        """Bytes."""
        return sum(size for size, _ in self.storages.values())

    def table(self, most: int = 20) -> list[Row]:
        """Returns the module and shape of the largest sums, with MiB and number of storages."""
        sizes: Counter[str] = Counter()
        for size, where in self.storages.values():
            sizes[where] += size
        number = Counter(where for _, where in self.storages.values())
        return [
            {"kept": where, "mib": sizes[where] / MIB, "number": number[where]} for where, _ in sizes.most_common(most)
        ]


def kept(trained: Trained, images: int) -> Kept:
    """Returns what a forward pass of the first ``images`` of the micro-batch keeps."""
    counter = Kept(trained.work.model)
    with counter.watching():
        loss(trained, images)
    return counter


class Traffic(TorchDispatchMode):
    """Sums the bytes that operators read and write, each tensor of an operator once; views move nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name
        if not (func.is_view or name in ("aten::detach", "aten::_unsafe_view", "aten::lift_fresh") or "empty" in name):
            moved = [
                leaf for leaf in tree_leaves((args, kwargs or {}, out)) if isinstance(leaf, Tensor) and leaf.is_cuda
            ]
            self.bytes += sum(min(tensor.nbytes, tensor.untyped_storage().nbytes()) for tensor in moved)
        return out


def traffic(trained: Trained) -> int:
    """Returns the bytes moved by a forward and a backward pass; the optimiser's are the same for all."""
    with Traffic() as mode:
        result = loss(trained, trained.work.images)
        result.backward()
    trained.optimizer.zero_grad()
    return mode.bytes


def loss(trained: Trained, images: int) -> Tensor:
    """Returns the loss of a pass as a step takes it, in the job's precision, of the first ``images``."""
    model, job = trained.work.model, trained.work.job
    batch = {key: value[:images] for key, value in trained.work.batch.items()}
    dtype = AUTOCAST[job.precision]
    with torch.autocast("cuda", dtype, enabled=dtype is not None):
        return model(**model.data_preprocessor(batch, True), mode="loss")["loss"]
