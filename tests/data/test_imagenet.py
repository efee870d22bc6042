import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mto.data.device.colours import NUMBERS
from mto.data.imagenet import ClassificationDataset, ImageFolder, PretrainDataset, build_loader, prefetch
from mto.data.sampler import EpochSampler
from mto.data.transforms import eval_transform, finetune_train_transform, linear_train_transform
from mto.errors import UserError
from typed_jobs import SIZES, typed


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(alike(a[key], b[key]) for key in a)


def alike(a: torch.Tensor | list, b: torch.Tensor | list) -> bool:
    if isinstance(a, list):
        return len(a) == len(b) and all(map(torch.equal, a, b))
    return torch.equal(a, b)


def test_a_pre_training_sample_is_a_function_of_seed_epoch_and_index(pretrain_job, teacher):
    pretrain_job["data"]["teacher"] = teacher
    dataset = PretrainDataset(typed(pretrain_job))
    sample = dataset[3, 7]
    assert {name: (value.shape, value.dtype) for name, value in sample.items()} == {
        "image": ((24, 24, 3), torch.uint8),
        "colours": ((NUMBERS,), torch.float32),
        "mask": ((36,), torch.bool),
    }
    assert sample["mask"].sum() == 27
    torch.rand(5), np.random.random()  # noqa: NPY002
    assert same(PretrainDataset(typed(pretrain_job))[3, 7], sample)
    for other in (dataset[4, 7], dataset[3, 8], PretrainDataset(typed({**pretrain_job, "seed": 1}))[3, 7]):
        assert not torch.equal(other["image"], sample["image"])
        assert not torch.equal(other["mask"], sample["mask"])


def test_methods_of_one_seed_see_the_same_crops(pretrain_job):
    other = {**pretrain_job, "mask": {"sampler": "cells", "ratio": 0.6, "cell_size": 8}}
    a, b = PretrainDataset(typed(pretrain_job))[2, 5], PretrainDataset(typed(other))[2, 5]
    assert torch.equal(a["image"], b["image"])
    assert not torch.equal(a["mask"], b["mask"])


def test_a_pre_training_dataset_takes_another_view(pretrain_job, finetune_job):
    data = {key: value for key, value in finetune_job["data"].items() if key != "augment"}
    analysis = {"task": "heterogeneity", "images": 1, "affinity_images": 1, "variants": []}
    sized = {"method": SIZES | pretrain_job["method"], "data": data}
    sample = PretrainDataset(typed(pretrain_job | analysis | sized), "val", eval_transform(typed(finetune_job)))[0]
    assert torch.equal(
        sample["image"],
        ClassificationDataset(typed(finetune_job), "val", eval_transform(typed(finetune_job)))[0]["image"],
    )
    assert sample["mask"].dtype == torch.bool


@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_workers_do_not_change_the_samples(kind, pretrain_job, finetune_job):
    if kind == "pretrain":
        dataset = PretrainDataset(typed(pretrain_job))
    else:
        dataset = ClassificationDataset(typed(finetune_job), "train", finetune_train_transform(typed(finetune_job)))

    def epochs(workers):
        sampler = EpochSampler(len(dataset), seed=0, shuffle=True, drop_last_to=16)
        loader = build_loader(dataset, sampler, 16, workers)
        for epoch in (0, 1):
            sampler.set_epoch(epoch)
            yield from loader

    torch.manual_seed(0)
    state = torch.get_rng_state()
    alone, two = list(epochs(0)), list(epochs(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert len(alone) == len(two) == 6
    assert all(same(a, b) for a, b in zip(alone, two, strict=True))
    assert not torch.equal(alone[0]["image"], alone[3]["image"])


def test_datasets_travel_to_workers_that_are_started_afresh(pretrain_job, finetune_job, linear_job):
    """macOS pickles the dataset into its loader workers."""
    datasets = [
        PretrainDataset(typed(pretrain_job)),
        ClassificationDataset(typed(finetune_job), "train", finetune_train_transform(typed(finetune_job))),
        ClassificationDataset(typed(linear_job), "train", linear_train_transform(typed(linear_job))),
        ClassificationDataset(typed(linear_job), "val", eval_transform(typed(linear_job))),
    ]
    for dataset in datasets:
        assert same(pickle.loads(pickle.dumps(dataset))[1, 2], dataset[1, 2])


def test_labels_are_the_places_of_the_sorted_folders(finetune_job, digits):
    dataset = ClassificationDataset(typed(finetune_job), "val", eval_transform(typed(finetune_job)))
    assert len(dataset) == 20
    for index in range(20):
        assert dataset[index]["label"].item() == int(Path(dataset.images.path(index)).parent.name.removeprefix("digit"))
    assert dataset[0]["label"].dtype == torch.int64


def test_chosen_classes_are_labelled_by_their_own_order(finetune_job, digits):
    data = finetune_job["data"] | {"num_classes": 3, "classes": ["digit8", "digit1", "digit3"]}
    chosen = ClassificationDataset(typed({**finetune_job, "data": data}), "val", eval_transform(typed(finetune_job)))
    every = ClassificationDataset(typed(finetune_job), "val", eval_transform(typed(finetune_job)))
    assert chosen.images.classes == ["digit1", "digit3", "digit8"]
    seen = [(str(chosen.images.path(i)), chosen[i]["label"].item()) for i in range(len(chosen))]
    whole = [str(every.images.path(i)) for i in range(len(every))]
    places = {"digit1": 0, "digit3": 1, "digit8": 2}
    assert seen == [(p, places[name]) for p in whole if (name := p.split("/")[-2]) in places]
    assert len(seen) == 6
    with pytest.raises(
        UserError, match=r"2 class folders that datasets\.imagenet\.classes names, but .*num_classes is 3"
    ):
        ImageFolder(digits, "val", 3, classes=["digit1", "digit3", "digit77"])


def test_images_come_in_rgb(tmp_path):
    for kind, mode in (("a", "L"), ("b", "RGBA"), ("c", "CMYK"), ("d", "P")):
        (tmp_path / "train" / kind).mkdir(parents=True)
        Image.new(mode, (5, 4)).save(tmp_path / "train" / kind / ("x.JPEG" if mode in ("L", "CMYK") else "x.PNG"))
    (tmp_path / "train" / "a" / "notes.txt").touch()
    folder = ImageFolder(tmp_path, "train", 4)
    assert len(folder) == 4
    assert {(folder.image(i).shape, folder.image(i).dtype) for i in range(4)} == {((4, 5, 3), np.dtype("uint8"))}


def test_what_is_wrong_with_a_folder_is_one_line(tmp_path, digits):
    with pytest.raises(UserError, match=r"nothing.*no such folder; set datasets\.imagenet\.root"):
        ImageFolder(digits, "nothing", 10)
    with pytest.raises(UserError, match=r"10 class folders, but datasets\.imagenet\.num_classes is 1000"):
        ImageFolder(digits, "train", 1000)
    (tmp_path / "train" / "a").mkdir(parents=True)
    with pytest.raises(UserError, match="no image in its class folders"):
        ImageFolder(tmp_path, "train", 1)
    (tmp_path / "train" / "a" / "broken.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"a/broken\.png: not readable as an image"):
        ImageFolder(tmp_path, "train", 1).image(0)


@pytest.mark.parametrize(
    ("side", "batch", "workers", "expected"),
    [
        (224, 64, 11, 4),  # 0.4 GB
        (224, 512, 11, 1),  # four batches of floats a worker were 13.6 GB, of eight ranks 108 GB
        (224, 256, 4, 4),
        (224, 512, 4, 3),
        (1024, 4096, 64, 1),
        (0, 64, 4, 4),  # of a dataset that does not say how large its samples are
    ],
)
def test_what_is_loaded_ahead_is_bounded_in_bytes(side, batch, workers, expected):
    ahead = prefetch(3 * side**2 * batch, workers)
    assert ahead == expected
    assert ahead == 1 or ahead * 3 * side**2 * batch * workers <= 2**30


def test_datasets_say_how_large_their_samples_are(pretrain_job, finetune_job, teacher):
    def pixels(sample):
        return sum(value.nbytes for name, value in sample.items() if "image" in name)

    plain = PretrainDataset(typed(pretrain_job))
    pretrain_job["data"]["teacher"] = teacher
    with_colours = PretrainDataset(typed(pretrain_job))
    labelled = ClassificationDataset(typed(finetune_job), "val", eval_transform(typed(finetune_job)))
    assert [data.sample_bytes for data in (plain, with_colours, labelled)] == [1728, 1728, 1728]
    assert all(pixels(data[0]) == data.sample_bytes for data in (plain, with_colours, labelled))
    assert build_loader(plain, EpochSampler(60, seed=0, shuffle=False), 10**6, 2).prefetch_factor == 1
    assert build_loader(plain, EpochSampler(60, seed=0, shuffle=False), 10, 2).prefetch_factor == 4
