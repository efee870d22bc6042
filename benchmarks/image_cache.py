"""What a cache of training images (`datasets.imagenet.cache`) saves, takes and alters, beside the images' files.

    python benchmarks/image_cache.py --from /usr/share/backgrounds [--side 256]

The rates are of one core, by turns, as in `data_path.py`. What it alters: the same box of an image, cut from the file
and from the cache, and resized to 224 pixels; the boxes are drawn as pre-training and fine-tuning draw them.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from data_path import BATCH, CASES, Side, job_of, ours, pieces, rates_by_turns
from torchvision.transforms import InterpolationMode, RandomResizedCrop

from mto.bench.loading import photographs
from mto.config import load
from mto.data import cache, listing
from mto.data.imagenet import ImageFolder
from mto.data.transforms import INCEPTION_CROP, RATIO, resize
from mto.study.study import Study


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="source", type=Path, help="a folder of photographs, looked through")
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(1)
    study = Study(load("config.yaml", scale="paper"))
    with (
        photographs(BATCH) if args.source is None else pieces(args.source, BATCH) as root,
        TemporaryDirectory() as folder,
    ):
        cache.build(Path(folder), args.side, root / "train", listing.walk(root / "train"), 1)
        kept = sum(path.stat().st_size for path in Path(folder).glob("*.bin")) / BATCH
        file = statistics.fmean(path.stat().st_size for path in root.rglob("*.jpg"))
        print(f"An image: {file / 1e3:.0f} kB as a file, {kept / 1e3:.0f} kB in the cache\n")
        print("| data of | from files, images/s | from the cache | ratio |\n|---|--:|--:|--:|")
        for baseline, stage in CASES:
            job = job_of(study, baseline, stage, root)
            there = job.reading(cache=args.side, cache_folder=folder)
            rates = rates_by_turns({"files": Side(ours, job), "cache": Side(ours, there)}, args.rounds)
            ratio = rates["cache"] / rates["files"]
            print(f"| {baseline}, {stage} | {rates['files']:.0f} | {rates['cache']:.0f} | {ratio:.2f} |", flush=True)

        print("\n| crops of | mean difference, grey levels | enlarged, from the file | from the cache |")
        print("|---|--:|--:|--:|")
        for name, scale in (("pre-training, 0.2 to 1", (0.2, 1.0)), ("fine-tuning, 0.08 to 1", INCEPTION_CROP)):
            compare(root, Path(folder), name, scale)


def compare(root: Path, folder: Path, name: str, scale: tuple[float, float]) -> None:
    """Print one row. A crop is enlarged if it has fewer pixels than the view, by either side."""
    torch.manual_seed(0)
    files, cached = ImageFolder(root, "train", 1), ImageFolder(root, "train", 1, cache=folder)
    differences, enlarged = [], {"files": 0, "cache": 0}
    for index in range(4 * BATCH):
        images = {"files": files.image(index % BATCH), "cache": cached.image(index % BATCH)}
        box = RandomResizedCrop.get_params(torch.from_numpy(images["files"]).permute(2, 0, 1), scale, RATIO)
        ratio = images["cache"].shape[0] / images["files"].shape[0]
        views = {}
        for which, image in images.items():
            top, left, height, width = (round(place * (ratio if which == "cache" else 1)) for place in box)
            cut = torch.from_numpy(np.ascontiguousarray(image[top : top + height, left : left + width]))
            views[which] = resize(cut, [224, 224], InterpolationMode.BICUBIC).int()
            enlarged[which] += min(height, width) < 224
        differences.append((views["files"] - views["cache"]).abs().float().mean().item())
    shares = [enlarged[which] / len(differences) for which in ("files", "cache")]
    print(f"| {name} | {statistics.fmean(differences):.1f} | {shares[0]:.0%} | {shares[1]:.0%} |")


if __name__ == "__main__":
    main()
