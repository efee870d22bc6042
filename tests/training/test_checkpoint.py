"""States on disk: damage is seen, an older one stands in, another run's is refused, and no file runs code."""

import os
import pickle
import random
import stat
import zipfile
from pathlib import Path

import pytest
import torch
from toy import ToyModel, fit

from mto.errors import UserError
from mto.training.checkpoint import Damaged, fingerprint, load_state, read_record, save_state, verify
from mto.training.resume import check_state, find_state

CONTENT = {"state_dict": {"a": torch.randn(400, 5), "b": torch.arange(3)}, "optimizer": {"state": {0: {"step": 1.0}}}}


def equal(a: dict, b: dict) -> bool:
    return all(torch.equal(value, b["state_dict"][name]) for name, value in a["state_dict"].items()) and (
        a["optimizer"] == b["optimizer"]
    )


def test_a_state_is_what_was_saved_and_says_whose_it_is(tmp_path):
    path = tmp_path / "state.pth"
    save_state(path, CONTENT, {"job": {"run": "mae-vitb"}, "step": 7})
    assert equal(load_state(path), CONTENT)
    assert load_state(path)["meta"] == read_record(path) == {"job": {"run": "mae-vitb"}, "step": 7}
    assert [file.name for file in tmp_path.iterdir()] == ["state.pth"]
    assert equal(torch.load(path, weights_only=True), CONTENT)  # an ordinary file of torch


def test_files_get_the_umask(tmp_path):
    previous = os.umask(0o027)
    try:
        save_state(tmp_path / "state.pth", CONTENT, {})
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "state.pth").stat().st_mode) == 0o640


def test_flipped_bits_are_seen_or_harmless(tmp_path):
    path = tmp_path / "state.pth"
    save_state(path, CONTENT, {"step": 7})
    whole, draw, seen = path.read_bytes(), random.Random(0), 0
    for _ in range(300):
        flipped = bytearray(whole)
        flipped[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        path.write_bytes(flipped)
        try:
            state = load_state(path)
        except Damaged:
            seen += 1
            continue
        assert equal(state, CONTENT)  # in the padding between the members
        assert state["meta"] == {"step": 7}
    assert seen > 100


@pytest.mark.parametrize("length", [0, 10, 500, -10, -1])
def test_a_file_cut_short_is_seen(tmp_path, length):
    path = tmp_path / "state.pth"
    save_state(path, CONTENT, {})
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(Damaged, match="damaged"):
        load_state(path)


class Evil:
    def __reduce__(self):
        return Path.touch, (Path("evil-ran"),)


@pytest.mark.parametrize("zipped", [True, False])
def test_no_code_runs(tmp_path, monkeypatch, zipped):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "state.pth"
    if zipped:
        torch.save({"state_dict": Evil()}, path)
    else:
        path.write_bytes(pickle.dumps({"state_dict": Evil()}))
    for attempt in (lambda: load_state(path), lambda: fit(tmp_path / "run", resume_from=path)):
        with pytest.raises(UserError, match=r"nothing of it was run|damaged"):
            attempt()
    assert not (tmp_path / "evil-ran").exists()


def test_a_bomb_is_not_unpacked(tmp_path):
    path = tmp_path / "state.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 50_000_000)
    with pytest.raises(UserError, match=r"bytes unpack to 50,000,000"):
        verify(path)


def test_fingerprints():
    tensors = CONTENT["state_dict"]
    assert fingerprint(tensors) == fingerprint({name: value.clone() for name, value in reversed(tensors.items())})
    changed = {**tensors, "a": tensors["a"] + 1e-7}
    assert len({fingerprint(t) for t in (tensors, changed, {"b": tensors["b"]})}) == 3


# --------------------------------------------------------------------------------------------------------- going on
def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(b"state_dict")] ^= 1
    path.unlink()  # the file has another name, which is not damaged
    path.write_bytes(content)


def test_a_damaged_state_is_passed_over(tmp_path, capsys):
    fit(tmp_path / "whole")
    fit(tmp_path / "run", stop_at=3)
    damage(tmp_path / "run" / "last.pth")
    fit(tmp_path / "run")
    assert "last.pth: damaged (the checksum of archive/data" in (said := capsys.readouterr().out)
    assert f"going on from {tmp_path}/run/previous.pth, step 6" in said
    a, b = (load_state(tmp_path / name / "last.pth") for name in ("whole", "run"))
    assert fingerprint(a["state_dict"]) == fingerprint(b["state_dict"])
    rows = [len((tmp_path / name / "history.jsonl").read_text().splitlines()) for name in ("whole", "run")]
    assert rows[0] == rows[1]


def test_without_an_older_state_one_line_says_what_to_remove(tmp_path):
    fit(tmp_path, stop_at=3)
    for name in ("last.pth", "previous.pth"):
        damage(tmp_path / name)
    with pytest.raises(UserError, match=rf"damaged .*remove {tmp_path} to start this job over"):
        fit(tmp_path)


def test_a_damaged_inherited_state(tmp_path):
    fit(tmp_path / "first", stop_at=2)
    damage(tmp_path / "first" / "last.pth")
    with pytest.raises(UserError, match=r"damaged .*make it again: snakemake --forcerun"):
        fit(tmp_path / "second", resume_from=tmp_path / "first" / "last.pth")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"size": 32}, "made with 24 training images, but there are 32 now"),
        ({"size": 25}, "made with 24 training images, but there are 25 now"),
        ({"batch": 4}, "made with 8 images a step, but there are 4 now"),
        ({"epochs": 5}, "made with 12 steps in the whole schedule, but there are 15 now"),
        ({"job": {"optim": {"lr": 2}}}, r"of another job \(optim.lr 1 there, 2 here\)"),
        ({"job": {"optim": {"lr": 1}, "seed": 3}}, r"of another job \(seed 0 there, 3 here\)"),
    ],
)
@pytest.mark.parametrize("inherited", [True, False])
def test_a_state_of_another_run_is_refused(tmp_path, change, said, inherited):
    job = {"optim": {"lr": 1}}
    fit(tmp_path / "first", stop_at=2, job=job)
    before = (tmp_path / "first" / "last.pth").read_bytes()
    folder, state = ("second", tmp_path / "first" / "last.pth") if inherited else ("first", None)
    with pytest.raises(UserError, match=said) as refused:
        fit(tmp_path / folder, resume_from=state, **{"job": job} | change)
    assert str(refused.value).startswith(str(tmp_path / "first" / "last.pth"))
    assert "\n" not in str(refused.value)
    assert (tmp_path / "first" / "last.pth").read_bytes() == before


def test_the_place_of_the_data_is_no_difference(tmp_path):
    fit(tmp_path, stop_at=2, job={"data": {"root": "/scratch/a", "classes": 3}})
    fit(tmp_path, job={"data": {"root": "/scratch/b", "classes": 3}})
    with pytest.raises(UserError, match=r"data.classes 3 there, 4 here"):
        fit(tmp_path, job={"data": {"root": "/scratch/b", "classes": 4}})


def test_weights_alone_are_no_state(tmp_path):
    save_state(tmp_path / "imported.pth", {"state_dict": ToyModel().state_dict()}, {})
    with pytest.raises(UserError, match="no training state"):
        fit(tmp_path / "run", resume_from=tmp_path / "imported.pth")


def test_nothing_to_go_on_from(tmp_path):
    assert find_state(tmp_path, None, {}) is None
    with pytest.raises(UserError, match="no training state"):
        check_state(tmp_path, {"meta": {}}, {}, "")
