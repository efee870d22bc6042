"""What machines and disks of users are like: names in no encoding, a tiny image, little shared memory, no user name."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mto.data import imagenet, layout
from mto.data.bad_files import VARIABLE, Policy
from mto.data.imagenet import ImageFolder, PretrainDataset
from mto.data.transforms import RATIO, no_retry_box
from mto.errors import UserError
from mto.runtime import devices
from tasks.tiny import make_images, pretrain_job
from typed_jobs import typed


def test_names_that_are_no_utf8_are_recorded_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record gives them back; what is shown has their bytes as escapes, and is no traceback."""
    monkeypatch.setenv(VARIABLE, '{"imagenet": 5}')
    script = f"""
import sys
from pathlib import Path
from mto.__main__ import main
from mto.data.bad_files import Policy
from mto.errors import UserError
try:
    main(["verify", "nothing"])  # its streams show anything from here on
finally:
    path = "caf\\udce9.png"
    Policy(Path({str(tmp_path / "record")!r})).pass_over("imagenet", path, UserError(path + ": no image"))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, env={**os.environ, "PYTHONUTF8": "1"})
    assert b"passed over, 1 of at most 5: caf\\udce9.png: no image" in done.stdout, done.stderr.decode()
    assert (tmp_path / "record").read_bytes() == b"caf\xe9.png\n"
    assert Policy(tmp_path / "record").passed() == [os.fsdecode(b"caf\xe9.png")]


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (30, 1), (2, 2)])
def test_a_crop_has_a_row_and_a_column(size: tuple[int, int]) -> None:
    random.seed(0)
    for _ in range(300):
        top, left, height, width = no_retry_box(torch.empty(1).expand(3, *size), (0.08, 1.0), RATIO)
        assert 1 <= height <= size[0] - top
        assert 1 <= width <= size[1] - left


def test_a_failure_in_a_transform_names_the_file(tmp_path: Path) -> None:
    def fail(image: np.ndarray) -> None:
        raise RuntimeError("no")

    dataset = PretrainDataset(typed(pretrain_job(make_images(tmp_path), "mae")), transform=fail)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="no") as caught:
        dataset[0, 3]
    assert caught.value.__notes__ == [f"while a sample was made of {dataset.images.path(3)}"]


def test_shared_memory_that_is_too_small_is_told_before_the_first_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = PretrainDataset(typed(pretrain_job(make_images(tmp_path), "mae")))
    needed = dataset.sample_bytes * 12 * 2 * 4  # two workers with four batches each
    for free, fits in ((needed, True), (needed - 1, False)):
        monkeypatch.setattr(imagenet.shutil, "disk_usage", lambda path, free=free: type("Usage", (), {"free": free}))
        build = lambda: imagenet.build_loader(dataset, torch.utils.data.SequentialSampler(dataset), 12, 2)  # noqa: E731
        if fits:
            build()
        else:
            with pytest.raises(UserError, match=r"/dev/shm: 0\.1 MB are free, .*--shm-size=1g"):
                build()
    imagenet.build_loader(dataset, torch.utils.data.SequentialSampler(dataset), 12, 0)  # nothing is shared


def test_a_user_without_a_name_has_a_folder_of_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME", devices.SLURM_JOB):
        monkeypatch.delenv(name, raising=False)
    assert devices._folder().name == "mto-devices-12345"


def test_hidden_files_before_all_images_hide_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """tmpfs, exFAT and others list the newest first: a copy made on a Mac begins with its `._x.png`."""
    make_images(tmp_path)
    for file in sorted(tmp_path.glob("*/*/*.png")):
        for number in range(3):
            (file.parent / f"._{number}{file.name}").write_bytes(b"Mac OS X")
    scandir = os.scandir

    class HiddenFirst:
        def __init__(self, folder: Path) -> None:
            with scandir(folder) as entries:
                self.entries = sorted(entries, key=lambda entry: not entry.name.startswith("."))

        def __enter__(self):
            return iter(self.entries)

        def __iter__(self):
            return iter(self.entries)

        def __exit__(self, *exception: object) -> None: ...

    monkeypatch.setattr(os, "scandir", HiddenFirst)
    assert layout.check("imagenet", tmp_path, expected={"train": 3, "val": 3}) == {"train": 3, "val": 3}
    assert len(ImageFolder(tmp_path, "train", 3)) == 36


def test_formats_that_opencv_does_not_know_are_read_by_the_dense_tasks(tmp_path: Path) -> None:
    """As by `verify`: no sample is passed over, and none is counted under another's name."""
    from mto.data.demo import make_coco
    from mto.openmmlab.libraries import load_mmdet
    from tasks.dense_jobs import coco_job

    load_mmdet()
    from mto.openmmlab.maskrcnn import build_dataset
    from mto.openmmlab.readable import Readable

    make_coco(tmp_path, size=48, train=3, val=1)
    files = sorted((tmp_path / "train2017").glob("*.jpg"))
    before = np.asarray(Image.open(files[1]).convert("RGB"))
    Image.fromarray(before).save(files[1], "PCX")
    files[2].write_bytes(b"no image")
    dataset = Readable(build_dataset(typed(coco_job(tmp_path)), "train2017"), "coco")
    loaded = dataset.pipeline.transforms[0](dataset.get_data_info(1))["img"]
    assert np.array_equal(loaded[..., ::-1], before)
    dataset[1]
    with pytest.raises(UserError, match=rf"^{files[2]}: not readable as an image"):
        dataset[2]
