import subprocess
import sys
from pathlib import Path

import pytest

from mto.data.layout import check
from mto.errors import UserError


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def imagenet(root: Path) -> None:
    touch(root, "train/a/1.JPEG", "train/b/2.JPEG", "val/a/3.JPEG", "val/b/4.JPEG")


def ade20k(root: Path) -> None:
    for split in ("training", "validation"):
        touch(root, f"images/{split}/1.jpg", f"annotations/{split}/1.png")


def coco(root: Path) -> None:
    for split in ("train2017", "val2017"):
        touch(root, f"{split}/1.jpg", f"annotations/instances_{split}.json")


COUNTS = {
    "imagenet": {"train": 2, "val": 2},
    "ade20k": {"training": 1, "validation": 1},
    "coco": {"train2017": 1, "val2017": 1},
}
MAKERS = {"imagenet": imagenet, "ade20k": ade20k, "coco": coco}


@pytest.mark.parametrize("name", COUNTS)
def test_a_complete_dataset_is_counted(name, tmp_path):
    MAKERS[name](tmp_path)
    assert check(name, tmp_path, expected=COUNTS[name]) == COUNTS[name]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("imagenet", lambda r: (r / "val").rename(r / "valid"), "val/ is missing"),
        (
            "imagenet",
            lambda r: touch(r, "val/5.JPEG", "val/c/6.JPEG"),
            "val/ holds 3 class folders instead of 2 and 1 loose files",
        ),
        ("imagenet", lambda r: (r / "train/b/2.JPEG").unlink(), "train/ has 1 class folders without an image, e.g. b"),
        (
            "imagenet",
            lambda r: (r / "val/b").rename(r / "val/c"),
            "the class folders of train and val have different names",
        ),
        ("ade20k", lambda r: (r / "annotations/training/1.png").unlink(), "training holds 0 pairs instead of 1"),
        ("ade20k", lambda r: touch(r, "images/validation/2.jpg"), "1 pairs instead of 1 (2 images, 1 annotations)"),
        ("ade20k", lambda r: (r / "images/training").rename(r / "images/t"), "images/training/ is missing"),
        ("coco", lambda r: touch(r, "val2017/2.jpg"), "val2017/ holds 2 images instead of 1"),
        (
            "coco",
            lambda r: (r / "annotations/instances_val2017.json").write_text(""),
            "instances_val2017.json is missing or empty",
        ),
        ("coco", lambda r: (r / "train2017").rename(r / "train"), "train2017/ is missing"),
    ],
)
def test_what_is_missing_is_named_in_one_line(name, change, message, tmp_path):
    MAKERS[name](tmp_path)
    change(tmp_path)
    with pytest.raises(UserError) as error:
        check(name, tmp_path, expected=COUNTS[name])
    text = str(error.value)
    assert message in text
    assert text.startswith(f"datasets.{name}.root: ")
    assert str(tmp_path) in text
    assert "\n" not in text


def test_of_chosen_classes_only_the_folders_are_looked_for(tmp_path):
    """The whole of ImageNet may lie there: nobody copies a hundred classes out of it."""
    imagenet(tmp_path)
    touch(tmp_path, "train/c/5.JPEG", "val/loose.txt")
    (tmp_path / "val/d").mkdir()
    assert check("imagenet", tmp_path, classes=["b", "a"]) == {"train": 2, "val": 2}
    with pytest.raises(
        UserError, match=r"no complete 3 classes of ImageNet-1K.*val/ lacks 1 of the 3 class folders, e\.g\. c\."
    ) as error:
        check("imagenet", tmp_path, classes=["a", "b", "c"])
    assert "train/ lacks" not in str(error.value)
    assert "each of the 3 folders that datasets.imagenet.classes names" in str(error.value)
    touch(tmp_path, "train/d/6.JPEG")
    with pytest.raises(UserError, match=r"val/ has 1 class folders without an image, e\.g\. d"):
        check("imagenet", tmp_path, classes=["a", "d"])


@pytest.mark.parametrize("name", COUNTS)
def test_nothing_there_tells_the_whole_layout_and_the_key(name, tmp_path):
    with pytest.raises(
        UserError, match=r"datasets\.x\.root.* no such folder.*Expected there: .*set `datasets\.x\.root`"
    ) as error:
        check(name, tmp_path / "nowhere", "datasets.x.root")
    assert {"imagenet": "1000 class folders", "ade20k": "20210 and 2000 pairs", "coco": "118287"}[name] in str(
        error.value
    )


def test_the_snakefile_can_ask_without_torch():
    code = "import sys, mto.data.layout; sys.exit(any(m in sys.modules for m in ('torch', 'numpy', 'PIL')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
