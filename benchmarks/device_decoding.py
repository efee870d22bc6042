"""What the device's decoding (`datasets.imagenet.decode: device`) spares the workers, and what it may alter in pixels.

    python benchmarks/device_decoding.py --from /usr/share/backgrounds

The rates are of one core, by turns, as in `data_path.py`: workers that decode, beside workers that hand over files. The
device's part is not in them. Nothing here runs on a GPU: of what a GPU alters, two things can be done on a CPU. It
resizes in floats, and nvJPEG, as TorchCodec calls it, repeats the chroma of a pixel for its neighbours where libjpeg
interpolates. The rest (another inverse cosine transform, other conversions to RGB) is rounding.
"""

from __future__ import annotations

import argparse
import io
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from data_path import BATCH, CASES, Sampled, Side, job_of, ours, pieces, rates_by_turns
from PIL import Image
from torchvision.transforms import InterpolationMode, RandomResizedCrop

from mto.bench.loading import photographs
from mto.config import load
from mto.data import images
from mto.data.device.decode import resize_in_floats
from mto.data.transforms import RATIO, resize
from mto.study.study import Study


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="source", type=Path, help="a folder of photographs, looked through")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(1)
    study = Study(load("config.yaml", scale="paper"))
    with photographs(BATCH) if args.source is None else pieces(args.source, BATCH) as root:
        paths = sorted(root.rglob("*.jpg"))
        print(f"{BATCH} JPEGs of {statistics.fmean(path.stat().st_size for path in paths) / 1000:.0f} kB on average\n")
        print("| data of | workers decode, images/s | workers hand over files | ratio |\n|---|--:|--:|--:|")
        for baseline, stage in CASES:
            if stage != "finetune":
                rates(job_of(study, baseline, stage, root), f"{baseline}, {stage}", args.rounds)
        print("\n| views of 224 pixels, beside the workers' | mean difference, grey levels | 99.9 % | largest |")
        print("|---|--:|--:|--:|")
        differences(paths)


def rates(job: dict, name: str, rounds: int) -> None:
    """Print one row."""
    ways = {"workers": ours, "device": files}
    sides = {how: Side(way, job.reading(decode=how)) for how, way in ways.items()}
    rate = rates_by_turns(sides, rounds)
    ratio = rate["device"] / rate["workers"]
    print(f"| {name} | {rate['workers']:.0f} | {rate['device']:.0f} | {ratio:.1f} |", flush=True)


def files(job: dict) -> tuple[Sampled, Callable]:
    """`ours`, with the files copied to shared memory, as they are on their way from a worker."""
    sample, collate = ours(job)

    def shared(samples: list[dict]) -> None:
        collate(samples)["encoded"].data.share_memory_()

    return sample, shared


def differences(paths: list[Path]) -> None:
    """Print the rows: of the same boxes of the same files, encoded anew with chroma of half size."""
    torch.manual_seed(0)
    kinds = {
        "resized in floats": (images_of, resize_in_floats),
        "chroma repeated (4:2:0 files)": (repeated, resize),
        "both": (repeated, resize_in_floats),
    }
    found: dict[str, list[np.ndarray]] = {name: [] for name in kinds}
    for path in paths:
        with Image.open(path) as image, io.BytesIO() as file:
            image.save(file, "JPEG", quality=90, subsampling=2)
            data = file.getvalue()
        whole = images.decode(data, path)
        box = RandomResizedCrop.get_params(torch.from_numpy(whole).permute(2, 0, 1), (0.2, 1.0), RATIO)
        expected = view(whole, box, resize)
        for name, (decoder, resizing) in kinds.items():
            found[name].append(np.abs(view(decoder(data), box, resizing) - expected).ravel())
    for name, each in found.items():
        values = np.concatenate(each)
        print(f"| {name} | {values.mean():.2f} | {np.quantile(values, 0.999):.0f} | {values.max()} |")


def view(pixels: np.ndarray, box: tuple[int, int, int, int], resizing) -> np.ndarray:
    top, left, height, width = box
    cut = torch.from_numpy(np.ascontiguousarray(pixels[top : top + height, left : left + width]))
    return resizing(cut, [224, 224], InterpolationMode.BICUBIC).numpy().astype(int)


def images_of(data: bytes) -> np.ndarray:
    return images.decode(data, "")


def repeated(data: bytes) -> np.ndarray:
    """As `images_of` without interpolation of chroma.

    At half size libjpeg decodes a file of 4:2:0 with its chroma as it is, and Pillow hands over YCbCr.
    """
    with Image.open(io.BytesIO(data)) as whole:
        whole.draft("YCbCr", whole.size)
        luma = np.array(whole)[..., 0].astype(float)
    height, width = luma.shape
    with Image.open(io.BytesIO(data)) as half:
        half.draft("YCbCr", (width // 2, height // 2))
        assert half.size == ((width + 1) // 2, (height + 1) // 2)
        blue, red = np.moveaxis(np.array(half)[..., 1:].repeat(2, 0).repeat(2, 1)[:height, :width] - 128.0, -1, 0)
    planes = [luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue]
    return np.stack(planes, -1).round().clip(0, 255).astype(np.uint8)


if __name__ == "__main__":
    main()
