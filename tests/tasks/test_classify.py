"""Fine-tuning and linear probes from pre-trained encoders."""

import json
import signal

import pytest
import torch
from tiny import METHODS, finetune_job, linear_job, run
from torch import nn

from mto.errors import UserError
from mto.methods.encoder import build_encoder
from mto.tasks import linear
from mto.tasks.finetune import accuracy as finetune_accuracy
from mto.tasks.linear import accuracy as linear_accuracy
from mto.training import classifier
from mto.training.classifier import Accuracy, FineTuned, LinearProbe, hits
from mto.training.distributed import average_buffers_
from mto.training.log import read_history
from mto.training.signals import Signals

ENCODER = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 3, "num_heads": 2}


def metrics(out):
    return json.loads((out / "metrics.json").read_text())["metrics"]


@pytest.mark.parametrize("baseline", METHODS)
def test_finetune(images, pretrained, tmp_path, baseline):
    job = finetune_job(images, baseline)
    out = run(job, tmp_path, encoder=pretrained(baseline) / "encoder.safetensors")
    assert metrics(out).keys() == {"top1", "top5", "top1_best"}
    assert metrics(out)["top5"] == 100.0  # of three classes
    rows = [row for row in read_history(out / "history.jsonl") if "top1" in row]
    assert [row["epoch"] for row in rows] == [2.0, 3.0]  # every second epoch and the last


def test_finetune_learns_without_mixing(images, pretrained, tmp_path):
    job = finetune_job(images, "mae", epochs=15)
    job["data"]["augment"] |= {"mixup": 0.0, "cutmix": 0.0, "reprob": 0.0}
    out = run(job, tmp_path, encoder=pretrained("mae") / "encoder.safetensors")
    assert metrics(out)["top1"] > 80


def test_finetune_with_averaged_weights(images, pretrained, tmp_path):
    job = finetune_job(images, "bootmae", ema_decay=0.9)
    out = run(job, tmp_path, encoder=pretrained("bootmae") / "encoder.safetensors")
    last = read_history(out / "history.jsonl")[-1]
    assert metrics(out)["top1"] == last["top1_ema"]
    assert metrics(out)["top1_raw"] == last["top1"]


def test_weight_average_follows_each_step(images, pretrained, tmp_path, monkeypatch):
    import mto.tasks.finetune as module

    models = []
    monkeypatch.setattr(module, "FineTuned", lambda net, **kwargs: models.append(FineTuned(net, **kwargs)) or models[0])
    job = finetune_job(images, "bootmae", ema_decay=0.0)
    run(job, tmp_path, encoder=pretrained("bootmae") / "encoder.safetensors")
    for name, value in models[0].net.named_parameters():
        assert torch.equal(value, models[0].ema.get_parameter(name)), name


@pytest.mark.parametrize(
    ("baseline", "probe"),
    [
        ("mae", {}),
        ("simmim", {"feature": "mean", "layer": 1, "norm": False}),
        ("bootmae", {"feature": "mean", "layer": 1, "norm": "fresh"}),
    ],
)
def test_linear(images, pretrained, tmp_path, baseline, probe):
    out = run(linear_job(images, baseline, **probe), tmp_path, encoder=pretrained(baseline) / "encoder.safetensors")
    assert metrics(out).keys() == {"top1", "top5", "top1_best"}


def test_linear_probe_of_every_layer(images, pretrained, tmp_path):
    job = linear_job(
        images,
        "conmim",
        {"kind": "adamw", "lr": 0.01, "weight_decay": 1e-4},
        feature="cls_mean",
        layer=[1, 2],
        norm=False,
        batch_norm=False,
    )
    values = metrics(run(job, tmp_path, encoder=pretrained("conmim") / "encoder.safetensors"))
    assert values["top1"] == max(values["top1_layer1"], values["top1_layer2"])
    assert values["top1"] == values[f"top1_layer{values['best_layer']}"]
    assert values["top1_best"] >= values["top1"]


def test_an_encoder_of_another_size_is_refused(images, pretrained, tmp_path):
    job = finetune_job(images, "mae")
    job["encoder"]["embed_dim"] = 32
    with pytest.raises((UserError, ValueError), match="encoder"):
        run(job, tmp_path, encoder=pretrained("mae") / "encoder.safetensors")


# ------------------------------------------------------------------------------------------------------------- features
@pytest.fixture
def encoder():
    return build_encoder("mae", **ENCODER).eval()


def probe(encoder, **kwargs) -> LinearProbe:
    settings = {"feature": "cls", "layers": [3], "norm": True, "batch_norm": True, "std": 0.01} | kwargs
    return LinearProbe(encoder, num_classes=5, **settings)


def test_features_are_those_of_the_encoder(encoder):
    images = torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        tokens = encoder.forward_features(images)
    (cls,) = probe(encoder).features(images)
    torch.testing.assert_close(cls, tokens[:, 0])
    (both,) = probe(encoder, feature="cls_mean").features(images)
    torch.testing.assert_close(both, torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], -1))


def test_features_of_an_inner_layer_skip_the_rest(encoder):
    images = torch.randn(2, 3, 16, 16)
    (inner,) = probe(encoder, feature="mean", layers=[2], norm=False).features(images)
    (fresh,) = probe(encoder, feature="mean", layers=[2], norm="fresh").features(images)
    torch.testing.assert_close(fresh, nn.functional.layer_norm(inner, (16,), eps=1e-6))
    encoder.blocks = encoder.blocks[:2]
    encoder.norm = nn.Identity()
    with torch.no_grad():
        torch.testing.assert_close(inner, encoder.forward_features(images)[:, 1:].mean(1))


def test_the_probed_encoder_stays_frozen_and_in_eval_mode(encoder):
    model = probe(encoder).train()
    assert model.heads[0].training
    assert not any(module.training for module in encoder.modules())
    model(torch.randn(6, 3, 16, 16), torch.zeros(6, dtype=torch.int64))["loss"].backward()
    assert all(p.grad is None for p in encoder.parameters())
    assert model.heads[0].linear.weight.grad is not None
    assert model.heads[0].norm.eps == 1e-6
    assert model.heads[0].norm.weight is None


def test_heads_stay_in_float32(encoder):
    model = probe(encoder, layers=[1, 3])
    with torch.autocast("cpu", torch.bfloat16):
        logits = model.logits(torch.randn(6, 3, 16, 16))
    assert {value.dtype for value in logits.values()} == {torch.float32}


def test_adamw_decays_a_probes_biases(images, pretrained, tmp_path, monkeypatch):
    """BEiT's probe decays all that it trains."""
    seen = []

    def train(task, model, optimizer, *arguments):
        seen.append(optimizer.optimizer)
        raise StopIteration

    monkeypatch.setattr(linear, "train", train)
    job = linear_job(images, "mae", {"kind": "adamw", "lr": 0.01, "weight_decay": 1e-4})
    with pytest.raises(StopIteration):
        run(job, tmp_path, encoder=pretrained("mae") / "encoder.safetensors")
    (group,) = seen[0].param_groups
    assert (len(group["params"]), group["weight_decay"]) == (2, 1e-4)


def test_statistics_are_averaged_once_an_epoch_whatever_happens_in_its_validation(
    images, pretrained, tmp_path, monkeypatch
):
    """Ranks see other batches: each would evaluate with statistics of its own. But of a state that was left in a
    validation they are one already, and the mean of three equal numbers is not always that number."""
    averaged, signals = [], [signal.SIGTERM, 0, 0, 0]
    monkeypatch.setattr(classifier, "average_buffers_", averaged.append)
    monkeypatch.setattr(Signals, "in_validation", lambda self, everyone: signals.pop(0))
    encoder = pretrained("mae") / "encoder.safetensors"
    with pytest.raises(SystemExit):
        run(linear_job(images, "mae"), tmp_path, encoder=encoder)
    assert len(averaged) == 1
    run(linear_job(images, "mae"), tmp_path, encoder=encoder)
    assert len(averaged) == 2
    assert all(isinstance(model, LinearProbe) for model in averaged)


def test_statistics_become_their_means_over_the_ranks(monkeypatch):
    norm = nn.BatchNorm1d(2)
    norm.running_mean.copy_(torch.tensor([1.0, 2.0]))
    norm.num_batches_tracked.fill_(4)
    monkeypatch.setattr("mto.training.distributed.world_size", lambda: 2)
    monkeypatch.setattr("torch.distributed.all_reduce", lambda x: x.add_(x.flip(0) if x.is_floating_point() else 6))
    average_buffers_(norm)  # the other rank has the same numbers in another order, and one more batch
    assert torch.equal(norm.running_mean, torch.tensor([1.0, 1.5]))  # (1, 2, 1, 1) and (1, 1, 2, 1)
    assert torch.equal(norm.running_var, torch.tensor([1.5, 1.0]))
    assert norm.num_batches_tracked == 5


def test_heads_of_several_layers_train_as_if_alone(encoder):
    images, labels = torch.randn(6, 3, 16, 16), torch.arange(6) % 5
    together = probe(encoder, layers=[1, 3])
    together(images, labels)["loss"].backward()
    for index, layer in enumerate([1, 3]):
        alone = probe(encoder, layers=[layer])
        alone.heads[0].load_state_dict(together.heads[index].state_dict())
        alone(images, labels)["loss"].backward()
        torch.testing.assert_close(alone.heads[0].linear.weight.grad, together.heads[index].linear.weight.grad)


# ------------------------------------------------------------------------------------------------------------- accuracy
def test_hits_and_accuracy():
    logits = torch.eye(8)[[0, 1, 2]] + 0.01 * torch.arange(8.0)
    counts = hits(logits, torch.tensor([0, 7, 3]))
    assert {name: int(count) for name, count in counts.items()} == {"top1": 1, "top5": 2}
    evaluator = Accuracy()
    evaluator.process([counts])
    evaluator.process([counts])
    assert evaluator.evaluate(8) == {"top1": 25.0, "top5": 50.0}
    evaluator.process([counts])
    assert evaluator.evaluate(4) == {"top1": 25.0, "top5": 50.0}  # counts start anew


def history(tmp_path, rows):
    path = tmp_path / "history.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_averaged_weights_count_after_half_of_the_schedule(tmp_path):
    rows = [
        {"step": 1, "epoch": 1.0, "top1": 60.0, "top5": 90.0, "top1_ema": 99.0, "top5_ema": 99.0},
        {"step": 2, "epoch": 2.0, "loss": 1.0},
        {"step": 3, "epoch": 3.0, "top1": 70.0, "top5": 91.0, "top1_ema": 80.0, "top5_ema": 92.0},
        {"step": 4, "epoch": 4.0, "top1": 75.0, "top5": 93.0, "top1_ema": 78.0, "top5_ema": 94.0},
    ]
    expected = {"top1": 78.0, "top5": 94.0, "top1_best": 80.0, "top1_raw": 75.0}
    assert finetune_accuracy(history(tmp_path, rows), 4) == expected


def test_linear_accuracy_takes_the_best_layer_of_the_last_epoch(tmp_path):
    rows = [
        {"step": 1, "epoch": 1.0, "top1_layer1": 50.0, "top5_layer1": 60.0, "top1_layer2": 30.0, "top5_layer2": 61.0},
        {"step": 2, "epoch": 2.0, "top1_layer1": 40.0, "top5_layer1": 62.0, "top1_layer2": 45.0, "top5_layer2": 63.0},
    ]
    found = linear_accuracy(history(tmp_path, rows), [1, 2])
    assert (found["top1"], found["top5"], found["top1_best"], found["best_layer"]) == (45.0, 63.0, 50.0, 2)
