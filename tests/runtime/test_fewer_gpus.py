"""A job that would get other GPUs than its stage has: a line that says what to write."""

from __future__ import annotations

import pytest

from mto.runtime.devices import count
from mto.runtime.fewer_gpus import Asked, problems

UPERNET = Asked("ade20k", wanted=8, given=8, micro_batch=2)
PRETRAINING = Asked("pretrain", wanted=8, given=8, micro_batch=64)
PROBE = Asked("linear", wanted=8, given=8, micro_batch=None)


def test_what_a_stage_wants_is_no_problem() -> None:
    assert problems([UPERNET, PRETRAINING, PROBE]) == problems([UPERNET, PRETRAINING], here=8) == []
    assert problems([Asked("dataset", 0, 0, None)], here=0) == []


def test_a_stage_is_named_once_and_every_one_is() -> None:
    lines = problems([UPERNET._replace(given=4), UPERNET._replace(given=4), PROBE._replace(given=4)])
    assert [line.split(":")[1] for line in lines] == [" resources.ade20k.gpu", " resources.linear.gpu"]


@pytest.mark.parametrize(
    ("job", "here", "said"),
    [
        (
            UPERNET._replace(given=4),
            None,
            "jobs 4: give them 8, or set resources.ade20k: gpu: 4, micro_batch: 4",
        ),
        (UPERNET._replace(given=3), None, "set resources.ade20k.gpu: 3"),  # 16 images cannot be shared by three
        (UPERNET._replace(given=16), None, "set resources.ade20k: gpu: 16, micro_batch: 1"),
        (UPERNET._replace(given=0), None, "set resources.ade20k.gpu: 0, which is the CPU"),
        (PRETRAINING._replace(given=4), None, "give them 8, or set resources.pretrain.gpu: 4"),
        (PROBE._replace(given=4), None, "set resources.linear.gpu: 4"),
        (UPERNET, 4, "gpu: 8, and 4 are here: set resources.ade20k: gpu: 4, micro_batch: 4"),
    ],
)
def test_what_to_write(job: Asked, here: int | None, said: str) -> None:
    (line,) = problems([job], here)
    assert line.startswith(f"config.yaml: resources.{job.stage}.gpu: 8, and ")
    assert said in line


def test_a_machine_without_gpus_is_one_line_for_all_stages() -> None:
    (line,) = problems([UPERNET, PRETRAINING, UPERNET, Asked("dataset", 0, 0, None)], here=0)
    assert line.startswith(
        "no GPU here, and resources in config.yaml ask for ade20k 8, pretrain 8: start on a GPU machine"
    )


@pytest.mark.parametrize(
    ("environment", "number"),
    [
        ({"CUDA_VISIBLE_DEVICES": "2, GPU-77"}, 2),
        ({"CUDA_VISIBLE_DEVICES": ""}, 0),
        ({"SLURM_JOB_ID": "7", "SLURM_GPUS_ON_NODE": "4"}, 4),
        ({"SLURM_JOB_ID": "7", "SLURM_GPUS_ON_NODE": "4", "CUDA_VISIBLE_DEVICES": "1"}, 1),
    ],
)
def test_the_gpus_of_an_allocation_are_counted(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], number: int
) -> None:
    for name in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID", "SLURM_GPUS_ON_NODE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert count() == number
