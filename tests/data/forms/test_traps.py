"""What goes wrong with each form, and is told in one line before anything trains."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image_forms import CLASSES, pictures, write
from mto.data import layout, listing, verify
from mto.data.forms.archives import entries
from mto.data.forms.recognise import recognise, tar_shards
from mto.data.imagenet import ImageFolder
from mto.errors import UserError


def tar(path: Path, *members: tuple[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def rewritten(path: Path, change) -> None:
    """A parquet file with its rows as `change` makes them."""
    table = pq.read_table(path)
    rows = change(table.to_pylist())
    pq.write_table(pa.Table.from_pylist(rows, table.schema), path)


# -------------------------------------------------------------------------------------------------------- recognition
def test_archives_that_were_unpacked_beside_are_class_folders(tmp_path):
    """As torchvision leaves them."""
    write("archives", pictures(), tmp_path)
    write("folders", pictures(), tmp_path)
    assert recognise(tmp_path) == "folders"


@pytest.mark.parametrize("place", ["", "ILSVRC", "ILSVRC/Data/CLS-LOC"])
def test_kaggles_folders_may_be_named_at_any_height(tmp_path, place):
    write("kaggle", pictures(), tmp_path)
    assert recognise(tmp_path / place) == "kaggle"
    assert len(ImageFolder(tmp_path / place, "val", 5)) == 15


def test_kaggles_folders_sorted_into_classes_are_class_folders(tmp_path):
    write("kaggle", pictures(), tmp_path)
    write("folders", pictures(), tmp_path / "ILSVRC/Data/CLS-LOC")
    assert recognise(tmp_path / "ILSVRC/Data/CLS-LOC") == "folders"


def test_a_converted_branch_of_parquet_is_read(tmp_path):
    write("parquet", pictures(), tmp_path)
    for name, folder in (("train", "train"), ("validation", "validation")):
        for number, path in enumerate(sorted((tmp_path / "data").glob(f"{name}-*"))):
            target = tmp_path / "default" / folder / f"{number:04d}.parquet"
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
    assert recognise(tmp_path) == "parquet"
    assert len(ImageFolder(tmp_path, "train", 5)) == 30


def test_validation_shards_have_two_digits_and_stand_in_the_order_of_numbers(tmp_path):
    for number in (10, 2, 0, 1, *range(3, 10)):
        tar(tmp_path / f"imagenet1k-validation-{number:02d}.tar")
        tar(tmp_path / f"imagenet1k-train-{number}.tar")
    for split in ("train", "val"):
        numbers = [int(path.stem.rpartition("-")[2]) for path in tar_shards(tmp_path, split).files]
        assert numbers == list(range(11))


def removed(pattern):
    return lambda root: [path.unlink() for path in root.glob(pattern)]


def replaced(name, content):
    return lambda root: (root / name).write_bytes(content)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


@pytest.mark.parametrize(
    ("form", "harm", "message"),
    [
        ("parquet", removed("data/train-00001-*"), "1 of 3 shards are missing, e.g. train-00001-of-00003.parquet"),
        ("parquet", removed("data/validation-*"), "no validation-*.parquet is there"),
        ("parquet", replaced("data/train-00000-of-00009.parquet", b"x" * 2000), "shards of two sets are mixed"),
        ("webdataset", removed("*-train-0001.tar"), "1 of 3 shards are missing, e.g. imagenet1k-train-0001.tar"),
        ("webdataset", replaced("imagenet1k-train-0001.tar", POINTER), "is a pointer of git-lfs"),
        ("webdataset", replaced("imagenet1k-train-0001.tar", b""), "is empty"),
        ("archives", removed("*.tar.gz"), "ILSVRC2012_devkit_t12.tar.gz is missing (it has the labels"),
        ("archives", removed("*train.tar"), "ILSVRC2012_img_train.tar is missing"),
    ],
)
def test_the_start_says_what_is_missing(tmp_path, form, harm, message):
    write(form, pictures(), tmp_path)
    assert layout.check("imagenet", tmp_path) == {}
    harm(tmp_path)
    with pytest.raises(UserError) as error:
        layout.check("imagenet", tmp_path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------------------------------------------------- labels
def test_the_kits_numbers_are_not_the_sorted_order(tmp_path):
    """A label taken for the place among the sorted ids would be wrong for nearly all images."""
    write("archives", pictures(), tmp_path)
    found = listing.walk(tmp_path / "val")
    expected = {image.name.encode(): image.of.encode() for image in pictures() if image.split == "val"}
    classes = found.classes[found.labels()]
    assert dict(zip(found.names.tolist(), classes.tolist(), strict=True)) == expected


def test_the_first_word_of_kaggles_line_is_the_class(tmp_path):
    write("kaggle", pictures(), tmp_path)
    table = tmp_path / "LOC_val_solution.csv"
    lines = table.read_text().splitlines()
    name, of = lines[1].split(",")[0], CLASSES[0]
    other = next(c for c in CLASSES if c != of)
    table.write_text("\n".join([lines[0], f"{name},{of} 1 2 3 4 {other} 5 6 7 8", *lines[2:]]))
    found = listing.walk(tmp_path / "val")
    at = found.names.tolist().index(f"{name}.JPEG".encode())
    assert found.classes[found.labels()[at]] == of.encode()


@pytest.mark.parametrize("drop", ["line", "image"])
def test_kaggles_table_and_folder_must_agree(tmp_path, drop):
    write("kaggle", pictures(), tmp_path)
    table = tmp_path / "LOC_val_solution.csv"
    if drop == "line":
        table.write_text("\n".join(table.read_text().splitlines()[:-1]))
    else:
        next((tmp_path / "ILSVRC/Data/CLS-LOC/val").iterdir()).unlink()
    with pytest.raises(UserError, match=r"1 images (are not in LOC_val|that LOC_val)"):
        listing.walk(tmp_path / "val")


def relabel(rows):
    """Two classes in each other's place, as in a list that is not sorted."""
    turn = {0: 1, 1: 0}
    return [row | {"label": turn.get(row["label"], row["label"])} for row in rows]


def test_labels_that_are_not_of_the_sorted_ids_are_refused(tmp_path):
    write("parquet", pictures(), tmp_path)
    for path in (tmp_path / "data").glob("train-*"):
        rewritten(path, relabel)
    with pytest.raises(UserError, match=r"follow the sorted WordNet ids, but n01443537 is before n01440764"):
        listing.walk(tmp_path / "train")


def test_a_label_of_two_classes_is_refused(tmp_path):
    write("parquet", pictures(), tmp_path)
    path = tmp_path / "data/train-00001-of-00003.parquet"
    rewritten(path, lambda rows: [rows[0] | {"label": (rows[0]["label"] + 1) % 5}, *rows[1:]])
    with pytest.raises(UserError, match=r"label \d is both n\d+ and n\d+"):
        listing.walk(tmp_path / "train")


def test_a_test_split_in_a_training_shard_is_refused(tmp_path):
    write("parquet", pictures(), tmp_path)
    rewritten(tmp_path / "data/train-00001-of-00003.parquet", lambda rows: [row | {"label": -1} for row in rows])
    with pytest.raises(UserError, match=r"train-00001.*label -1: it is of a test split"):
        listing.walk(tmp_path / "train")


def test_paths_without_a_wordnet_id_are_refused(tmp_path):
    write("parquet", pictures(), tmp_path)
    change = lambda rows: [r | {"image": r["image"] | {"path": "0.jpg"}} for r in rows]  # noqa: E731
    rewritten(tmp_path / "data/train-00000-of-00003.parquet", change)
    with pytest.raises(UserError, match=r"path 0\.jpg does not end in a WordNet id"):
        listing.walk(tmp_path / "train")


def test_other_columns_are_refused(tmp_path):
    write("parquet", pictures(), tmp_path)
    path = tmp_path / "data/train-00000-of-00003.parquet"
    pq.write_table(pq.read_table(path).rename_columns(["img", "label"]), path)
    with pytest.raises(UserError, match=r"no column image\.bytes; ILSVRC/imagenet-1k has image"):
        listing.walk(tmp_path / "train")


def test_validation_keys_without_an_id_get_their_class_from_the_training_shards(tmp_path):
    write("webdataset", [i for i in pictures() if i.split == "val" or i.of != CLASSES[2]], tmp_path)
    with pytest.raises(UserError, match=r"val: no training image has the label 2"):
        listing.walk(tmp_path / "val")
    write("webdataset", pictures(), tmp_path / "whole")
    assert listing.walk(tmp_path / "whole/val").classes.tolist() == [name.encode() for name in CLASSES]


# ------------------------------------------------------------------------------------------------ names that are twice
def test_one_image_in_two_shards_is_refused(tmp_path):
    images = pictures()
    write("webdataset", images, tmp_path)
    with tarfile.open(tmp_path / "imagenet1k-train-0001.tar", "a") as archive:
        facts = json.dumps({"filename": f"{images[0].of}/{images[0].name}"}).encode()
        for suffix, content in (("jpg", images[0].data), ("cls", b"0"), ("json", facts)):
            entry = tarfile.TarInfo(f"again.{suffix}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    with pytest.raises(UserError, match=r"train holds 1 images twice, e\.g\. n"):
        listing.walk(tmp_path / "train")


def test_equal_stems_of_two_suffixes_are_two_images_in_folders_and_refused_in_a_shard(tmp_path):
    """A key of webdataset is a name without suffix: one of the two images would be lost."""
    images = pictures()
    twin = images[0]._replace(name=images[0].name.replace(".JPEG", ".png"))
    assert len(listing.walk(write("folders", [*images, twin], tmp_path / "f") / "train").names) == 31
    path = tmp_path / "imagenet1k-train-0000.tar"
    tar(path, ("n01440764_1.jpg", images[0].data), ("n01440764_1.png", images[1].data), ("n01440764_1.cls", b"0"))
    with pytest.raises(UserError, match="n01440764_1 has two images"):
        listing.walk(tmp_path / "train")


# ---------------------------------------------------------------------------------------------------------- damage
@settings(max_examples=30, deadline=None)
@given(keep=st.floats(0, 0.999))
def test_a_tar_that_is_cut_off_anywhere_is_refused(tmp_path_factory, keep):
    """tarfile itself takes one that ends between two files for whole."""
    folder = tmp_path_factory.mktemp("tar")
    path = tar(folder / "x.tar", *((f"n01440764_{n}.JPEG", bytes([n]) * (300 * n)) for n in range(9)))
    whole = path.read_bytes()
    end = entries(path)[-1]
    kept = int((end.offset + end.size) * keep)
    path.write_bytes(whole[:kept])
    with pytest.raises(UserError, match=r"x\.tar: (cut off|not a whole tar)"):
        entries(path)


def test_an_inner_tar_that_is_cut_off_is_refused(tmp_path):
    inner = tar(tmp_path / "n01440764.tar", ("n01440764_1.JPEG", b"1" * 2000), ("n01440764_2.JPEG", b"2" * 2000))
    tar(tmp_path / "ILSVRC2012_img_train.tar", ("n01440764.tar", inner.read_bytes()[:3072]))
    with pytest.raises(UserError, match=r"ILSVRC2012_img_train\.tar \(the tar in it at byte 512\): cut off"):
        listing.walk(tmp_path / "train")


@pytest.mark.parametrize("keep", [0, 3, 200, 0.5, 0.9])
def test_a_parquet_file_that_is_cut_off_is_refused(tmp_path, keep):
    write("parquet", pictures(), tmp_path)
    path = tmp_path / "data/train-00000-of-00003.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[: keep if isinstance(keep, int) else int(len(whole) * keep)])
    with pytest.raises(UserError, match=r"train-00000-of-00003\.parquet: damaged, or not a whole parquet file"):
        listing.walk(tmp_path / "train")


@pytest.mark.parametrize("form", ["parquet", "webdataset"])
def test_bytes_that_rot_inside_a_file_are_of_one_image(tmp_path, form):
    """Or of its row group: a compressed page is whole or is none."""
    write(form, pictures(), tmp_path)
    path = next((tmp_path / ("data" if form == "parquet" else "")).glob("*train*"))
    content = bytearray(path.read_bytes())
    at = content.find(b"\xff\xd8\xff", len(content) // 3) if form == "webdataset" else len(content) // 3
    content[at : at + 1000] = bytes(1000)
    path.write_bytes(content)
    faults = verify.verify("imagenet", tmp_path, 5, "full")
    assert 1 <= len(faults) <= 4
    assert all(path.name in fault.file for fault in faults)


@pytest.mark.parametrize("form", ["archives", "webdataset"])
def test_an_archive_that_grew_shorter_while_a_job_reads_it_is_one_line(tmp_path, form):
    write(form, pictures(), tmp_path)
    folder = ImageFolder(tmp_path, "val", 5)
    path = Path(folder.images[0].file)
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(UserError, match=r"not readable as an image \(the file ends before it\)"):
        [folder.image(index) for index in range(len(folder))]


def test_shards_without_labels_are_refused(tmp_path):
    tar(tmp_path / "imagenet1k-train-0000.tar", ("n01440764_1.jpg", b"x"))
    with pytest.raises(UserError, match=r"n01440764_1 has no label in cls or json"):
        listing.walk(tmp_path / "train")


def test_shards_may_have_their_labels_in_json_alone(tmp_path):
    facts = json.dumps({"filename": "n01440764/n01440764_1.JPEG", "label": 0}).encode()
    tar(tmp_path / "imagenet1k-train-0000.tar", ("a/0001.jpg", pictures()[0].data), ("a/0001.json", facts))
    found = listing.walk(tmp_path / "train")
    assert found.names.tolist() == [b"n01440764_1.JPEG"]
    assert found.classes.tolist() == [b"n01440764"]


def test_own_class_folders_are_as_many_as_num_classes(tmp_path):
    images = [image for image in pictures() if image.of in CLASSES[:3]]
    write("folders", images, tmp_path)
    assert layout.check("imagenet", tmp_path, num_classes=3) == {"train": 3, "val": 3}
    with pytest.raises(UserError, match=r"3 class folders instead of 20 .*num_classes says how many") as error:
        layout.check("imagenet", tmp_path, num_classes=20)
    assert "dataset of 20 class folders" in str(error.value)


def test_an_index_is_small(tmp_path):
    """Per image; 1.28 million of them are in docs/datasets.md."""
    write("webdataset", pictures(), tmp_path)
    found = listing.walk(tmp_path / "train")
    assert found.places.nbytes == 24 * 30
    assert np.dtype(found.names.dtype).itemsize <= 20
