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
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mto.bench.cases import STAGES
from mto.bench.run import OUT_OF_MEMORY, Bench, Trained
from mto.bench.workloads import job_of
from mto.config.job import LoggedJob, Mto, PretrainJob
from mto.config.typed import parse
from mto.emulate import start
from mto.methods.memory import spare
from mto.names import Memory
from mto.study.study import Study
from mto.training.optim import AUTOCAST

Row = dict[str, Any]
MIB = 2**20
PLAIN = "without MTO"

#: The official repositories' own steps, counted once in this very way (emulated H100, bf16, deterministic, ViT-B/16 at
#: 224, micro-batch 64, at the commits of docs/agreement.md); keys are those of `steps`.
OFFICIAL: dict[str, Row] = {
    "simmim": {"peak_mib": 6910, "kept_mib": 103.2, "traffic_gb": 86.4, "launches": 1250},
    "mae": {"peak_mib": 5399, "kept_mib": 77.7, "traffic_gb": 59.2, "launches": 1580},
    "bootmae": {"peak_mib": 4760, "kept_mib": 61.8, "traffic_gb": 72.6, "launches": 1981},
    "conmim": {"peak_mib": 7367, "kept_mib": 109.0, "traffic_gb": 110.6, "launches": 1567},
}


def measure(args: argparse.Namespace, bench: Bench, study: Study, say: Callable[[str], None]) -> list[Row]:
    """Returns a row for each baseline and stage; of pre-training with MTO one for each preset asked for.

    Each for every option of ``args.memory``. Keys are those of `steps` and `ratios`, and of shares of the step that
    keeps all (``peak_to_fast``) and of `OFFICIAL` at the same sizes (``peak_to_official``).
    """
    rows: list[Row] = []
    for baseline in args.baseline:
        say(baseline)
        plain: dict[Memory, Row] = {}
        for stage in args.stage:
            task = STAGES[stage][0]
            bench.setup(study.resources(task).kernels)
            job = job_of(study, stage, baseline, args.depth)
            images = args.images or study.resources(task).micro_batch or job.optim.batch_size
            for name, each in _variants(study, stage, job, args.preset):
                fast: Row = {}
                for counted in steps(bench, each, images, args.memory, modules=args.modules):
                    row: Row = {"baseline": baseline, "stage": task, "variant": name, "images": images} | counted
                    fast = row if row["memory"] == "fast" else fast
                    if name == PLAIN:
                        plain[row["memory"]] = row
                    if stage == "pretrain-mto":
                        row |= ratios(row, plain.get(row["memory"], {}))
                    if row is not fast:
                        row |= {f"{key}_to_fast": ratio for key, ratio in over(row, fast).items()}
                    if isinstance(each, PretrainJob) and images == 64 and sizes(each) == (224, 16, 768, 12):
                        row |= {f"{key}_to_official": ratio for key, ratio in over(row, OFFICIAL[baseline]).items()}
                    rows.append(row)
    return rows


def _variants(study: Study, stage: str, job: LoggedJob, presets: Sequence[str]) -> Iterator[tuple[str, LoggedJob]]:
    if stage != "pretrain-mto":
        yield PLAIN if stage == "pretrain" else "", job
        return
    assert isinstance(job, PretrainJob)
    for preset in presets:
        mto = parse(Mto, {"terms": job.mto.terms, **study.config.mto.presets[preset].model_dump()})
        yield preset, job.changed(mto=mto)


def sizes(job: PretrainJob) -> tuple[int, ...]:
    """Returns the sides of an image and of a patch, the encoder's width and its depth."""
    method = job.method
    return method.img_size, method.patch_size, method.embed_dim, method.depth


def ratios(row: Row, plain: Row) -> Row:
    """Returns shares of the step without MTO; of the comparison of gradients, of the step with MTO."""
    base = {**plain, "comparing_mib": row.get("peak_mib")}  # the comparison is a pass of this step's own
    return {f"{key}_ratio": ratio for key, ratio in over(row, base).items()}


def over(row: Row, base: Row) -> Row:
    """Returns each number that both have, over the other's, without its unit in the key."""
    compared = ("peak_mib", "comparing_mib", "kept_mib", "traffic_gb", "launches")
    return {key.partition("_")[0]: row[key] / base[key] for key in compared if row.get(key) and base.get(key)}


def steps(
    bench: Bench, job: LoggedJob, images: int, memories: Sequence[Memory], modules: bool = False
) -> Iterator[Row]:
    """Yields the numbers of one training step for each ``memory``; of one that does not fit the device, its ``error``.

    * ``peak_mib``: the allocator's peak, over what stays from step to step (``stays_mib``); ``reserved_mib``
    * ``comparing_mib``: the peak where MTO's gradients are compared with the method's, as now and then
    * ``kept_mib``: an image, the storages kept for the backward pass; ``kept_once_mib``: those that no image adds to
    * ``traffic_gb``: bytes that operators read and write, forward and backward, each tensor once
    * ``launches``, ``waits``: of the whole step, on an emulated GPU
    * ``compiled``: as `Trained.compiled` has it

    A step is one that is not logged. Traffic and what is kept are of the eager step of our own models.
    """
    trained: Trained | None = None
    for memory in memories:
        row: Row = {"memory": memory}
        try:
            if trained is None or bench.compile:
                trained = None
                bench.free()
                trained = replace(bench, memory=memory).prepare(job, images)
            spare(trained.work.model, memory)
            row |= _step(bench, trained, job, images, modules and memory == "fast")
        except torch.OutOfMemoryError:
            trained = None
            row["error"] = f"{OUT_OF_MEMORY} at micro-batch {images}"
        yield row
    del trained
    bench.free()


def _step(bench: Bench, trained: Trained, job: LoggedJob, images: int, modules: bool) -> Row:
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
        row["kept_mib"] = (whole - half) / (images - images // 2) / MIB
        row["kept_once_mib"] = whole / MIB - images * row["kept_mib"]
        row["traffic_gb"] = traffic(trained) / 1e9
        if modules:
            row["modules"] = where_kept(trained).table()
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
    """Finds the distinct storages that a forward pass keeps for the backward pass, and the module that kept each.

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


def kept(trained: Trained, images: int) -> int:
    """Returns the bytes that a forward pass of the first ``images`` of the micro-batch leaves for the backward pass."""
    gc.collect()
    before = torch.cuda.memory_stats()["requested_bytes.all.current"]
    result = loss(trained, images)
    after = torch.cuda.memory_stats()["requested_bytes.all.current"]
    return after - before - result.nbytes


def where_kept(trained: Trained) -> Kept:
    """Returns what a forward pass keeps, and where."""
    counter = Kept(trained.work.model)
    with counter.watching():
        loss(trained, trained.work.images)
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
