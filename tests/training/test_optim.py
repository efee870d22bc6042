"""Batches by accumulation, parameter groups, LARS, precision."""

import copy

import pytest
import torch
from torch import nn
from toy import ToyModel, fit

from mto.config.job import Optim
from mto.errors import UserError
from mto.methods.encoder import build_classifier
from mto.training.checkpoint import load_state
from mto.training.hardware import BatchPlan, Hardware, plan_batch
from mto.training.log import read_history
from mto.training.optim import StepWrapper, build_optimizer, parameter_groups


# ------------------------------------------------------------------------------------------------------------ batches
@pytest.mark.parametrize("batch", [2048, 4096, 1024])
@pytest.mark.parametrize(("gpus", "micro"), [(1, 64), (8, 64), (8, 128), (16, None), (1, None)])
def test_the_configured_batch_holds_exactly(batch, gpus, micro):
    plan = plan_batch(batch, gpus, micro)
    assert plan.micro * plan.accumulation * gpus == batch
    assert plan.micro == (micro or batch // gpus)


@pytest.mark.parametrize(
    ("batch", "gpus", "micro", "nearest"),
    [(2048, 3, 64, 2112), (100, 1, 64, 128), (10, 8, 4, 8), (2048, 3, None, 2046)],
)
def test_a_batch_that_cannot_be_made_is_refused_with_the_nearest(batch, gpus, micro, nearest):
    with pytest.raises(UserError, match=rf"batch of {batch} .* nearest that can is {nearest};"):
        plan_batch(batch, gpus, micro)


def test_a_micro_batch_is_at_most_a_ranks_share():
    assert plan_batch(1024, 8, 512) == BatchPlan(1024, 128, 1)


def test_plan_on_one_cpu_is_the_whole_batch():
    assert Hardware().plan(128) == BatchPlan(128, 128, 1)


@pytest.mark.parametrize("clip", [None, 0.05])
def test_accumulated_steps_equal_whole_ones(tmp_path, clip):
    """A clip that always bites: clipping each pass by itself would give another gradient."""
    for name, micro in (("whole", None), ("parts", 2)):
        fit(tmp_path / name, model=ToyModel(dropout=0.0), clip=clip, hardware=Hardware(micro_batch=micro))
    whole, parts = (load_state(tmp_path / name / "last.pth") for name in ("whole", "parts"))
    for name, value in whole["state_dict"].items():
        torch.testing.assert_close(parts["state_dict"][name], value, rtol=1e-5, atol=1e-6)
    rows = [read_history(tmp_path / name / "history.jsonl") for name in ("whole", "parts")]
    for a, b in zip(*rows, strict=True):
        assert {k: a[k] for k in ("step", "epoch", "lr")} == {k: b[k] for k in ("step", "epoch", "lr")}
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-4)
        assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=1e-4)
        assert clip is None or a["grad_norm"] > 0.05


def test_gradient_of_one_accumulated_step():
    model = ToyModel(dropout=0.0)
    x, y = torch.randn(8, 6), torch.randn(8, 1)
    model(x, y)["loss"].backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    wrapper = StepWrapper(torch.optim.SGD(model.parameters(), lr=0.0), accumulation=4)
    wrapper.optimizer.zero_grad = lambda: None
    for part in range(4):
        wrapper.backward(model(x[2 * part : 2 * part + 2], y[2 * part : 2 * part + 2])["loss"])
    seen = wrapper.step()
    for p, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, gradient)
    norm = torch.sqrt(sum(g.square().sum() for g in expected))
    torch.testing.assert_close(seen, norm)


# ------------------------------------------------------------------------------------------------------------- groups
def test_weight_decay_spares_vectors_biases_and_named_parameters():
    net = build_classifier("mae", num_classes=3, img_size=8, patch_size=4, embed_dim=8, depth=2, num_heads=2)
    groups = parameter_groups(net, weight_decay=0.05, no_decay={"pos_embed", "cls_token"})
    decayed = {name for group in groups if group["weight_decay"] for name in group["names"]}
    spared = {name for group in groups if not group["weight_decay"] for name in group["names"]}
    assert "blocks.0.attn.qkv.weight" in decayed
    assert {"pos_embed", "cls_token", "blocks.0.norm1.weight", "blocks.1.mlp.fc1.bias", "fc_norm.weight"} <= spared
    assert decayed | spared == {name for name, p in net.named_parameters() if p.requires_grad}
    assert "cls_token" in next(g["names"] for g in parameter_groups(net, weight_decay=0.05) if g["weight_decay"])


def test_frozen_parameters_are_in_no_group():
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    (group,) = parameter_groups(model, weight_decay=0.1)
    assert group["names"] == ["weight"]


@pytest.mark.parametrize(("depth", "decay", "smallest"), [(12, 0.65, 3.70e-3), (12, 0.6, 1.31e-3), (24, 0.75, 7.53e-4)])
def test_layer_decay_multipliers(depth, decay, smallest):
    net = build_classifier("simmim", num_classes=3, img_size=8, patch_size=4, embed_dim=4, depth=depth, num_heads=1)
    groups = parameter_groups(net, weight_decay=0.05, layer_decay=decay, depth=depth)
    multiplier = {name: group["multiplier"] for group in groups for name in group["names"]}
    assert len(set(multiplier.values())) == depth + 2
    assert multiplier["patch_embed.proj.weight"] == pytest.approx(smallest, rel=5e-3)
    assert multiplier["blocks.0.attn.relative_position_bias_table"] == pytest.approx(decay**depth)
    assert multiplier[f"blocks.{depth - 1}.attn.qkv.weight"] == pytest.approx(decay)
    assert multiplier["head.weight"] == multiplier["fc_norm.weight"] == 1.0


def test_layer_decay_of_an_encoder_inside_a_larger_model():
    net = build_classifier("mae", num_classes=3, img_size=8, patch_size=4, embed_dim=4, depth=2, num_heads=1)
    model = nn.ModuleDict({"backbone": net, "neck": nn.Linear(2, 2)})
    groups = parameter_groups(model, weight_decay=0.05, layer_decay=0.5, depth=2, prefix="backbone.")
    multiplier = {name: group["multiplier"] for group in groups for name in group["names"]}
    assert multiplier["backbone.cls_token"] == 0.125
    assert multiplier["neck.weight"] == 1.0


# --------------------------------------------------------------------------------------------------------------- LARS
def test_lars_is_that_of_maes_probe():
    """Momentum 0.9, trust 0.001, no weight decay; only matrices get trust scaling (MAE:util/lars.py:14-47)."""
    model = nn.Linear(5, 3)
    optimizer = build_optimizer(
        parameter_groups(model, weight_decay=0.0),
        Optim(kind="lars", batch_size=4, lr=6.4, weight_decay=0.0, momentum=0.9),
    )
    weight, bias = copy.deepcopy(model.weight.data), copy.deepcopy(model.bias.data)
    momentum = [torch.zeros_like(weight), torch.zeros_like(bias)]
    for _ in range(4):
        model.zero_grad()
        model(torch.randn(7, 5)).square().sum().backward()
        for value, mu, gradient in zip((weight, bias), momentum, (model.weight.grad, model.bias.grad), strict=True):
            trust = 0.001 * value.norm() / gradient.norm() if value.ndim > 1 else 1.0
            mu.mul_(0.9).add_(trust * gradient)
            value.sub_(6.4 * mu)
        optimizer.step()
        torch.testing.assert_close(model.weight.data, weight)
        torch.testing.assert_close(model.bias.data, bias)


# ---------------------------------------------------------------------------------------------------------- precision
def test_bf16_runs_on_the_cpu_and_differs_from_fp32(tmp_path):
    for precision in ("fp32", "bf16"):
        fit(tmp_path / precision, model=ToyModel(dropout=0.0), precision=precision)
    full, half = (load_state(tmp_path / p / "last.pth")["state_dict"] for p in ("fp32", "bf16"))
    assert all(value.dtype == torch.float32 for value in half.values())
    assert any(not torch.equal(full[name], half[name]) for name in full)
    for name in full:
        torch.testing.assert_close(full[name], half[name], atol=0.1, rtol=0.1)


def test_fp16_is_for_gpus():
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        StepWrapper(torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1), precision="fp16")
