"""What tools/compare_commits.py would see, on states that are made by hand, and the jobs that it runs."""

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))

import compare_commits as tool


def leave(
    out: Path, *, weight=1.0, teacher=2.0, moment=3.0, rate=0.1, loss=0.5, speed=100.0, top1=50.0, **more
) -> Path:
    """What a finished job leaves, with the named numbers in it."""
    out.mkdir()
    state = {
        "state_dict": {"net.weight": torch.tensor([weight, float("nan")]), "teacher.weight": torch.tensor(teacher)},
        "optimizer": {"state": {0: {"exp_avg": torch.tensor(moment)}}, "param_groups": [{"lr": rate, "params": [0]}]},
        **more,
    }
    torch.save(state, out / tool.STATE)
    (out / "history.jsonl").write_text(json.dumps({"step": 1, "loss": loss, "images_per_second": speed}) + "\n")
    (out / "metrics.json").write_text(json.dumps({"metrics": {"top1": top1}}))
    return out


def differing(tmp_path: Path, **change) -> list[str]:
    a, b = tool.contents(leave(tmp_path / "a")), tool.contents(leave(tmp_path / "b", **change))
    return [part for part in tool.PARTS if tool.difference(a[part], b[part])]


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"weight": 1.0 + 2**-23}, "weights"),
        ({"teacher": 2.0 + 2**-22}, "teacher"),
        ({"moment": -3.0}, "optimiser"),
        ({"rate": 0.1 + 2**-55}, "optimiser"),
        ({"loss": 0.5 + 2**-53}, "history"),
        ({"top1": 51.0}, "results"),
    ],
)
def test_one_number_is_seen_in_its_part(tmp_path, change, part):
    assert differing(tmp_path, **change) == [part]


def test_neither_time_nor_another_layout_of_the_file_is_a_difference(tmp_path):
    assert differing(tmp_path, speed=7.0, message_hub={"anything": 1}) == []


def test_what_one_side_lacks_is_a_difference(tmp_path):
    a, b = (tool.contents(leave(tmp_path / name)) for name in "ab")
    del b["weights"]["net.weight"]
    assert "1 of 1 differ (1 on one side only), first net.weight" in tool.difference(a["weights"], b["weights"])
    assert not tool.same(torch.zeros(1), torch.zeros(1, dtype=torch.float64))
    assert not tool.same(torch.zeros(1), torch.tensor([-0.0]))


def test_the_table_says_what_differs():
    rows = [("mae", [None, "", None, None, None]), ("simmim", ["1 of 9 differ", None, None, None, None])]
    table = tool.show(rows).splitlines()
    assert table[1].split() == ["mae", "equal", "-", "equal", "equal", "equal"]
    assert table[2].split() == ["simmim", "DIFFERS", "equal", "equal", "equal", "equal"]
    assert table[3] == "    weights: 1 of 9 differ"


def test_every_stage_and_baseline_is_compared():
    found = tool.cases(tool.STAGES)
    assert {case.job["task"] for case in found} == set(tool.STAGES)
    pretrained = [case.job["run"] for case in found if case.job["task"] == "pretrain"]
    assert pretrained == [
        f"{name}-vitb{mto}" for name in ("simmim", "mae", "bootmae", "conmim") for mto in ("", "-mto")
    ]
    for case in found:
        size = case.job["optim"]["batch_size"]
        assert [case.micro_batch(n) * 2 * n for n in (1, 2)] == [size, size]
    assert set(tool.data_jobs({case.dataset for case in found})) == {"imagenet", "ade20k", "coco"}
