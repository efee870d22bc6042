"""States that nothing continues any more: reduced to their weights, however often it is interrupted."""

import errno
import json
import os
import time
from pathlib import Path

import pytest
import torch
from tiny import heterogeneity_job, pretrain_job, run

from mto.__main__ import main
from mto.config import load
from mto.cost.disk import segment_bytes
from mto.errors import UserError
from mto.runtime.lock import Lock
from mto.study.study import Study
from mto.tasks import prune as pruning
from mto.training.checkpoint import load_state, read_record, verify
from mto.training.log import read_history
from typed_jobs import typed

OUTPUTS = ("encoder.safetensors", "state.pth", "metrics.json", "history.jsonl")


def segment(job: dict, out: Path, state: Path | str = "") -> int:
    return main(["pretrain", "--job", json.dumps(job), "--out", str(out), "--prune", "--inputs", f"state={state}"])


def rows(folder: Path) -> list[dict]:
    return [row | {"images_per_second": None} for row in read_history(folder / "history.jsonl")]


def is_whole(folder: Path) -> bool:
    state, twin = folder / "state.pth", folder / "progress" / "finished" / "state.pth"
    assert twin.samefile(state)  # else the disk would hold both
    return "optimizer" in load_state(state)


@pytest.fixture
def chain(images, tmp_path):
    """Two of three segments, the first of which is older than the second by some days; and their jobs."""
    jobs = [pretrain_job(images, "bootmae", epoch=epoch, epochs=3) | {"log_interval": 1} for epoch in (1, 2, 3)]
    folders = [tmp_path / str(job["epoch"]) for job in jobs]
    assert segment(jobs[0], folders[0]) == 0
    for name in OUTPUTS:
        os.utime(folders[0] / name, (time.time() - 3e5, time.time() - 3e5))
    whole = load_state(folders[0] / "state.pth"), (folders[0] / "state.pth").stat()
    return jobs, folders, whole


def test_the_state_before_keeps_its_weights_its_name_and_its_time(chain):
    jobs, (first, second, third), (whole, stat) = chain
    others = {name: (first / name).read_bytes() for name in OUTPUTS if name != "state.pth"}
    listed = sorted(path.name for path in first.iterdir())
    assert is_whole(first)
    assert segment(jobs[1], second, first / "state.pth") == 0
    pruned = load_state(first / "state.pth")
    assert pruned.keys() == {"state_dict", "meta"}
    assert pruned["meta"] == whole["meta"]
    assert pruned["state_dict"].keys() == whole["state_dict"].keys()
    assert all(torch.equal(value, pruned["state_dict"][name]) for name, value in whole["state_dict"].items())
    assert (first / "state.pth").stat().st_mtime_ns == stat.st_mtime_ns
    assert (first / "state.pth").stat().st_size < 0.6 * stat.st_size  # with its teacher
    assert not is_whole(first)
    assert {name: (first / name).read_bytes() for name in others} == others
    assert sorted(path.name for path in first.iterdir()) == listed
    assert is_whole(second)  # the last of a chain stays: a longer study continues it
    assert segment(jobs[2], third, second / "state.pth") == 0
    assert (is_whole(second), is_whole(third)) == (False, True)


def test_only_where_it_is_asked_for(chain):
    """A job run by hand must not take a state from the study."""
    jobs, (first, second, _), _ = chain
    run(jobs[1], second, state=first / "state.pth")
    assert is_whole(first)


def test_a_segment_whose_predecessor_was_pruned_trains_from_the_start(chain, capsys):
    """And comes to the same files, its own share of the history included."""
    jobs, (first, second, third), _ = chain
    assert segment(jobs[1], second, first / "state.pth") == 0
    assert segment(jobs[2], third, second / "state.pth") == 0
    encoder, history, record = (
        (second / "encoder.safetensors").read_bytes(),
        rows(second),
        read_record(second / "state.pth"),
    )
    metrics = json.loads((second / "metrics.json").read_text())["metrics"]
    (second / "progress" / "restart").touch()  # snakemake --forcerun
    capsys.readouterr()
    assert segment(jobs[1], second, first / "state.pth") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == (
        f"mto: {first / 'state.pth'}: only weights are left of this state, since the segment after it had finished; "
        "training again from the start instead of step 3, which gives the same numbers"
    )
    assert said[1].startswith("epoch 0.33/2  step 1/6")
    assert (second / "encoder.safetensors").read_bytes() == encoder
    assert rows(second) == history
    assert [row["step"] for row in history] == [4, 5, 6]
    assert read_record(second / "state.pth") == record
    assert json.loads((second / "metrics.json").read_text())["metrics"] == metrics
    # The chain goes on from it as before: the last segment's inputs have the same bits.
    assert segment(jobs[2], third, second / "state.pth") == 0
    assert "this job had finished" in capsys.readouterr().out


def test_a_pruned_state_of_another_job_is_refused_all_the_same(chain, capsys):
    jobs, (first, second, third), _ = chain
    assert segment(jobs[1], second, first / "state.pth") == 0
    capsys.readouterr()
    assert segment(jobs[1] | {"seed": 1}, third, first / "state.pth") == 2
    assert "of another job (seed 0 there, 1 here)" in capsys.readouterr().err


def test_a_later_analysis_needs_no_more_than_the_weights(images, chain, tmp_path):
    jobs, (first, second, _), _ = chain
    job = heterogeneity_job(images, "bootmae")
    job["method"] = jobs[0]["method"]
    before = run(job, tmp_path / "before", method=first / "state.pth")
    assert segment(jobs[1], second, first / "state.pth") == 0
    after = run(job, tmp_path / "after", method=first / "state.pth")
    assert (before / "heterogeneity.csv").read_text() == (after / "heterogeneity.csv").read_text()


# ------------------------------------------------------------------------------------------------------ interruptions
class Killed(BaseException):
    """What no handler of ours catches."""


@pytest.mark.parametrize("moment", ["before the state", "before its second name"])
def test_an_interrupted_pruning_is_completed_by_the_next_attempt(chain, monkeypatch, moment):
    """Snakemake holds the job for failed, deletes what it made, and starts it again."""
    jobs, (first, second, _), _ = chain

    def before_the_state(path):
        if path == first / "state.pth.tmp":
            raise Killed
        verify(path)

    def before_the_name(source, target):
        raise Killed

    with monkeypatch.context() as patched:
        if moment == "before the state":
            patched.setattr("mto.training.checkpoint.verify", before_the_state)
        else:
            patched.setattr("mto.tasks.prune.link_or_copy", before_the_name)
        with pytest.raises(Killed):
            segment(jobs[1], second, first / "state.pth")
    state, twin = first / "state.pth", first / "progress" / "finished" / "state.pth"
    assert ("optimizer" in load_state(state)) == (moment == "before the state")
    assert "optimizer" in load_state(twin)
    assert not list(first.rglob("*.tmp"))
    made = (second / "encoder.safetensors").read_bytes()
    for name in OUTPUTS:
        (second / name).unlink()
    assert segment(jobs[1], second, first / "state.pth") == 0
    assert (second / "encoder.safetensors").read_bytes() == made
    assert not is_whole(first)


def test_a_state_that_was_made_anew_meanwhile_is_left_alone(chain, tmp_path):
    """By an edited job: the one after it will want it."""
    _, (first, _, _), (whole, _) = chain
    pruning.prune(first / "state.pth", "another fingerprint")
    assert is_whole(first)
    pruning.prune(first / "state.pth", whole["meta"]["fingerprint"])
    assert not is_whole(first)


def test_someone_at_work_there_is_not_disturbed(chain, capsys):
    jobs, (first, second, _), _ = chain
    with Lock(first):
        assert segment(jobs[1], second, first / "state.pth") == 0
    assert is_whole(first)
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith(f"mto: {first / 'state.pth'}: kept whole, though nothing continues it any more (")
    assert "is at work here" in said


def test_a_full_disk_costs_no_result(chain, monkeypatch, capsys):
    jobs, (first, second, _), _ = chain

    def full(path, *arguments):
        raise UserError(f"{path}: {os.strerror(errno.ENOSPC)}; free some space and run again")

    monkeypatch.setattr("mto.training.checkpoint.keep_weights_alone", full)
    assert segment(jobs[1], second, first / "state.pth") == 0
    assert is_whole(first)
    assert "kept whole" in capsys.readouterr().out


# ----------------------------------------------------------------------------------------------- the plan and the disk
@pytest.mark.parametrize("scale", ["demo", "paper"])
def test_a_chain_is_a_line(scale):
    """Each state has one segment at most that continues it: what is pruned was wanted by nothing else."""
    study = Study(load("config.yaml", scale=scale))
    segments = study.segments()
    continued = [before for step in segments if (before := study.previous(step)) is not None]
    assert len(continued) == len(set(continued)) > 20
    assert set(continued) < set(segments)
    assert not any(map(study.is_continued_twice, segments))


@pytest.mark.parametrize("baseline", ["simmim", "mae", "bootmae", "conmim"])
def test_the_bytes_of_a_segment(images, tmp_path, baseline):
    """Within 2 %, of real files: a network large enough that names and headers are little beside it."""
    job = pretrain_job(images, baseline, epoch=1)
    job["method"] |= {"embed_dim": 192, "depth": 3, "num_heads": 3}
    out = run(job, tmp_path / "first")
    from mto.tasks.pretrain import build_model

    model = build_model(typed(job))
    trained = sum(p.numel() for p in model.method.parameters() if p.requires_grad)
    teacher = sum(p.numel() for p in model.teacher.parameters()) if model.teacher else 0
    encoder = sum(value.numel() for value in model.method.encoder_state(model.teacher).values())
    sizes = (encoder, trained, teacher)

    def found(*names: str) -> int:
        return sum((out / name).stat().st_size for name in names)

    assert found("encoder.safetensors", "state.pth") == pytest.approx(segment_bytes(*sizes), rel=0.02)
    assert 2 * found("state.pth") == pytest.approx(segment_bytes(*sizes, stage="running"), rel=0.02)
    run(job | {"epoch": 2}, tmp_path / "second", state=out / "state.pth", prune=True)
    assert found("encoder.safetensors", "state.pth") == pytest.approx(segment_bytes(*sizes, stage="pruned"), rel=0.02)


def test_two_states_at_most_while_a_segment_runs(images, tmp_path, monkeypatch):
    """Also in the moment in which the third is written, since the newest then is the one before, by a second name."""
    seen: list[int] = []

    def counting(path):
        if path.suffix == ".tmp":
            seen.append(len({file.stat().st_ino for file in path.parent.glob("*.pth*")}))
        verify(path)

    monkeypatch.setattr("mto.training.checkpoint.verify", counting)
    run(pretrain_job(images, "mae", epoch=4, epochs=4), tmp_path)
    assert seen == [1, 2, 2, 2]
