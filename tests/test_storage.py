"""What the storage does for a moment: each reader reads again, and none calls it damage, nor a refusal."""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import mto.__main__ as entry
from mto import files, storage
from mto.data import cache, images, layout, listing, verify
from mto.data.demo import make_ade20k, make_coco, make_imagenet
from mto.errors import StorageError, UserError
from mto.runtime.attempts import refused
from mto.training import checkpoint, log, resume, weights
from typed_jobs import typed


class Hiccup:
    """Lets the next ``times`` openings of a file or folder whose path ends so fail, wherever they come from."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.name, self.number, self.times, self.met = "nothing", errno.ESTALE, 0, 0
        for module, name in ((builtins, "open"), (io, "open"), (os, "listdir"), (os, "scandir"), (os, "stat")):
            monkeypatch.setattr(module, name, self._failing(getattr(module, name)))

    def __call__(self, name: str, number: int = errno.ESTALE, times: int = 1) -> None:
        self.name, self.number, self.times, self.met = name, number, times, 0

    def _failing(self, function: Callable) -> Callable:
        def wrapped(path: Any = ".", *args: Any, **kwargs: Any) -> Any:
            if isinstance(path, str | os.PathLike) and os.fspath(path).endswith(self.name) and self.met < self.times:
                self.met += 1
                raise OSError(self.number, os.strerror(self.number), os.fspath(path))
            return function(path, *args, **kwargs)

        return wrapped


@pytest.fixture
def hiccup(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hiccup]:
    monkeypatch.setattr(storage, "PAUSES", (0.0, 0.0, 0.0))
    made = Hiccup(monkeypatch)
    yield made
    made.times = 0


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of each file that a job reads."""
    root = tmp_path_factory.mktemp("there")
    make_imagenet(root / "imagenet", size=24, train=20, val=10)
    make_ade20k(root / "ade20k", size=48, train=2, val=1)
    make_coco(root / "coco", size=48, train=2, val=1)
    train = root / "imagenet/train"
    cache.build(root / "cache", 24, train, listing.walk(train), 1)
    listing.save(root / "listing.npz", root / "imagenet", ("train",))
    (root / "progress").mkdir()
    checkpoint.save_state(root / "progress/last.pth", {"state_dict": {"a": torch.ones(1000)}}, {"step": 3})
    weights.save_weights(root / "encoder.safetensors", {"a": torch.ones(3)}, {})
    (root / "history.jsonl").write_text('{"step": 1}\n')
    return root


def an_image(root: Path) -> Path:
    return min(root.glob("imagenet/train/*/*.png"))


READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "an image": (".png", lambda root: images.read(an_image(root)).tolist()),
    "an image's head": (".png", lambda root: images.size_of(an_image(root))),
    "verify, an image": (".png", lambda root: images.fault(an_image(root), decode=True)),
    "verify, annotations": ("train2017.json", lambda root: verify.verify("coco", root / "coco", 10)),
    "verify, ADE20K": ("/training", lambda root: verify.verify("ade20k", root / "ade20k", 11)),
    "the layout": ("/train", lambda root: layout.check("imagenet", root / "imagenet", expected={"train": 10})),
    "a class folder": ("/digit3", lambda root: listing.walk(root / "imagenet/train").names.tolist()),
    "a listing": (
        "listing.npz",
        lambda root: listing.load(root / "listing.npz", root / "imagenet/train").names.tolist(),  # type: ignore[union-attr]
    ),
    "a cache": (
        "00000000.bin",
        lambda root: cache.Cache(root / "cache", root / "imagenet/train", listing.walk(root / "imagenet/train"))[
            5
        ].tolist(),  # type: ignore[union-attr]
    ),
    "a cache's record": (
        "cache.json",
        lambda root: cache.Cache(root / "cache", root / "imagenet/train", listing.walk(root / "imagenet/train")).count,
    ),
    "a state": ("last.pth", lambda root: checkpoint.load_state(root / "progress/last.pth")["meta"]),
    "a state's record": ("last.pth", lambda root: checkpoint.read_record(root / "progress/last.pth")),
    "an encoder": ("encoder.safetensors", lambda root: weights.load_weights(root / "encoder.safetensors")["a"].sum()),
    "a history": ("history.jsonl", lambda root: log.read_history(root / "history.jsonl")),
    "JSON": ("cache.json", lambda root: files.read_json(root / "cache/cache.json")),
    "a job": ("cache.json", lambda root: files.json_object(str(root / "cache/cache.json"), "--job")),
    "a fingerprint": ("history.jsonl", lambda root: files.digest(root / "history.jsonl")),
}


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.ENOMEM, errno.EMFILE])
@pytest.mark.parametrize("reader", READERS)
def test_what_passes_is_read_again(there: Path, hiccup: Hiccup, reader: str, number: int) -> None:
    name, read = READERS[reader]
    expected = read(there)
    hiccup(name, number, 3)
    assert read(there) == expected
    assert hiccup.met == 3


@pytest.mark.parametrize("reader", READERS)
def test_what_does_not_pass_is_no_damage_and_advises_nothing(there: Path, hiccup: Hiccup, reader: str) -> None:
    name, read = READERS[reader]
    hiccup(name, errno.ESTALE, 1000)
    with pytest.raises(StorageError, match=r"stale file handle, 4 times in a row$") as caught:
        read(there)
    assert not any(word in str(caught.value) for word in ("damaged", "remove", "copy", "not readable"))


def test_progress_is_not_lost(there: Path, hiccup: Hiccup) -> None:
    """Neither is it taken for damaged, nor for not there, which would start a job over."""
    hiccup("last.pth", errno.EIO, 1000)
    with pytest.raises(StorageError, match=r"last\.pth: input/output error"):
        resume.find_state(there / "progress", None, {})


def test_a_middle_that_cannot_be_read_is_no_damage_either(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the storage within zipfile and torch, which both have other names for it."""
    monkeypatch.setattr(storage, "PAUSES", (0.0, 0.0))
    path = there / "progress/last.pth"
    reads = 0

    class Failing(io.FileIO):
        fail_at = 0

        def readinto(self, buffer: Any) -> Any:
            nonlocal reads
            reads += 1
            if reads == Failing.fail_at:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().readinto(buffer)

    def fail(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        is_state = isinstance(file, str | Path) and str(file) == str(path) and mode == "rb"
        return io.BufferedReader(Failing(str(file))) if is_state else plain(file, mode, *args, **kwargs)

    plain = io.open
    monkeypatch.setattr(io, "open", fail)
    checkpoint.load_state(path)
    assert reads > 4
    for at in range(1, reads + 1):
        reads, Failing.fail_at = 0, at
        assert checkpoint.load_state(path)["meta"] == {"step": 3}


@pytest.mark.parametrize("error", [FileNotFoundError, PermissionError, IsADirectoryError])
def test_other_errors_are_told_at_once(error: type[OSError]) -> None:
    calls: list[int] = []

    def read() -> None:
        calls.append(1)
        raise error(errno.EACCES, "no")

    with pytest.raises(error):
        storage.again(read, "x")
    assert len(calls) == 1


def test_causes_count_and_other_damage_does_not() -> None:
    named_otherwise = zipfile.BadZipFile("File is not a zip file")
    named_otherwise.__context__ = OSError(errno.EIO, "x")
    assert storage.passing(named_otherwise)
    assert storage.passing(MemoryError())
    assert not storage.passing(zipfile.BadZipFile("x"))
    assert not storage.passing(OSError(errno.ENOENT, "x"))
    assert not storage.passing(pickle.UnpicklingError("x"))


def test_content_that_was_read_and_is_wrong_is_damage(there: Path, tmp_path: Path) -> None:
    content = (there / "progress/last.pth").read_bytes()
    (tmp_path / "last.pth").write_bytes(content[:-40])
    with pytest.raises(checkpoint.Damaged):
        checkpoint.load_state(tmp_path / "last.pth")
    (tmp_path / "x.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="copy it again"):
        images.read(tmp_path / "x.png")


def test_a_job_that_meets_it_is_tried_again(tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 1, and a line that `attempts` does not take for a refusal."""

    def fail(*arguments: Any) -> None:
        raise StorageError("/data/x.png: stale file handle, 5 times in a row")

    monkeypatch.setattr(entry, "_run", fail)
    assert entry.main(["pretrain", "--job", json.dumps({}), "--out", str(tmp_path)]) == 1
    said = capfd.readouterr().err
    assert said.startswith("mto: storage: /data/x.png: stale file handle, 5 times in a row; ")
    assert said.count("\n") == 1
    (tmp_path / "log").write_text(said)
    assert not refused([tmp_path / "log"])


class OneImage(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        raise StorageError("/data/x.png: stale file handle")


def test_a_loaders_worker_hands_it_over() -> None:
    with pytest.raises(StorageError, match=r"^/data/x\.png: stale file handle$"):
        next(iter(torch.utils.data.DataLoader(OneImage(), num_workers=1)))


def test_the_dense_tasks_read_again(there: Path, hiccup: Hiccup) -> None:
    """The image and the annotation, and draw what they would have drawn."""
    from mto.data.rng import SeededDataset
    from mto.openmmlab.libraries import load_mmdet, load_mmseg
    from mto.openmmlab.readable import Readable
    from tasks.dense_jobs import ade20k_job, coco_job

    load_mmseg()
    from mto.openmmlab import upernet

    load_mmdet()
    from mto.openmmlab import maskrcnn

    for module, job, split, names in (
        (upernet, ade20k_job(there / "ade20k"), "training", ("1.jpg", "1.png")),
        (maskrcnn, coco_job(there / "coco"), "train2017", ("1.jpg",)),
    ):
        dataset = SeededDataset(Readable(module.build_dataset(typed(job), split), job["task"]), 0)
        expected = dataset[3, 0]["inputs"]
        for name in names:
            hiccup(name, errno.EIO, 2)
            assert torch.equal(dataset[3, 0]["inputs"], expected)
            assert hiccup.met == 2
            hiccup(name, errno.EIO, 1000)
            with pytest.raises(StorageError):
                dataset[3, 0]
