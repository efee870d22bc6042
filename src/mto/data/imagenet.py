"""ImageNet-1K in any of its forms, and any folder of class folders: samples with masks, and labelled images."""

import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from mto.config.job import HeterogeneityJob, Job, PretrainJob
from mto.data.bad_files import policy
from mto.data.cache import Cache
from mto.data.device import encoded
from mto.data.device.colours import blurred, by_place
from mto.data.device.moves import by_turns
from mto.data.forms.recognise import recognise
from mto.data.images import decode
from mto.data.labels import labelled
from mto.data.layout import IMAGE_SUFFIXES
from mto.data.listing import Images, load, walk
from mto.data.rng import generator, seeded
from mto.data.transforms import Sample, Transform, pretrain_transform
from mto.data.workers import obey_parent_alone
from mto.errors import StorageError, UserError
from mto.runtime.ranks import number
from mto.storage import is_folder

Key = int | tuple[int, int]


class ImageFolder:
    """The images of ``root/split/<class>/``, in sorted order; a class's label is its place among the sorted folders.

    A dataset of another form (`mto.data.forms`) has the same images in the same order.

    Args:
        root: the dataset.
        split: "train" or "val".
        num_classes: how many class folders there must be.
        listing: of the dataset's job (`mto.data.listing`); without a file there the folder is listed here.
        classes: the class folders that count, where it is not all of them; a label is a place among these.
        cache: folder of the images as bytes (`mto.data.cache`), to be read instead of their files.
        decode: every image; else files stay as they are, where the device can decode them (`mto.data.device.encoded`).

    Raises:
        UserError: the split is missing, or holds another number of classes or no image; the cache is of other images.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        num_classes: int,
        listing: str | Path = "",
        classes: Sequence[str] | None = None,
        cache: str | Path | None = None,
        decode: bool = True,
    ) -> None:
        self.split = split
        self.policy = policy  # travels with the dataset into the loader's workers
        self.folder = Path(root) / split
        if recognise(root) == "folders" and not is_folder(self.folder):
            raise UserError(f"{self.folder}: no such folder; set datasets.imagenet.root in config.yaml to its parent")
        found = load(Path(listing), self.folder, classes) or walk(self.folder, classes)
        self.classes = [os.fsdecode(name) for name in found.classes]
        if len(self.classes) != num_classes:
            there = f"{len(self.classes)} class folders{' that datasets.imagenet.classes names' if classes else ''}"
            raise UserError(f"{self.folder}: {there}, but datasets.imagenet.num_classes is {num_classes}")
        if not len(found.names):
            raise UserError(f"{self.folder}: no image in its class folders (looked for {', '.join(IMAGE_SUFFIXES)})")
        self.images = Images(self.folder, found)
        self.labels = self.images.labels
        self.cache = None if cache is None else Cache(Path(cache), self.folder, found)
        self.decode = decode

    @classmethod
    def of(cls, job: Job, split: str) -> "ImageFolder":
        """Builds it by the job's ``data``: root, number of classes, and maybe listing, classes, cache and decoding.

        A cache is of the training images alone, and the device decodes no others.

        Raises:
            UserError: as the class; or the job wants a cache that its dataset has not.
        """
        data = job.data
        cache = None
        if split == "train" and data.cache and not (cache := data.cache_folder):
            raise UserError(
                f"data.cache: trained on are images of {data.cache} pixels; its dataset has no cache of them; "
                "give --inputs data=manifest.json of a dataset's job that made one"
            )
        place = data.root, split, data.num_classes, data.listing, data.classes
        return cls(*place, cache=cache, decode=split != "train" or data.decode != "device")

    def __len__(self) -> int:
        return len(self.images)

    def path(self, index: int) -> str:
        """Returns an image's path; of one in an archive, that of the archive and the name in it."""
        return self.images[index].path

    def _read(self, index: int) -> np.ndarray | encoded.Jpeg:
        if self.cache is None:
            member = self.images[index]
            return (decode if self.decode else encoded.read)(member.read(), member.path)
        pixels = self.cache[index]
        if pixels is None:
            raise UserError(f"{self.path(index)}: could not be read when {self.cache.folder} was made")
        return pixels

    def sample(self, index: int) -> tuple[Any, int]:
        """Returns an image, (H, W, 3) uint8 in RGB, or its file for the device (`encoded.Jpeg`); and its label.

        Where the config passes over unreadable training images, the next one stands in (`mto.data.bad_files`).

        Raises:
            UserError: the file is no whole image.
        """
        for shift in range(len(self)):
            at = (index + shift) % len(self)
            try:
                return self._read(at), int(self.labels[at])
            except UserError as error:
                if self.split != "train":
                    raise
                self.policy.pass_over("imagenet", self.path(at), error)
        raise UserError(f"{self.folder}: no image can be read")

    @contextmanager
    def named(self, index: int) -> Iterator[None]:
        """Adds an image's path to an exception that does not tell it, as of a transform."""
        try:
            yield
        except (UserError, StorageError):
            raise
        except Exception as error:
            error.add_note(f"while a sample was made of {self.path(index)}")
            raise

    def image(self, index: int) -> Any:
        """Returns the image of a `sample`."""
        return self.sample(index)[0]


def sample_bytes(job: Job, images: ImageFolder) -> int:
    """Returns the bytes of one view of an image or, where the device decodes, of a file on average."""
    return 3 * job.img_size**2 if images.decode else encoded.FILE_BYTES


class PretrainDataset(Dataset):
    """Samples for masked image modeling: ``dataset[epoch, index]`` -> dict.

    ``image`` (H, W, 3) uint8, or ``encoded`` (`mto.data.device.encoded.Cut`) where the device decodes; ``mask`` (N,)
    bool, True = masked; ``colours`` of the teacher's view (`mto.data.device.colours`) where the job's data has
    ``teacher``. All of it is a function of (seed, epoch, index), and the crop does not depend on the mask: the runs of
    one seed and one crop recipe see the same crops.

    Args:
        job: a pre-training (or heterogeneity) job: ``seed``, ``data``, ``method``, ``mask``.
        split: "train" or "val".
        transform: another view than `pretrain_transform`, e.g. `eval_transform(job)`.
    """

    def __init__(
        self, job: PretrainJob | HeterogeneityJob, split: str = "train", transform: Transform | None = None
    ) -> None:
        from mto.methods.masking import build_mask_sampler

        self.images = ImageFolder.of(job, split)
        self.seed = job.seed
        if transform is None:
            assert isinstance(job, PretrainJob), "another stage's job needs a transform"
            transform = pretrain_transform(job)
        self.transform = transform
        self.sample_bytes = sample_bytes(job, self.images)
        self.mask_sampler = build_mask_sampler(job.method.img_size, job.method.patch_size, **job.mask.written())

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: Key) -> Sample:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        with seeded(self.seed, "sample", epoch, index), self.images.named(index):
            sample = self.transform(self.images.image(index))
        return {**sample, "mask": self.mask_sampler(generator(self.seed, "mask", epoch, index))}


class ClassificationDataset(Dataset):
    """Labelled images: ``dataset[epoch, index]`` -> dict.

    It has ``image`` (H, W, 3) uint8, ``label`` () int64, and what the transform adds.

    Args:
        job: a fine-tuning or linear-probe job: ``seed``, ``data``, whose ``labels`` is the share of the training images
            whose labels are used (`mto.data.labels`); without it, all.
        split: "train" or "val".
        transform: from `mto.data.transforms`.
    """

    def __init__(self, job: Job, split: str, transform: Transform) -> None:
        self.images = ImageFolder.of(job, split)
        self.seed = job.seed
        self.transform = transform
        self.sample_bytes = sample_bytes(job, self.images)
        share = job.data.labels if split == "train" else 1.0
        self.places = None if share == 1.0 else labelled(self.images.labels, share, self.seed)

    def __len__(self) -> int:
        return len(self.images if self.places is None else self.places)

    def __getitem__(self, key: Key) -> Sample:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        if self.places is not None:
            index = int(self.places[index])
        with seeded(self.seed, "sample", epoch, index), self.images.named(index):
            image, label = self.images.sample(index)
            return {**self.transform(image), "label": torch.tensor(label)}


def collate(samples: list[Any]) -> Any:
    """Collates samples as torch's `default_collate`, and separately what has another length in each batch.

    The latter is made here, on the host, since later the GPU would be waited for to know it.

    ``noise`` is that of the samples, joined end to end, and so are the files of ``encoded``; ``moves`` are theirs by
    turns; ``jittered`` and ``blurred`` are the places of those whose ``colours`` are so.
    """
    if not isinstance(samples[0], dict):
        return default_collate(samples)
    ragged: dict[str, Callable] = {"noise": torch.cat, "moves": by_turns, "encoded": encoded.join}
    batch = default_collate([{name: sample[name] for name in sample if name not in ragged} for sample in samples])
    for name, join in ragged.items():
        if name in samples[0]:
            batch[name] = join([sample[name] for sample in samples])
    if "colours" in batch:
        batch |= {"jittered": by_place(batch["colours"]), "blurred": blurred(batch["colours"])}
    return batch


#: Bytes that the batches loaded ahead may take in shared memory, of one loader of one rank.
AHEAD = 1 << 30


def prefetch(batch_bytes: int, workers: int) -> int:
    """Returns how many batches each worker loads ahead: four, or as many as `AHEAD` bytes hold; one at least.

    On a GPU as much again may wait in pinned memory, in blocks of the next power of two.
    """
    return max(1, min(4, AHEAD // max(batch_bytes * workers, 1)))


#: Where workers put batches for their parent. Docker gives a container 64 MB of it.
SHARED = Path("/dev/shm")


def check_shared_memory(needed: int) -> None:
    """Compares the bytes that loaders hold in shared memory with what is free.

    Raises:
        UserError: there are fewer; torch would end a worker by a bus error, or say that no space is left on a device.
    """
    free = shutil.disk_usage(SHARED).free if SHARED.is_dir() else needed
    if needed > free:
        raise UserError(
            f"{SHARED}: {free / 1e6:,.1f} MB are free, and the loaders' workers hold {needed / 1e6:,.1f} MB of batches "
            f"there; start the container with --shm-size={math.ceil(2 * needed / 1e9)}g or --ipc=host, or take fewer"
        )


def build_loader(
    dataset: Dataset,
    sampler: Sampler,
    batch_size: int,
    workers: int = 0,
    *,
    collate_fn: Callable[[list[Any]], Any] = collate,
    pin_memory: bool = False,
) -> DataLoader:
    """Builds a loader of this rank's micro-batches; the sampler decides on the order and on what is dropped.

    Args:
        batch_size: samples of one micro-batch on this rank.
        workers: loader processes; 0 loads in this process. The samples are the same.
        collate_fn: mmseg's and mmdet's datasets need `mmengine.dataset.pseudo_collate`.
        pin_memory: for a GPU; it opens a CUDA context in this process.
    """
    batch_bytes = getattr(dataset, "sample_bytes", 0) * batch_size
    if workers:
        check_shared_memory(batch_bytes * workers * prefetch(batch_bytes, workers) * number("LOCAL_WORLD_SIZE", 1))
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=workers,
        collate_fn=collate_fn,
        pin_memory=pin_memory,
        worker_init_fn=obey_parent_alone,
        persistent_workers=workers > 0,
        prefetch_factor=prefetch(batch_bytes, workers) if workers else None,
        generator=torch.Generator(),  # its own: an iterator over the loader draws a seed, else from the global one
    )
