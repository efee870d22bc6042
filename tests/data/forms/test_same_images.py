"""Every form of the same images is the same dataset: the list, its order, labels, bytes, and all that reads it."""

import json
import pickle
import shutil
import time

import numpy as np
import pytest

from image_forms import CLASSES, WRITERS, Picture, pictures, write
from mto.data import bad_files, cache, listing, verify
from mto.data.forms.recognise import TITLES, recognise
from mto.data.imagenet import ImageFolder
from mto.errors import UserError
from mto.tasks import data
from typed_jobs import typed

FORMS = list(WRITERS)
OTHERS = [form for form in FORMS if form != "folders"]
SPLITS = ("train", "val")


@pytest.fixture(scope="session")
def roots(tmp_path_factory):
    images = pictures()
    return {form: write(form, images, tmp_path_factory.mktemp(form)) for form in FORMS}


def job(root, **more):
    return {"task": "data", "dataset": "imagenet", "root": str(root), "num_classes": 5, "make": None, **more}


@pytest.mark.parametrize("form", FORMS)
def test_the_list_is_that_of_class_folders(roots, form):
    assert recognise(roots[form]) == form
    for split in SPLITS:
        expected, found = ImageFolder(roots["folders"], split, 5), ImageFolder(roots[form], split, 5)
        assert found.classes == expected.classes == CLASSES
        assert np.array_equal(found.images.listing.names, expected.images.listing.names)
        assert np.array_equal(found.labels, expected.labels)
        assert found.images.listing.content == expected.images.listing.content
        for index in range(len(expected)):
            member = found.images[index]
            assert member.read() == expected.images[index].read()
            assert str(roots[form]) in member.path
            assert member.path.endswith(expected.path(index).rpartition("/")[2])


@pytest.mark.parametrize("form", FORMS)
def test_chosen_classes_are_taken_out(roots, form):
    chosen = [CLASSES[3], CLASSES[1]]
    expected, found = (ImageFolder(roots[name], "train", 2, classes=chosen) for name in ("folders", form))
    assert found.classes == sorted(chosen)
    assert [found.images[i].read() for i in range(12)] == [expected.images[i].read() for i in range(12)]
    assert found.labels.tolist() == [0] * 6 + [1] * 6
    with pytest.raises(UserError, match=r"4 class folders that datasets\.imagenet\.classes names, .*num_classes is 5"):
        ImageFolder(roots[form], "val", 5, classes=[*CLASSES[:4], "n00000001"])


@pytest.mark.parametrize("form", FORMS)
def test_the_dataset_s_job_says_the_form_and_leaves_a_listing(roots, form, tmp_path, capsys):
    manifests = {}
    for name in ("folders", form):
        data.run(typed(job(roots[name])), tmp_path / name, workers=2)
        manifests[name] = json.loads((tmp_path / name / "manifest.json").read_text())
    found, expected = manifests[form], manifests["folders"]
    assert found["form"] == form
    assert found["counts"] == expected["counts"] == {"train": 5, "val": 5}
    assert found["images"] == expected["images"] == {"train": 30, "val": 15}
    assert found["content"] == expected["content"]
    printed = capsys.readouterr().out
    assert f"imagenet: {TITLES[form]}, at {roots[form]}" in printed
    assert ("datasets.imagenet.convert: FOLDER copies it once" in printed) == (form == "parquet")
    assert "images: train 30, val 15" in printed
    for split in SPLITS:
        read = listing.load(tmp_path / form / listing.NAME, roots[form] / split)
        walked = listing.walk(roots[form] / split)
        assert all(np.array_equal(a, b) for a, b in zip(read, walked, strict=True))


def test_content_is_not_that_of_other_images(roots, tmp_path):
    images = pictures()
    first = listing.walk(write("folders", images, tmp_path / "a") / "train").content
    renamed = [image._replace(name="x.JPEG") if image == images[0] else image for image in images]
    moved = [image._replace(of=CLASSES[1]) if image == images[0] else image for image in images]
    for number, other in enumerate((renamed, moved, images[1:])):
        assert listing.walk(write("webdataset", other, tmp_path / str(number)) / "train").content != first


@pytest.mark.parametrize("form", OTHERS)
def test_what_was_changed_since_is_listed_anew(form, tmp_path):
    root = write(form, pictures(), tmp_path / "root")
    listing.save(tmp_path / "listing.npz", root, SPLITS)
    assert listing.load(tmp_path / "listing.npz", root / "val") is not None
    time.sleep(0.01)
    shutil.rmtree(root)
    write(form, pictures(val=2), root)
    assert listing.load(tmp_path / "listing.npz", root / "val") is None
    assert len(ImageFolder(root, "val", 5, tmp_path / "listing.npz")) == 10


def test_a_listing_of_another_form_is_none(roots, tmp_path):
    root = shutil.copytree(roots["parquet"], tmp_path / "root")
    listing.save(tmp_path / "listing.npz", root, SPLITS)
    shutil.rmtree(root)
    shutil.copytree(roots["webdataset"], root)
    assert listing.load(tmp_path / "listing.npz", root / "train") is None


def damaged() -> list[Picture]:
    """The images, of which one to train on is cut off, and one is no image at all."""
    images = pictures()
    for index, content in ((4, images[4].data[:200]), (9, b"no image")):
        images[index] = images[index]._replace(data=content)
    return images


@pytest.mark.parametrize("form", FORMS)
def test_a_look_names_the_same_images(form, tmp_path):
    images = damaged()
    root = write(form, images, tmp_path / "root")
    for level, workers in (("fast", 1), ("full", 2)):
        faults = verify.verify("imagenet", root, 5, level, workers)
        assert {fault.file.rpartition("/")[2] for fault in faults} == {images[4].name, images[9].name}
        assert all(fault.spare and str(root) in fault.file for fault in faults)
        assert {fault.what.partition(" (")[0] for fault in faults} == {"not readable as an image"}


@pytest.mark.parametrize("form", FORMS)
def test_bad_files_are_passed_over_alike(form, tmp_path, monkeypatch):
    root = write(form, damaged(), tmp_path / "root")
    monkeypatch.setenv(bad_files.VARIABLE, '{"imagenet": 2}')
    seen = []
    for place in (write("folders", damaged(), tmp_path / "folders"), root):
        images = ImageFolder(place, "train", 5)
        monkeypatch.setattr(images.policy, "record", tmp_path / f"passed over in {place.name}")
        seen.append([images.sample(index) for index in range(30)])
        assert len(images.policy.passed()) == 2
    for (pixels, label), (expected, of) in zip(*seen, strict=True):
        assert np.array_equal(pixels, expected)
        assert label == of


@pytest.mark.parametrize("form", FORMS)
def test_a_cache_and_the_device_get_the_same(roots, form, tmp_path):
    found, expected = listing.walk(roots[form] / "train"), listing.walk(roots["folders"] / "train")
    for name, listed in ((form, found), ("expected", expected)):
        root = roots[form] if name == form else roots["folders"]
        cache.build(tmp_path / name, 16, root / "train", listed, 2)
    shards = [sorted((tmp_path / name).glob("*.bin")) for name in (form, "expected")]
    assert [path.read_bytes() for path in shards[0]] == [path.read_bytes() for path in shards[1]]
    files = [ImageFolder(root, "train", 5, decode=False) for root in (roots[form], roots["folders"])]
    for index in range(30):
        one, other = (folder.image(index) for folder in files)
        assert type(one) is type(other)
        if isinstance(one, np.ndarray):
            assert np.array_equal(one, other)
        else:
            assert np.array_equal(one.data, other.data)
            assert one[2:] == other[2:]


@pytest.mark.parametrize("form", FORMS)
def test_images_travel_to_processes_that_are_started_afresh(roots, form):
    folder = pickle.loads(pickle.dumps(ImageFolder(roots[form], "train", 5)))
    expected = ImageFolder(roots["folders"], "train", 5)
    assert np.array_equal(folder.image(7), expected.image(7))
    member = pickle.loads(pickle.dumps(folder.images[3]))
    assert member.read() == expected.images[3].read()
