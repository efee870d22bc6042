"""Pre-training of the four baselines, with and without MTO, in segments."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tiny import METHODS, linear_steps, pretrain_job, run

from mto.data.imagenet import PretrainDataset, collate
from mto.data.sampler import EpochSampler
from mto.losses.balance import Balance
from mto.methods.encoder import build_encoder
from mto.tasks.pretrain import build_model
from mto.training import compiled
from mto.training.checkpoint import load_state
from mto.training.hardware import Hardware
from mto.training.log import read_history
from typed_jobs import typed


@pytest.mark.parametrize("baseline", METHODS)
def test_outputs_of_a_baseline(pretrained, baseline):
    out = pretrained(baseline)
    names = {path.name for path in out.iterdir()}
    assert names == {"encoder.safetensors", "state.pth", "metrics.json", "history.jsonl", "job.json", "progress"}
    kept = {"tensorboard", "attempts", "finished", "origin.json"}
    assert {path.name for path in (out / "progress").iterdir()} == kept
    for path in (out / "progress" / "finished").iterdir():
        assert path.samefile(out / path.name)  # a second name, no second copy
    assert {path.name for path in (out / "progress" / "finished").iterdir()} == names - {"job.json", "progress"}

    size = {k: v for k, v in METHODS[baseline].items() if k in ("img_size", "patch_size", "embed_dim", "depth")}
    encoder = build_encoder(
        baseline, **size, num_heads=2, mlp_ratio=2.0, init_values=METHODS[baseline].get("init_values")
    )
    encoder.load_state_dict(load_file(out / "encoder.safetensors"))
    with safe_open(out / "encoder.safetensors", "pt") as file:
        assert file.metadata()["run"] == f"{baseline}-vitb"
        assert file.metadata()["epoch"] == "2"

    report = json.loads((out / "metrics.json").read_text())
    assert {"task", "scale", "run", "baseline", "backbone", "seed", "epoch", "metrics", "provenance"} == report.keys()
    metrics = report["metrics"]
    stream = "feature/" if baseline == "bootmae" else ""
    assert {"loss", "loss_spa", "loss_e", "loss_r", "grad_norm", f"{stream}heterogeneity_0"} <= metrics.keys()
    assert {f"{stream}saturated_2", f"{stream}heterogeneity_ratio"} <= metrics.keys()
    assert all(torch.isfinite(torch.tensor(value)) for value in metrics.values())
    assert report["provenance"].keys() == {
        "commit",
        "versions",
        "device",
        "gpus",
        "wall_seconds",
        "gpu_hours",
        "images_per_second",
    }


def test_the_loss_is_the_methods_plus_mtos(pretrained):
    rows = read_history(pretrained("mae") / "history.jsonl")
    for row in rows:
        parts = row["loss_reconstruction"] + row["loss_spa"] + row["loss_e"] + row["loss_r"]
        assert row["loss"] == pytest.approx(parts, rel=1e-5)


def test_the_terms_warm_up_by_epochs(images, tmp_path):
    """3 steps an epoch, all logged: a step weighs the terms by the epochs before it, over 2."""
    job = pretrain_job(images, "mae") | {"log_interval": 1}
    job["mto"]["warmup_epochs"] = 2.0
    rows = read_history(run(job, tmp_path) / "history.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    for row in rows:
        terms = row["loss_spa"] + row["loss_e"] + row["loss_r"]
        ramp = (row["step"] - 1) / 3 / 2
        assert row["loss"] == pytest.approx(row["loss_reconstruction"] + ramp * terms, rel=1e-5)


def test_the_model_is_the_jobs(images):
    job = pretrain_job(images, "bootmae", terms=("e",))
    switches = {"e_weight": 0.5, "streams": "mean", "affinity": "cosine", "temperature": 0.1, "eps": 0.01}
    job["mto"] |= switches
    model = build_model(typed(job))
    assert {key: model.mto.settings[key] for key in ("terms", *switches)} == {"terms": ["e"], **switches}
    assert model.num_masked == 12  # of 16, known beforehand: no pass waits for the device to count them
    block = {"sampler": "block", "ratio": 0.5, "block_patches": 8, "min_block": 2, "max_block": 4}
    job = pretrain_job(images, "conmim") | {"mask": block}
    assert build_model(typed(job)).num_masked is None


def test_heterogeneity_is_measured_at_the_logged_steps(images, tmp_path):
    rows = read_history(run(pretrain_job(images, "mae", terms=()), tmp_path) / "history.jsonl")
    assert [row["step"] for row in rows] == [2, 3, 4, 6]  # every other step, and the last of an epoch
    assert all("heterogeneity_0" in row and "saturated_2" in row for row in rows)


def test_without_mto_heterogeneity_is_measured_and_changes_nothing(images, tmp_path):
    logged = run(pretrain_job(images, "mae", terms=()), tmp_path / "logged")
    seldom = run(pretrain_job(images, "mae", terms=()) | {"log_interval": 100}, tmp_path / "seldom")
    rows = read_history(logged / "history.jsonl")
    assert all("heterogeneity_2" in row and row["loss"] == pytest.approx(row["loss_reconstruction"]) for row in rows)
    a, b = load_file(logged / "encoder.safetensors"), load_file(seldom / "encoder.safetensors")
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("baseline", METHODS)
def test_signs_of_a_collapse_are_logged_with_heterogeneity(pretrained, baseline):
    signs = ("masked_cosine", "modal_share", "effective_rank", "visible_norm")
    streams = ("pixel/", "feature/") if baseline == "bootmae" else ("",)
    for row in read_history(pretrained(baseline) / "history.jsonl"):
        assert {f"{stream}{sign}" for stream in streams for sign in signs} | {"constant_ratio"} <= row.keys()
        assert all(0 < row[f"{stream}modal_share"] <= 1 for stream in streams)
        assert not [
            name for name in row if name.startswith("gradient")
        ]  # every 10 intervals of 2 of its 6 steps: never


@pytest.mark.parametrize("baseline", METHODS)
def test_comparing_gradients_alters_nothing(images, pretrained, tmp_path, baseline):
    """Every 2 log intervals of 2 steps, once in 6 steps; on the first of two micro-batches."""
    job = pretrain_job(images, baseline)
    out = run(job, tmp_path / "compared", gradient_interval=2)
    names = {f"gradient_{name}" for name in ("method", "mto", "spa", "e", "r")}
    rows = {row["step"]: row for row in read_history(out / "history.jsonl")}
    assert [step for step, row in rows.items() if names <= row.keys()] == [4]
    assert all(rows[4][name] > 0 for name in names)
    assert rows[4]["gradient_mto"] <= sum(rows[4][f"gradient_{term}"] for term in ("spa", "e", "r")) * (1 + 1e-5)
    for row, plain in zip(rows.values(), read_history(pretrained(baseline) / "history.jsonl"), strict=True):
        kept = {name: value for name, value in row.items() if name not in names and name != "images_per_second"}
        assert kept == {name: plain[name] for name in kept}
    a, b = (load_state(folder / "state.pth") for folder in (pretrained(baseline), out))
    assert all(torch.equal(value, b["state_dict"][name]) for name, value in a["state_dict"].items())


@pytest.mark.parametrize("baseline", METHODS)
def test_comparing_gradients_alters_nothing_of_a_compiled_run(images, tmp_path, monkeypatch, baseline):
    """The comparison is eager, and rounds differently: it has a pass of its own."""
    monkeypatch.setattr(Hardware, "compiles", property(lambda self: True))
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")
    weights = []
    for name, interval in (("plain", 0), ("compared", 1)):
        torch._dynamo.reset()
        out = run(pretrain_job(images, baseline), tmp_path / name, gradient_interval=interval)
        weights.append(load_state(out / "state.pth")["state_dict"])
    assert any("gradient_mto" in row for row in read_history(out / "history.jsonl"))
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_gradients_are_those_of_the_weighted_terms_of_the_first_micro_batch(images, tmp_path):
    """The first step's, by hand from the run's own initial model and batch."""
    job = pretrain_job(images, "mae") | {"log_interval": 1}
    job["mto"] |= {"e_weight": 0.5}
    parts = run(job, tmp_path, Hardware(micro_batch=4), gradient_interval=1)
    row = read_history(parts / "history.jsonl")[0]
    dataset = PretrainDataset(typed(job))
    model = build_model(typed(job))
    sampler = EpochSampler(len(dataset), seed=0, shuffle=True, drop_last_to=12)
    batch = model.data_preprocessor(collate([dataset[key] for key in list(sampler)[:4]]))
    image, mask = batch["image"], batch["mask"]
    out = model(image, mask, mode="tensor")
    terms = model.mto.streams(out["hidden"], mask, num_masked=model.num_masked)
    for name, loss in {"method": out["loss"] - terms["loss"], "e": 0.5 * terms["loss_e"], "mto": terms["loss"]}.items():
        model.zero_grad()
        loss.backward(retain_graph=True)
        norm = torch.cat([p.grad.flatten() for p in model.method.parameters() if p.grad is not None]).norm()
        assert row[f"gradient_{name}"] == pytest.approx(float(norm), rel=1e-4)


@pytest.mark.parametrize("baseline", METHODS)
def test_two_segments_equal_one_run(images, pretrained, tmp_path, baseline):
    first = run(pretrain_job(images, baseline, epoch=1), tmp_path / "first")
    second = run(pretrain_job(images, baseline), tmp_path / "second", state=first / "state.pth")
    a, b = load_state(pretrained(baseline) / "state.pth"), load_state(second / "state.pth")
    assert a["meta"]["epoch"] == b["meta"]["epoch"] == 2
    assert a["state_dict"].keys() == b["state_dict"].keys()
    for name, value in a["state_dict"].items():
        assert torch.equal(value, b["state_dict"][name]), name
    early = load_state(first / "state.pth")["state_dict"]
    assert not all(torch.equal(value, early[name]) for name, value in a["state_dict"].items())


#: Shares of the method's gradient: measured at the first step, and at each third.
BALANCE = {"interval": 3, "dense": 0, "images": 32, "memory": 0.5, "largest": 1e4}
BALANCED = {**{f"{term}_weight": 0.15 for term in ("spa", "e", "r")}, "balance": BALANCE}


@pytest.mark.parametrize("baseline", ["mae", "conmim"])
def test_a_strength_that_is_measured_is_a_part_of_the_state(images, tmp_path, baseline):
    """6 steps, measured at the first and the fourth, where a segment begins; resumed bit for bit."""
    jobs = [pretrain_job(images, baseline, epoch) for epoch in (1, 2)]
    for job in jobs:
        job["mto"] |= BALANCED
    whole = run(jobs[1], tmp_path / "whole", gradient_interval=1)
    first = run(jobs[0], tmp_path / "first")
    second = run(jobs[1], tmp_path / "second", state=first / "state.pth")
    a, b = (load_state(folder / "state.pth")["state_dict"] for folder in (whole, second))
    assert {"mto.balance.log_factors"} <= a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name


def test_the_measured_strength_is_that_of_the_first_micro_batch(images, tmp_path, monkeypatch):
    """Of its images no more than asked for; a pass of its own, without drop path's random numbers."""
    seen = []
    measure = Balance.measure

    def spy(self, method, terms, embeddings):
        seen.append(len(embeddings[0]))
        measure(self, method, terms, embeddings)

    monkeypatch.setattr(Balance, "measure", spy)
    job = pretrain_job(images, "simmim")
    job["mto"] |= BALANCED | {"balance": BALANCE | {"dense": 2, "images": 5}}
    run(job, tmp_path / "out", Hardware(micro_batch=6))
    assert seen == [5, 5, 5]  # steps 1, 2 and 4 of 6; not at each micro-batch


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("baseline", METHODS)
def test_two_compiled_segments_equal_one_compiled_run(images, tmp_path, monkeypatch, capsys, baseline, backend):
    monkeypatch.setattr(Hardware, "compiles", property(lambda self: True))
    monkeypatch.setattr(compiled, "BACKEND", backend)
    whole = run(pretrain_job(images, baseline), tmp_path / "whole")
    torch._dynamo.reset()  # a segment is another process, which compiles anew
    first = run(pretrain_job(images, baseline, epoch=1), tmp_path / "first")
    torch._dynamo.reset()
    second = run(pretrain_job(images, baseline), tmp_path / "second", state=first / "state.pth")
    a, b = (load_state(folder / "state.pth")["state_dict"] for folder in (whole, second))
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name
    assert "torch.compile failed" not in capsys.readouterr().out


@pytest.mark.parametrize("baseline", ["bootmae", "conmim"])
def test_teachers_move_and_are_not_trained(pretrained, baseline):
    state = load_state(pretrained(baseline) / "state.pth")["state_dict"]
    student, teacher = "method.encoder.", "teacher." if baseline == "bootmae" else "teacher.encoder."
    pairs = [(v, state[k.replace(student, teacher)]) for k, v in state.items() if k.startswith(f"{student}blocks")]
    pairs = [(student, teacher) for student, teacher in pairs if not torch.equal(student, teacher)]
    assert pairs  # the teacher lags behind its student
    distance = sum((student - teacher).abs().sum() for student, teacher in pairs)
    assert 0 < distance < sum(student.abs().sum() for student, _ in pairs)


@pytest.mark.parametrize("baseline", ["mae", "bootmae"])
def test_accumulated_steps_equal_whole_ones(images, tmp_path, baseline):
    """No batch norm and no drop path here: only the order of sums differs. BootMAE's teacher moves once a step."""
    job = linear_steps(pretrain_job(images, baseline))
    whole = run(job, tmp_path / "whole")
    parts = run(job, tmp_path / "parts", Hardware(micro_batch=4))
    a, b = (load_state(folder / "state.pth")["state_dict"] for folder in (whole, parts))
    for name, value in a.items():
        torch.testing.assert_close(b[name], value, rtol=1e-4, atol=1e-5)


def test_progress_of_another_job_is_dropped(images, tmp_path):
    """A killed job's progress must not be continued by an edited job."""
    from mto.tasks.task import Task

    job = pretrain_job(images, "mae")
    Task("pretrain", typed(job), {}, tmp_path).start()
    kept = tmp_path / "progress" / "last.pth"
    kept.write_bytes(b"state")
    Task("pretrain", typed(job), {}, tmp_path).start()
    assert kept.exists()
    Task("pretrain", typed(job | {"seed": 1}), {}, tmp_path).start()
    assert not kept.exists()


def test_seeds_differ_from_the_start(images, tmp_path):
    encoders = []
    for seed in (0, 1):
        out = run(pretrain_job(images, "mae", epoch=1) | {"seed": seed}, tmp_path / str(seed))
        encoders.append(load_file(out / "encoder.safetensors"))
    assert not torch.equal(encoders[0]["blocks.0.attn.qkv.weight"], encoders[1]["blocks.0.attn.qkv.weight"])
