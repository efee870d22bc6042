"""The loop trains the weights that it is given, in training mode, with noise of the step; buckets settle."""

import contextlib
import gc

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel
from toy import Observer, ToyData, ToyModel, as_it_is, fit

from mto.data.imagenet import build_loader
from mto.data.sampler import EpochSampler
from mto.methods.encoder import build_classifier
from mto.training.contract import Trainable, Validation
from mto.training.distributed import settle_buckets
from mto.training.loop import seed_noise
from mto.training.startup import uncollected


class Classifier(Trainable, torch.nn.Module):
    """A timm network inside a model, as in fine-tuning."""

    def __init__(self, baseline: str, init_values: float | None) -> None:
        super().__init__()
        self.data_preprocessor = as_it_is
        size = {"img_size": 8, "patch_size": 4, "embed_dim": 8, "depth": 1, "num_heads": 2}
        self.net = build_classifier(baseline, num_classes=2, init_values=init_values, **size)
        torch.nn.init.constant_(self.net.blocks[0].mlp.fc1.weight, 0.25)

    def forward(self, x, y, mode="tensor"):
        images = x.mean() * torch.ones(len(x), 3, 8, 8)
        return {"loss": (self.net(images).mean(1, keepdim=True) - y).square().mean()}


class FirstWeights(Observer):
    def before_pass(self, loop, batch):
        if not hasattr(self, "seen"):
            self.seen = loop.model.net.blocks[0].mlp.fc1.weight.detach().clone()


@pytest.mark.parametrize(("baseline", "init_values"), [("mae", None), ("simmim", 0.1)])
def test_a_pretrained_network_is_not_initialised_again(tmp_path, baseline, init_values):
    hook = FirstWeights()
    fit(tmp_path, model=Classifier(baseline, init_values), epochs=1, hooks=[hook])
    assert (hook.seen == 0.25).all()


class Modes(Observer):
    """Whether every part of the model is in training mode, at each step."""

    def __init__(self) -> None:
        self.seen: list[bool] = []

    def before_pass(self, loop, batch):
        self.seen.append(all(part.training for part in loop.model.modules()))


class Validated(ToyModel):
    def forward(self, x, y, mode="tensor"):
        out = super().forward(x, y)
        assert self.training == (mode != "predict")
        return [out["loss"]] if mode == "predict" else out


class Counting:
    """An evaluator that counts the batches since its last answer."""

    def __init__(self) -> None:
        self.batches, self.answers = 0, []

    def process(self, data_samples, data_batch):
        self.batches += 1

    def evaluate(self, size):
        self.answers.append((size, self.batches))
        self.batches = 0
        return {"top1": 0.0}


def test_training_goes_on_in_training_mode_after_a_validation(tmp_path):
    hook, model = Modes(), Validated().eval()  # as whoever made it may have left it
    loader = build_loader(ToyData(), EpochSampler(24, seed=0, shuffle=True), 8)
    counting = Counting()
    fit(tmp_path, model=model, epochs=3, hooks=[hook], validation=Validation(loader, counting))
    assert hook.seen == [True] * 9
    assert counting.answers == [(24, 3)] * 3


@pytest.mark.parametrize("on_a_gpu", [False, True])
def test_every_step_seeds_the_generator_that_the_model_draws_from(monkeypatch, on_a_gpu):
    seeds = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: on_a_gpu)
    monkeypatch.setattr(torch.cuda, "manual_seed", seeds.append)
    drawn = []
    for step in (3, 4, 3):
        seed_noise(0, step, 0)
        drawn.append(torch.rand(()).item())
    assert drawn[0] == drawn[2] != drawn[1]
    assert len(seeds) == (3 if on_a_gpu else 0)
    assert not on_a_gpu or seeds[0] == seeds[2] != seeds[1]


def test_imports_are_not_collected_and_what_follows_is():
    try:
        with contextlib.suppress(ImportError), uncollected():
            assert not gc.isenabled()
            raise ImportError
        assert gc.isenabled()
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()


def test_buckets_settle_with_devices_named_as_on_gpus(tmp_path):
    """With ``device_ids``, which only GPUs have, the wrapper moves its inputs: it needs one."""
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1
    )
    try:
        wrapped = DistributedDataParallel(torch.nn.Linear(2, 2))
        wrapped.device_ids, wrapped.device_type = [0], "cpu"  # a GPU job has them, but for the type
        settle_buckets(wrapped)
        assert all(parameter.grad is None for parameter in wrapped.parameters())
        assert wrapped(torch.ones(1, 2)).shape == (1, 2)
    finally:
        torch.distributed.destroy_process_group()
