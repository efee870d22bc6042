"""A signal while a task validates, other hardware for a dense task: it goes on to the same numbers."""

import json
import signal

import pytest
import torch
from dense_jobs import ade20k_job, coco_job, save_encoder
from tiny import finetune_job, linear_job

from mto.__main__ import main
from mto.data.demo import make_ade20k, make_coco
from mto.training.checkpoint import load_state
from mto.training.log import read_history
from mto.training.loop import Loop
from mto.training.signals import Signals

#: Of a dense task: as many as an epoch or a round has, so that an evaluation lies in the middle.
STEPS = 4


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """A job of each dense task on a few images of its own, and the encoder that they start from."""
    root = tmp_path_factory.mktemp("dense")
    make_ade20k(root / "ade20k", size=48, train=4, val=3)
    make_coco(root / "coco", size=48, train=4, val=3)
    segmentation = ade20k_job(root / "ade20k") | {"iterations": STEPS}
    detection = coco_job(root / "coco") | {"epochs": 2}
    return {
        job["task"]: (job, save_encoder(root / f"{job['task']}.safetensors", job)) for job in (segmentation, detection)
    }


@pytest.fixture
def job_of(images, pretrained, dense):
    def job(task):
        if task in dense:
            return dense[task]
        made = {"finetune": finetune_job, "linear": linear_job}[task](images, "mae")
        return made, pretrained("mae") / "encoder.safetensors"

    return job


def start(job, encoder, out, *arguments: str) -> int:
    given = ["--job", json.dumps(job), "--out", str(out), "--inputs", f"encoder={encoder}"]
    return main([job["task"], *given, *arguments])


def numbers(out) -> tuple:
    rows = [row | {"images_per_second": None} for row in read_history(out / "history.jsonl")]
    return rows, json.loads((out / "metrics.json").read_text())["metrics"]


@pytest.mark.parametrize("task", ["finetune", "linear", "ade20k", "coco"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1], ids=["SIGTERM", "SIGUSR1"])
def test_a_signal_in_a_validation(job_of, tmp_path, monkeypatch, capsys, task, number):
    job, encoder = job_of(task)
    passes = () if task in ("ade20k", "coco") else ("--micro-batch", "4")  # more than one in a validation
    assert start(job, encoder, tmp_path / "whole", *passes) == 0
    capsys.readouterr()
    validate, answer = Loop.validate, Signals.in_validation
    begun, seen = [], []

    def begin(self, *arguments):
        begun.append((self.step, len(seen)))
        validate(self, *arguments)

    def receive(self, everyone):
        step, first = begun[-1]
        seen.append((step, len(seen) - first))
        if len(seen) == 1:
            signal.raise_signal(number)
        return answer(self, everyone)

    monkeypatch.setattr(Loop, "validate", begin)
    monkeypatch.setattr(Signals, "in_validation", receive)
    with pytest.raises(SystemExit) as left:
        start(job, encoder, tmp_path / "run", *passes)
    assert left.value.code == 128 + number
    said = capsys.readouterr()
    assert said.err == ""
    step = seen[0][0]
    assert said.out.splitlines()[-1] == (
        f"mto: {number.name}: stopped and saved at step {step}; run again to continue from there"
    )
    assert seen == [(step, 0)]  # the rest of that validation was not waited for
    meta = load_state(tmp_path / "run" / "progress" / "last.pth")["meta"]
    assert (meta["step"], meta["round_open"]) == (step, True)
    assert not (tmp_path / "run" / "running.json").exists()
    assert start(job, encoder, tmp_path / "run", *passes) == 0
    assert [index for at, index in seen[1:] if at == step] == list(range(seen[-1][1] + 1))  # all of it, from its start
    assert numbers(tmp_path / "run") == numbers(tmp_path / "whole")


@pytest.mark.parametrize("task", ["ade20k", "coco"])
def test_other_workers_after_a_stop_change_no_bit(job_of, tmp_path, monkeypatch, task):
    """Within an epoch of COCO and between two states of ADE20K; the losses of each step tell of every weight."""
    job, encoder = job_of(task)
    assert start(job, encoder, tmp_path / "whole") == 0
    stop_after(monkeypatch, 1)
    with pytest.raises(SystemExit):
        start(job, encoder, tmp_path / "run")
    assert load_state(tmp_path / "run" / "progress" / "last.pth")["meta"]["step"] == 1
    assert start(job, encoder, tmp_path / "run", "--workers", "2") == 0
    assert numbers(tmp_path / "run") == numbers(tmp_path / "whole")
    assert len({row["loss"] for row in numbers(tmp_path / "run")[0] if "loss" in row}) == STEPS


@pytest.mark.parametrize("task", ["ade20k", "coco"])
def test_other_passes_after_a_stop_keep_rates_and_images(job_of, tmp_path, monkeypatch, task):
    """Not the very numbers: batch norms, and the regions that a detector draws, see one pass."""
    job, encoder = job_of(task)
    job = job | {"optim": job["optim"] | {"batch_size": 4}} | ({"epochs": STEPS} if task == "coco" else {})
    seen: dict[str, dict[int, list[str]]] = {"whole": {}, "run": {}}
    record(monkeypatch, seen["whole"])
    assert start(job, encoder, tmp_path / "whole") == 0
    record(monkeypatch, seen["run"])
    stop_after(monkeypatch, 1)
    with pytest.raises(SystemExit):
        start(job, encoder, tmp_path / "run")
    assert start(job, encoder, tmp_path / "run", "--micro-batch", "2") == 0
    assert seen["run"] == seen["whole"]
    assert [len(images) for images in seen["run"].values()] == [4] * STEPS
    rows = [[(row["step"], row["lr"]) for row in numbers(tmp_path / name)[0] if "lr" in row] for name in seen]
    assert rows[0] == rows[1]
    ours, theirs = (numbers(tmp_path / name)[0][0]["loss"] for name in seen)
    assert ours == theirs  # of the step before the change


def test_gradients_of_the_dense_networks_add_up_over_passes(job_of, tmp_path, monkeypatch):
    """UPerNet without noise, its batch norms at rest: one step in two passes is the step in one."""
    from mto.openmmlab import upernet

    job, encoder = job_of("ade20k")
    job = job | {
        "iterations": 1,
        "encoder": job["encoder"] | {"drop_path": 0.0},
        "head": job["head"] | {"dropout": 0.0},
    }
    losses = []
    build = upernet.build_model

    def at_rest(*arguments):
        model = build(*arguments)
        for module in model.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.train = lambda mode=True, module=module: torch.nn.Module.train(module, False)
        return model

    monkeypatch.setattr(upernet, "build_model", at_rest)
    for name, passes in (("whole", ()), ("parts", ("--micro-batch", "1"))):
        assert start(job, encoder, tmp_path / name, *passes) == 0
        losses.append(numbers(tmp_path / name)[0][0])
    assert losses[0]["loss"] == pytest.approx(losses[1]["loss"], rel=1e-5)
    assert losses[0]["grad_norm"] == pytest.approx(losses[1]["grad_norm"], rel=1e-4)


def stop_after(monkeypatch, step: int) -> None:
    watch, told = Loop.watch, []

    def receive(self, row):
        if self.step == step and not told:
            told.append(step)
            signal.raise_signal(signal.SIGUSR1)
        watch(self, row)

    monkeypatch.setattr(Loop, "watch", receive)


def record(monkeypatch, images: dict[int, list[str]]) -> None:
    """The images of each step, in their order."""
    take = Loop.take_step.__wrapped__ if hasattr(Loop.take_step, "__wrapped__") else Loop.take_step

    def step(self, stream):
        def seen():
            for batch in stream:
                images.setdefault(self.step, []).extend(sample.img_path for sample in batch["data_samples"])
                yield batch

        return take(self, seen())

    step.__wrapped__ = take  # a second record takes the place of the first
    monkeypatch.setattr(Loop, "take_step", step)
