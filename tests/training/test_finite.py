"""A loss that is no number: one line, no state, and no look at the device in the steps between."""

import math
import os
import signal
from pathlib import Path

import pytest
import torch
from test_resume import same_bits, without_speed
from torch.utils._python_dispatch import TorchDispatchMode
from toy import Observer, ToyModel, fit

from mto.errors import UserError
from mto.training.checkpoint import load_state
from mto.training.log import Averages, read_history
from mto.training.watch import NotFinite

JOB = {"run": "mae-vitb", "baseline": "mae", "task": "pretrain", "precision": "bf16"}


class Spoiled(ToyModel):
    """Its n-th loss is multiplied by ``factor``, which may reach the gradient alone."""

    def __init__(self, step: int, factor: float = math.nan, loss_too: bool = True) -> None:
        super().__init__()
        self.spoil, self.factor, self.loss_too, self.passes = step, factor, loss_too, 0

    def forward(self, x, y, mode="tensor"):
        loss = super().forward(x, y)["loss"]
        self.passes += 1
        if self.passes == self.spoil:
            wrong = loss * self.factor
            loss = wrong if self.loss_too else loss.detach() + wrong - wrong.detach()
        return {"loss": loss}


class Poison(Observer):
    """A weight is lost after a step, although its loss and its gradient are numbers."""

    def __init__(self, step: int, then: int | None = None) -> None:
        self.step, self.then = step, then

    def after_step(self, loop) -> None:
        if loop.step == self.step:
            with torch.no_grad():
                loop.model.net[3].weight[0, 2] = math.inf
            if self.then:
                os.kill(os.getpid(), self.then)
                torch.zeros(1)


def is_finite(path: Path) -> bool:
    return all(value.isfinite().all() for value in load_state(path)["state_dict"].values())


def test_one_line_says_what_where_and_what_to_do(tmp_path):
    """3 steps an epoch, logged every second and at its end; the eighth is the first of the third epoch's row."""
    with pytest.raises(NotFinite) as stopped:
        fit(tmp_path, model=Spoiled(7), job=JOB)
    loss = read_history(tmp_path / "history.jsonl")[3]["loss"]
    assert str(stopped.value) == (
        f"mae-vitb: the loss is nan at epoch 2.67, step 8 of 12; the last finite loss was {loss:.4g}, at step 6. "
        "Started again, it goes on from the state of step 6. If that does not help, lower baselines.mae.pretrain.lr "
        "in config.yaml or set precision: fp32 (it is bf16), which starts it over. The terms of the loss are in "
        f"{tmp_path / 'history.jsonl'}. python -m mto replay {tmp_path / 'failed/failure.json'} takes that step again"
    )
    assert isinstance(stopped.value, UserError)  # exit code 2, and no second attempt


def test_the_last_good_state_goes_on_as_if_nothing_had_been(tmp_path):
    """What a machine's error was, a restart mends: to the last bit."""
    fit(tmp_path / "whole")
    with pytest.raises(NotFinite):
        fit(tmp_path / "run", model=Spoiled(7))
    assert is_finite(tmp_path / "run" / "last.pth")
    fit(tmp_path / "run")
    same_bits(tmp_path / "whole", tmp_path / "run")
    assert without_speed(tmp_path / "run") == without_speed(tmp_path / "whole")


def test_before_the_first_state(tmp_path):
    with pytest.raises(
        NotFinite, match=r"no finite loss was logged before\. Started again, .* from the start of this job"
    ):
        fit(tmp_path, model=Spoiled(1))
    assert not list(tmp_path.glob("*.pth"))


def test_a_gradient_that_overflows_though_the_loss_does_not(tmp_path):
    with pytest.raises(NotFinite, match=r"the gradient's norm is inf at epoch 2\.67, step 8"):
        fit(tmp_path, model=Spoiled(8, 1e30, loss_too=False), clip=None)
    assert load_state(tmp_path / "last.pth")["meta"]["step"] == 6


@pytest.mark.parametrize("spoiled", [Spoiled(3), Spoiled(3, 1e30, loss_too=False)], ids=["loss", "gradient"])
def test_no_state_between_two_rows(tmp_path, spoiled):
    """A round ends at the third step, and the rows are at the second and fourth: the sums tell."""
    with pytest.raises(NotFinite, match=r"is (nan|inf) at step 3"):
        fit(tmp_path, model=spoiled, epochs=None, iters=12, save_interval=3)
    assert not list(tmp_path.glob("*.pth"))


@pytest.mark.parametrize("then", [None, signal.SIGTERM, signal.SIGUSR1], ids=["", "SIGTERM", "SIGUSR1"])
def test_no_state_of_lost_weights(tmp_path, then):
    """The loss of the step was a number, and the next is yet to come."""
    with pytest.raises(NotFinite, match=r"a weight is nan or infinite at epoch 1\.00, step 3"):
        fit(tmp_path, hooks=[Poison(3, then)])
    assert not list(tmp_path.glob("*.pth"))
    fit(tmp_path)
    assert is_finite(tmp_path / "last.pth")


def test_what_fails_because_of_lost_weights_says_so(tmp_path):
    """Between two rows: a detector's assertion about its boxes, say."""

    class Asserting(ToyModel):
        def forward(self, x, y, mode="tensor"):
            assert self.net(x).isfinite().all()
            return super().forward(x, y)

    with pytest.raises(NotFinite, match=r"a weight is nan or infinite at epoch 2\.33, step 7") as stopped:
        fit(tmp_path, model=Asserting(), hooks=[Poison(7)])
    assert isinstance(stopped.value.__context__, AssertionError)
    with pytest.raises(AssertionError):  # and of itself, if it is not their fault
        fit(tmp_path, model=Asserting(), hooks=[Poison(100), Failing()])


class Failing(Observer):
    def after_step(self, loop) -> None:
        raise AssertionError


class Looks(TorchDispatchMode):
    """Counts what would wait for a GPU: a tensor that becomes a Python number, or its truth."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket in (torch.ops.aten._local_scalar_dense, torch.ops.aten.is_nonzero)
        return func(*args, **(kwargs or {}))


class CountLooks(Observer):
    """Of each step, from its batch to its end."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def before_pass(self, loop, batch) -> None:
        self.mode = Looks()
        self.mode.__enter__()

    def after_watch(self, loop) -> None:
        self.mode.__exit__(None, None, None)
        self.steps.append(self.mode.count)


def test_no_step_without_a_row_looks_at_the_device(tmp_path):
    looks = CountLooks()
    fit(tmp_path, hooks=[looks])
    logged = {row["step"] for row in read_history(tmp_path / "history.jsonl")}
    assert [bool(count) for count in looks.steps] == [step in logged for step in range(1, 13)]


def test_a_step_that_a_scaler_left_out_is_left_out_of_the_norms_mean():
    """fp16: its gradient is infinite, which is how the scaler finds its scale."""
    averages = Averages()
    for value in (1.0, math.inf, 3.0, math.nan):
        averages.add({"loss": torch.tensor(value if math.isfinite(value) else 5.0)})
        averages.add_finite("grad_norm", torch.tensor(value))
    again = Averages()
    again.load([averages.state()], 0, 1)
    assert averages.read() == again.read() == {"loss": 3.5, "grad_norm": 2.0}
    averages.add({"loss": torch.tensor(1.0)})
    averages.add_finite("grad_norm", torch.tensor(math.inf))
    assert averages.read() == {"loss": 1.0}
