"""Crops of real photographs to pre-train on, for `mto_search.py`: no download, no identical patches, a label each.

    apt-get install mate-backgrounds ukui-wallpapers lomiri-wallpapers-16.04 lomiri-wallpapers-20.04 gnome-backgrounds
    python benchmarks/photograph_crops.py photographs.npz

Writes `xt`, `yt` (20,160 crops, 32 x 32 x 3 bytes, and the photograph that each comes from, 0 to 35) and `xe`, `ye`
(2,880 for testing). Test crops come from the right 30 % of each photograph, the others from the rest.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

SIDE, TRAIN, TEST = 32, 560, 80
#: Photographs in Debian's packages, below /usr/share/backgrounds.
NAMES = [
    "2004default.jpg",
    "Bridge_by_Sander_Klootwijk.jpg",
    "Dragonfly_by_Bolly.jpg",
    "Fossa_by_Jasper_Roks.jpg",
    "Infinite-Sea_by_Aury88.jpg",
    "Kleiber_by_Lukas_Baubkus.jpg",
    "Wine_by_Jakkub_Mede.jpg",
    "aitzgorri_by_Aitzol_Berasategi.jpg",
    "firstgeneration.jpg",
    "free_by_Peter_Nerlich.jpg",
    "friends_by_Aitzol_Berasategi.jpg",
    "greentock_by_Peter_Nerlich.jpg",
    "life_by_Aitzol_Berasategi.jpg",
    "picosdeeuropa_by_Aitzol_Berasategi.jpg",
    "rhythm.jpg",
    "seeding_by_Clements_Engelhardt.jpg",
    "string.jpg",
    "sunset_by_Aitzol_Berasategi.jpg",
    "the-mouse.jpg",
    "umang_by_Abhishek_Mudgal.jpg",
    "analogpattern_by_Peter_Nerlich.jpg",
    "Painting-Colors_by__herobrine7gamer.jpg",
    "gnome/wood-d.webp",
    "mate/abstract/Elephants.jpg",
    "mate/nature/Aqua.jpg",
    "mate/nature/Blinds.jpg",
    "mate/nature/Dune.jpg",
    "mate/nature/FreshFlower.jpg",
    "mate/nature/Garden.jpg",
    "mate/nature/GreenMeadow.jpg",
    "mate/nature/LadyBird.jpg",
    "mate/nature/RainDrops.jpg",
    "mate/nature/Storm.jpg",
    "mate/nature/TwoWings.jpg",
    "mate/nature/Wood.jpg",
    "mate/nature/YellowFlower.jpg",
]


def crops(image: np.ndarray, left: int, right: int, count: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Random squares of 32 to 96 pixels between two columns, shrunk to 32; flat ones are drawn again, within reason."""
    found: list[np.ndarray] = []
    tries = 0
    while len(found) < count:
        tries += 1
        size = int(rng.integers(32, 97))
        y, x = int(rng.integers(0, image.shape[0] - size + 1)), int(rng.integers(left, right - size + 1))
        square = Image.fromarray(image[y : y + size, x : x + size])
        crop = np.asarray(square.resize((SIDE, SIDE), Image.Resampling.BOX if size > 40 else Image.Resampling.BICUBIC))
        if crop.std() >= 8 or tries >= 20 * count:
            found.append(crop)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--backgrounds", type=Path, default=Path("/usr/share/backgrounds"))
    args = parser.parse_args()
    Image.MAX_IMAGE_PIXELS = None
    rng = np.random.default_rng(0)
    train: list[np.ndarray] = []
    test: list[np.ndarray] = []
    for name in NAMES:
        photograph = Image.open(args.backgrounds / name).convert("RGB")
        scale = 420 / min(photograph.size)
        size = round(photograph.width * scale), round(photograph.height * scale)
        pixels = np.asarray(photograph.resize(size, Image.Resampling.LANCZOS))
        cut = int(pixels.shape[1] * 0.7)
        train += crops(pixels, 0, cut, TRAIN, rng)
        test += crops(pixels, cut, pixels.shape[1], TEST, rng)
    labels, test_labels = (np.repeat(np.arange(len(NAMES)), count) for count in (TRAIN, TEST))
    order = rng.permutation(len(train))
    np.savez(args.out, xt=np.stack(train)[order], yt=labels[order], xe=np.stack(test), ye=test_labels)
    print(f"{args.out}: {len(train)} and {len(test)} crops of {len(NAMES)} photographs")


if __name__ == "__main__":
    main()
