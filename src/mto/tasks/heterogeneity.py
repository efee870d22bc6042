"""Heterogeneity of a pre-trained model: H per layer, image and affinity of Eq. 2, and token affinities for Figure 2.

In: ``method``, a state.pth (of this study, or imported). Out: heterogeneity.csv (stream, layer, variant, image, H in
nats, H_over_lnV, saturated), affinity.npz (``<stream>/<layer>``: (images, N, N) inner products x_i . x_j, masked tokens
first, then visible, each in raster order; ``num_masked``), metrics.json with the first variant's mean H,
``heterogeneity_<l>``, and the number of ``images``. The images are spread evenly over the validation set; a mask is a
function of (seed, index).
"""

from __future__ import annotations

import csv
import json
import math
import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from mto.config.job import HeterogeneityJob
from mto.config.parts import Variant
from mto.data.imagenet import PretrainDataset
from mto.data.transforms import eval_transform
from mto.errors import UserError
from mto.files import replacing
from mto.losses.mto import MaskedTokenOptimization
from mto.methods import Stream
from mto.names import IMPORTED
from mto.tasks.pretrain import build_model
from mto.tasks.task import Task
from mto.training.checkpoint import load_state
from mto.training.mim import MaskedImageModel


class Row(NamedTuple):
    stream: str
    layer: int
    variant: str
    image: int
    H: float
    H_over_lnV: float
    saturated: float


def run(task: Task[HeterogeneityJob]) -> None:
    job, device = task.job, task.hardware.device
    dataset = PretrainDataset(job, "val", transform=eval_transform(job))
    model = load_model(job, task.input("method")).to(device).eval()
    # A variant names what it changes of Eq. 2 as the paper has it, whatever preset MTO is trained with.
    affinities_by_name = {
        variant_name(variant): MaskedTokenOptimization.text(terms=[], **variant.written()) for variant in job.variants
    }
    rows: list[Row] = []
    maps: dict[str, list[Tensor]] = {}
    masked: set[int] = set()
    batch = task.hardware.micro_batch or 32
    count = min(job.images, len(dataset))
    # Evenly spread over the classes, which the folder lists one after another.
    chosen = [index * len(dataset) // count for index in range(count)]
    for start in range(0, count, batch):
        samples = [dataset[0, index] for index in chosen[start : start + batch]]
        data = model.data_preprocessor(default_collate(samples))
        images, masks = data["image"], data["mask"]
        with torch.no_grad():
            hidden = model(images, masks, images, mode="tensor")["hidden"]
            for offset in range(len(samples)):
                one, mask, image = one_image(hidden, offset), masks[offset : offset + 1], start + offset
                rows += measure(one, mask, image, affinities_by_name)
                if image < job.affinity_images:
                    masked.add(int(mask.sum()))
                    for name, affinity in affinities(one, mask[0]):
                        maps.setdefault(name, []).append(affinity)
        print(f"image {start + len(samples)}/{count}", flush=True)
    write(task.out, rows, maps, masked)
    first = next(iter(affinities_by_name))
    task.finish(means(rows, first) | {"images": count})


def variant_name(variant: Variant) -> str:
    """Names a variant: ``pre-dot-raw``, or ``pre-cosine-raw-0.1`` (temperature, where there is one)."""
    return "-".join(
        str(getattr(variant, key))
        for key in ("position", "affinity", "tokens", "temperature")
        if getattr(variant, key) is not None
    )


def load_model(job: HeterogeneityJob, path: Path) -> MaskedImageModel:
    """Loads the student (and teacher) of a state.pth, with MTO's measuring off.

    Raises:
        UserError: the state is of another method or size, or was imported from a file of the encoder alone.
    """
    origin = path.with_name(IMPORTED)
    imported = json.loads(origin.read_text(encoding="utf-8")) if origin.exists() else {"encoder_only": False}
    if imported["encoder_only"]:
        raise UserError(
            f"{path}: imported from {imported['checkpoint']}, an encoder alone, but heterogeneity needs the whole "
            f"{job.method.name}; import a file that has it (MAE: mae_pretrain_vit_base_full.pth)"
        )
    model = build_model(job)
    try:
        state = load_state(path)["state_dict"]
        # What MTO has measured of its gradients (`balance`) is nothing to a model without its losses.
        model.load_state_dict({name: value for name, value in state.items() if not name.startswith("mto.")})
    except (RuntimeError, KeyError) as error:
        raise UserError(f"{path}: not a state of {job.method.written()} ({str(error).splitlines()[0]})") from error
    model.measure = False
    return model


def one_image(hidden: dict[str, Stream], index: int) -> dict[str, Stream]:
    """Returns the streams of one image, as a batch of one, without attention."""

    def one(x: Tensor) -> Tensor:
        return x[index : index + 1] if len(x) > 1 else x  # a position may serve all images

    return {
        name: replace(
            stream,
            tokens=[one(x) for x in stream.tokens],
            position=None if stream.position is None else one(stream.position),
            first_attention=None,
        )
        for name, stream in hidden.items()
    }


def measure(
    streams: dict[str, Stream], mask: Tensor, image: int, affinities_by_name: dict[str, MaskedTokenOptimization]
) -> Iterator[Row]:
    """Yields the rows of one image by every affinity."""
    log_visible = max(math.log(int((~mask).sum())), 1e-12)
    for variant, affinity in affinities_by_name.items():
        for name, values in affinity.streams(streams, mask)["diagnostics"].items():
            profile = zip(values["heterogeneity"].tolist(), values["saturated"].tolist(), strict=True)
            for layer, (h, saturated) in enumerate(profile):
                yield Row(name, layer, variant, image, h, h / log_visible, saturated)


def affinities(streams: dict[str, Stream], mask: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yields the (N, N) inner products of each layer's tokens, masked first, named ``<stream>/<layer>``."""
    order = torch.argsort((~mask).to(torch.uint8), stable=True)
    for name, stream in streams.items():
        for layer, tokens in enumerate(stream.tokens):
            x = tokens[0, order].float()
            yield f"{name}/{layer}", (x @ x.T).cpu()


def write(out: Path, rows: list[Row], maps: dict[str, list[Tensor]], masked: set[int]) -> None:
    """Writes heterogeneity.csv and affinity.npz.

    Raises:
        UserError: the images drawn for the maps mask unequal numbers of patches, which one figure cannot show.
    """
    if len(masked) > 1:
        raise UserError(f"affinity maps: images mask {sorted(masked)} patches; set analysis.affinity_images to 1")
    with replacing(out / "heterogeneity.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Row._fields)
        writer.writerows(rows)
    with replacing(out / "affinity.npz") as temporary, temporary.open("wb") as file:
        arrays: dict[str, Any] = {name: torch.stack(values).numpy().astype(np.float32) for name, values in maps.items()}
        np.savez(file, num_masked=np.array(sorted(masked)), **arrays)


def means(rows: list[Row], variant: str) -> dict[str, float]:
    """Returns the mean H over images by one affinity, for each layer.

    The names are ``heterogeneity_<layer>``, after ``<stream>/`` if there are several.
    """
    groups: dict[tuple[str, int], list[float]] = {}
    for row in rows:
        if row.variant == variant:
            groups.setdefault((row.stream, row.layer), []).append(row.H)
    several = len({stream for stream, _ in groups}) > 1
    return {
        (f"{stream}/" if several else "") + f"heterogeneity_{layer}": statistics.fmean(values)
        for (stream, layer), values in groups.items()
    }
