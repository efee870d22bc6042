"""ImageNet-1K, and any other folder of class folders: pre-training samples with masks, and labelled images."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from mto.data.bad_files import policy
from mto.data.images import read
from mto.data.layout import IMAGE_SUFFIXES, class_images
from mto.data.rng import generator, seeded
from mto.data.transforms import Transform, pretrain_transform
from mto.data.workers import obey_parent_alone
from mto.errors import UserError

Key = int | tuple[int, int]


class ImageFolder:
    """The images of ``root/split/<class>/``, in sorted order; a class's label is its place among the sorted folders.

    File names are one NumPy array of bytes: 1.28 million Python strings would be copied into every loader worker, page
    by page, as their reference counts change.

    Args:
        root: the dataset.
        split: "train" or "val".
        num_classes: how many class folders there must be.

    Raises:
        UserError: the folder is missing, or holds another number of classes or no image.
    """

    def __init__(self, root: str | Path, split: str, num_classes: int) -> None:
        self.split = split
        self.policy = policy  # travels with the dataset into the loader's workers
        self.folder = Path(root) / split
        if not self.folder.is_dir():
            raise UserError(f"{self.folder}: no such folder; set datasets.imagenet.root in config.yaml to its parent")
        self.classes = sorted(entry.name for entry in os.scandir(self.folder) if entry.is_dir())
        if len(self.classes) != num_classes:
            raise UserError(
                f"{self.folder}: {len(self.classes)} class folders, but datasets.imagenet.num_classes is {num_classes}"
            )
        with ThreadPoolExecutor(8) as pool:  # listing 1,000 folders waits on the file system
            names = list(pool.map(class_images, [self.folder / name for name in self.classes]))
        if not any(names):
            raise UserError(f"{self.folder}: no image in its class folders (looked for {', '.join(IMAGE_SUFFIXES)})")
        self.names = np.array([os.fsencode(name) for listed in names for name in listed])
        self.labels = np.repeat(np.arange(num_classes), [len(listed) for listed in names])

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> Path:
        return self.folder / self.classes[self.labels[index]] / os.fsdecode(self.names[index])

    def sample(self, index: int) -> tuple[Image.Image, int]:
        """The image in RGB, at its own size, and its label.

        Of an unreadable training image, where the config passes over those, the next one's (`mto.data.bad_files`).

        Raises:
            UserError: the file is no whole image.
        """
        for shift in range(len(self)):
            path = self.path((index + shift) % len(self))
            try:
                return read(path), int(self.labels[(index + shift) % len(self)])
            except UserError as error:
                if self.split != "train":
                    raise
                self.policy.pass_over("imagenet", path, error)
        raise UserError(f"{self.folder}: no image can be read")

    def image(self, index: int) -> Image.Image:
        """The image of a `sample`."""
        return self.sample(index)[0]


class PretrainDataset(Dataset):
    """Samples for masked image modeling: ``dataset[epoch, index]`` -> dict.

    ``image`` (3, H, W) float; ``mask`` (N,) bool, True = masked; ``teacher_image`` (3, H, W) where the job's data has
    ``teacher``. All of it is a function of (seed, epoch, index), and the crop does not depend on the mask: the runs of
    one seed and one crop recipe see the same crops.

    Args:
        job: a pre-training (or heterogeneity) job: ``seed``, ``data``, ``method``, ``mask``.
        split: "train" or "val".
        transform: another view than `pretrain_transform`, e.g. `eval_transform(job)`; PIL image -> tensor.
    """

    def __init__(self, job: dict[str, Any], split: str = "train", transform: Transform | None = None) -> None:
        from mto.methods.masking import build_mask_sampler

        self.images = ImageFolder(job["data"]["root"], split, job["data"]["num_classes"])
        self.seed = job["seed"]
        self.transform = pretrain_transform(job) if transform is None else transform
        self.mask_sampler = build_mask_sampler(job["method"]["img_size"], job["method"]["patch_size"], **job["mask"])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: Key) -> dict[str, Tensor]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        with seeded(self.seed, "sample", epoch, index):
            view = self.transform(self.images.image(index))
        sample = view if isinstance(view, dict) else {"image": view}
        return {**sample, "mask": self.mask_sampler(generator(self.seed, "mask", epoch, index))}


class ClassificationDataset(Dataset):
    """Labelled images: ``dataset[epoch, index]`` -> ``{"image": (3, H, W) float, "label": () int64}``.

    Args:
        job: a fine-tuning or linear-probe job: ``seed``, ``data``.
        split: "train" or "val".
        transform: PIL image -> tensor, from `mto.data.transforms`.
    """

    def __init__(self, job: dict[str, Any], split: str, transform: Transform) -> None:
        self.images = ImageFolder(job["data"]["root"], split, job["data"]["num_classes"])
        self.seed = job["seed"]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: Key) -> dict[str, Tensor]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        with seeded(self.seed, "sample", epoch, index):
            image, label = self.images.sample(index)
            return {"image": self.transform(image), "label": torch.tensor(label)}


def build_loader(
    dataset: Dataset,
    sampler: Sampler,
    batch_size: int,
    workers: int = 0,
    *,
    collate_fn: Callable[[list[Any]], Any] | None = None,
    pin_memory: bool = False,
) -> DataLoader:
    """A loader of this rank's micro-batches; the sampler decides on the order and on what is dropped.

    Args:
        batch_size: samples of one micro-batch on this rank.
        workers: loader processes; 0 loads in this process. The samples are the same.
        collate_fn: mmseg's and mmdet's datasets need `mmengine.dataset.pseudo_collate`.
        pin_memory: for a GPU; it opens a CUDA context in this process.
    """
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=workers,
        collate_fn=collate_fn,
        pin_memory=pin_memory,
        worker_init_fn=obey_parent_alone,
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers else None,
        generator=torch.Generator(),  # its own: an iterator over the loader draws a seed, else from the global one
    )
