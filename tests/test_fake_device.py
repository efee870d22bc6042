"""Every stage's forward pass on a GPU that is not there: torch's fake tensors know their device and have no values.

A tensor left on the CPU meets one on the device and is an error; so is whatever would make the GPU's caller wait for a
value: ``item()``, a branch on a tensor, boolean indexing. (A backward pass needs a GPU's context, which
tests/bench/test_memory.py has from an emulated one.)
"""

import itertools
from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from fake_gpu import fake, on_fake_gpu
from mto.bench.workloads import Workload, build, job_of
from mto.config import load
from mto.data.device.pixels import Pixels
from mto.names import BASELINES
from mto.study.study import Study


@pytest.fixture(scope="module")
def study() -> Study:
    return Study(load("config.yaml", scale="demo"))


@pytest.fixture
def mode() -> FakeTensorMode:
    return FakeTensorMode()


def on_gpu(mode: FakeTensorMode, work: Workload) -> Any:
    """Moves the workload's model to the fake GPU; its batch, which is returned, is still on the CPU, a fake one too."""
    for module in work.model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, value in tensors.items():
                if value is not None:
                    here = mode.from_tensor(value.detach())
                    with mode:
                        moved = here.to("cuda")
                        is_parameter = isinstance(value, nn.Parameter)
                        tensors[name] = nn.Parameter(moved, value.requires_grad) if is_parameter else moved
    if isinstance(work.model.data_preprocessor, Pixels):
        on_fake_gpu(mode, work.model.data_preprocessor)
    return fake(mode, work.batch)


@pytest.fixture
def autocast(monkeypatch) -> None:
    """Where no CUDA is, torch switches ``autocast("cuda")`` off, and every product would be float32."""
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)


class Products(TorchDispatchMode):
    """Counts matrix products by the type of their numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.types: Counter[torch.dtype] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._schema.name in ("aten::mm", "aten::addmm"):
            self.types[args[-1].dtype] += 1
        return func(*args, **(kwargs or {}))


#: Stages whose losses have shapes that no value decides, and what of a pre-training step is measured.
STEPS = [("pretrain", False), ("pretrain", True), ("pretrain-mto", False), ("pretrain-mto", True)]
STEPS += [("finetune", False), ("linear", False)]


@pytest.mark.usefixtures("autocast")
@pytest.mark.parametrize(("baseline", "step"), itertools.product(BASELINES, STEPS))
def test_the_step_stays_on_the_device_and_waits_for_nothing(study, mode, baseline, step):
    stage, measured = step
    work = build(job_of(study, stage, baseline), 4)
    batch = on_gpu(mode, work)
    if stage.startswith("pretrain"):
        work.model.measure = measured
        work.model.mto._validate = False  # the first step on a device looks at the mask, once
    with mode, Products() as products, torch.autocast("cuda", torch.bfloat16):
        losses = work.model(**work.model.data_preprocessor(batch, True), mode="loss")
    assert losses["loss"].device.type == "cuda"
    assert all(value.device.type == "cuda" for value in losses.values())
    assert losses["loss"].requires_grad
    heads = len(getattr(work.model, "heads", ()))  # a probe's, in float32 by its recipe
    affinities = products.types[torch.float32] - heads
    assert products.types[torch.bfloat16] > 4 * affinities  # MTO's, at the most


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("stage", ["ade20k", "coco"])
def test_the_dense_networks_stay_on_the_device_and_wait_for_nothing(study, mode, baseline, stage):
    """As far as shapes do not depend on values: the losses of both sample pixels or boxes."""
    work = build(job_of(study, stage, baseline), 2)
    batch = on_gpu(mode, work)
    with mode:
        images = torch.stack([image.to("cuda").float() for image in batch["inputs"]])
        features = work.model.extract_feat(images)
        outputs = [*features, *([work.model.decode_head(features)] if stage == "ade20k" else [])]
        if stage == "coco":
            outputs += [level for part in work.model.rpn_head(features) for level in part]
    assert len(outputs) > 4
    assert all(output.device.type == "cuda" for output in outputs)


class Careless(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.table = how, torch.ones(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.how == "item":
            return x * x.sum().item()
        if self.how == "branch":
            return x if x.sum() > 0 else -x
        return x * self.table


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("item", DataDependentOutputException, "_local_scalar_dense"),
        ("branch", DataDependentOutputException, "_local_scalar_dense"),
        ("table", RuntimeError, "at least two devices, cuda:0 and cpu"),
    ],
)
def test_a_careless_module_is_caught(mode, how, error, message):
    module = Careless(how)
    module.table = mode.from_tensor(module.table)
    with mode, pytest.raises(error, match=message):
        module(torch.ones(3, device="cuda"))
