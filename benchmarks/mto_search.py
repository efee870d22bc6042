"""Which reading of MTO's equations does no harm? Small pre-trainings of all four methods, one table row a run.

    python benchmarks/mto_search.py --plan choose --out docs/mto-search.csv \\
        --fashion-mnist /usr/share/datasets/fashion-mnist --photographs photographs.npz

Rows that the table holds already are skipped, so a stopped search goes on where it was; `--plan` is one or more of the
plans below, `--data` keeps the runs on one data set. `docs/mto-collapse.md` says what the columns are for and what came
out. Data: Fashion-MNIST's four files (Debian's dataset-fashion-mnist) and the file that `photograph_crops.py` writes.
A run takes about a minute of one core: a ViT of width 48 and depth 4 on 28 x 28 pixels, 49 patches.
"""

import argparse
import copy
import csv
import gzip
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mto_search_measures import COSINE, NORMED, knn, ridge, tokens_summary
from torch import Tensor, nn

from mto.losses.mto import MaskedTokenOptimization
from mto.methods import MAE, BootMAE, ConMIM, Method, SimMIM
from mto.methods.masking import build_mask_sampler

METHODS = ("simmim", "mae", "bootmae", "conmim")
SIDE, PATCH, BATCH = 28, 4, 32
UNIT = 75  # steps; what `warmup_epochs` counts, since these runs have no epochs
PEAK_RATE, CLIP = 1.5e-3, 5.0


def weighted(weight: float, **switches: Any) -> dict[str, Any]:
    return {"spa_weight": weight, "e_weight": weight, "r_weight": weight, **switches}


#: The equations on raw dot products with weights of 1; a preset is what differs from it.
TEXT: dict[str, Any] = {"affinity": "dot", "temperature": 1.0, "spa_weight": 1.0, "e_weight": 1.0, "r_weight": 1.0}
PRESETS: dict[str, dict[str, Any]] = {
    "none": {"terms": []},
    "text": {},
    "text, printed sign": {"rank_direction": "as_printed"},
    "normed-0.1": weighted(0.1, **NORMED),
    "cosine-0.3": weighted(0.3, **COSINE),
    "cosine-0.1": weighted(0.1, **COSINE),
    "cosine-0.03": weighted(0.03, **COSINE),
    "cosine/0.2-0.1": weighted(0.1, affinity="cosine", temperature=0.2),
    "cosine/0.2-0.3": weighted(0.3, affinity="cosine", temperature=0.2),
    "cosine/0.2-1": {"affinity": "cosine", "temperature": 0.2},
    "cosine/1-1": {"affinity": "cosine"},
    "cosine/1-0.1": weighted(0.1, affinity="cosine"),
    "raw-0.003": weighted(0.003),
    "scaled-0.01": weighted(0.01, affinity="scaled"),
}


#: What the search chose.
CHOSEN = "cosine-0.1"


class Run(NamedTuple):
    preset: str
    method: str
    data: str
    seed: int
    width: int = 48
    steps: int = 450


def choose() -> Iterator[Run]:
    """The search, on seeds that nothing is reported on; SimMIM first, the method that MTO harms most easily."""
    both = ("none", "text", "normed-0.1", "cosine-0.1", "cosine-0.03", "cosine/0.2-0.1", "cosine/0.2-1")
    both += ("cosine/1-1", "cosine/1-0.1", "raw-0.003")
    for preset in both:
        for data in ("fashion", "photographs"):
            yield Run(preset, "simmim", data, 10)
    for preset in ("scaled-0.01", "cosine-0.3", "cosine/0.2-0.3"):
        yield Run(preset, "simmim", "fashion", 10)
    for preset in ("cosine-0.1", "cosine/0.2-0.1"):
        yield Run(preset, "simmim", "fashion", 11)
    for preset in ("none", "cosine-0.1"):
        yield Run(preset, "conmim", "fashion", 10)
        yield Run(preset, "bootmae", "photographs", 10)


def report() -> Iterator[Run]:
    """What the note reports on: other seeds than the search's, shorter runs; ConMIM learns nothing on photographs."""
    for preset in ("none", CHOSEN, "text"):
        yield Run(preset, "simmim", "fashion", 20)
    yield Run("text", "conmim", "fashion", 20, steps=300)
    for preset in ("none", CHOSEN):
        yield Run(preset, "conmim", "photographs", 20, steps=300)
    for data, methods in (("fashion", METHODS), ("photographs", ("simmim", "mae", "bootmae"))):
        for seed in (20, 21, 22):
            for method in methods:
                for preset in ("none", CHOSEN):
                    yield Run(preset, method, data, seed, steps=300)


def why() -> Iterator[Run]:
    """`text` with the sign of Eq. 5 that is printed."""
    yield Run("text, printed sign", "simmim", "fashion", 20, steps=300)


def width() -> Iterator[Run]:
    """The same presets in a network four times as wide."""
    for preset in ("none", CHOSEN):
        yield Run(preset, "simmim", "photographs", 10, width=192, steps=225)


PLANS: dict[str, Callable[[], Iterator[Run]]] = {"choose": choose, "report": report, "width": width, "why": why}

# ---------------------------------------------------------------------------------------------------------------- data


class Data(NamedTuple):
    """Images (n, C, 32, 32) uint8 to pre-train on, and labelled ones, disjoint, for the probes."""

    pretrain: Tensor
    labelled: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    mean: float
    std: float


def load_data(name: str, args: argparse.Namespace) -> Data:
    if name == "fashion":

        def read(file: str, offset: int) -> np.ndarray:
            return np.frombuffer(gzip.open(args.fashion_mnist / file).read(), np.uint8, offset=offset)

        images, labels = read("train-images-idx3-ubyte.gz", 16), read("train-labels-idx1-ubyte.gz", 8)
        test_images, test_labels = read("t10k-images-idx3-ubyte.gz", 16), read("t10k-labels-idx1-ubyte.gz", 8)
        images, test_images = (
            np.pad(x.reshape(-1, 1, 28, 28), [(0, 0)] * 2 + [(2, 2)] * 2) for x in (images, test_images)
        )
    else:
        with np.load(args.photographs) as file:
            images, labels, test_images, test_labels = (file[key] for key in ("xt", "yt", "xe", "ye"))
        images, test_images = (x.transpose(0, 3, 1, 2) for x in (images, test_images))
    order, test_order = (np.random.default_rng(123).permutation(len(x)) for x in (labels, test_labels))
    pretrain, labelled, test = order[:10_000], order[10_000:13_000], test_order[:2_000]
    x = images[pretrain] / 255.0

    def tensors(pixels: np.ndarray, classes: np.ndarray) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(pixels.copy()), torch.from_numpy(classes.astype(np.int64))

    return Data(
        torch.from_numpy(images[pretrain].copy()),
        tensors(images[labelled], labels[labelled]),
        tensors(test_images[test], test_labels[test]),
        float(x.mean()),
        float(x.std()),
    )


def pixels(images: Tensor, data: Data, generator: torch.Generator | None = None) -> Tensor:
    """uint8 (B, C, 32, 32) -> (B, 3, 28, 28): the centre, or with a generator a random crop, flipped or not."""
    top, left, x = 2, 2, images
    if generator is not None:
        top, left = torch.randint(5, (2,), generator=generator).tolist()
        flip = torch.rand(len(x), 1, 1, 1, generator=generator) < 0.5
        x = torch.where(flip, x.flip(-1), x)
    x = (x[..., top : top + SIDE, left : left + SIDE].float() / 255.0 - data.mean) / data.std
    return x.expand(-1, 3, -1, -1)


# ------------------------------------------------------------------------------------------------------------ networks


def build(method: str, width: int) -> tuple[Method, Callable[[torch.Generator], Tensor]]:
    """The network and its mask sampler, with the counts of the official recipes; all networks have depth 4."""
    size: dict[str, Any] = {
        "img_size": SIDE,
        "patch_size": PATCH,
        "embed_dim": width,
        "depth": 4,
        "num_heads": width // 16,
    }
    match method:
        case "simmim":
            return SimMIM(**size, drop_path=0.0), build_mask_sampler(SIDE, PATCH, sampler="random", ratio=0.6)
        case "mae":
            network: Method = MAE(**size, decoder_embed_dim=width, decoder_depth=4, decoder_num_heads=width // 16)
            return network, build_mask_sampler(SIDE, PATCH, sampler="random", ratio=0.75)
        case "bootmae":
            network = BootMAE(**size, decoder_embed_dim=width, decoder_depth=2)
            return network, build_mask_sampler(SIDE, PATCH, sampler="block_random", ratio=0.75)
        case "conmim":
            network = ConMIM(**size, projector_dim=256, output_dim=64)
            return network, build_mask_sampler(SIDE, PATCH, sampler="random", ratio=0.75)
    raise ValueError(f"method: '{method}' is none of {', '.join(METHODS)}")


class Trial:
    """A network, its teacher and its MTO, at one point of training."""

    def __init__(self, run: Run, data: Data):
        torch.manual_seed(run.seed)
        self.run, self.data = run, data
        self.network, self.sampler = build(run.method, run.width)
        self.teacher = self.network.make_teacher()
        self.mto = MaskedTokenOptimization(**TEXT | PRESETS[run.preset])

    def masks(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.stack([self.sampler(generator) for _ in range(count)])

    def forward(self, images: Tensor, mask: Tensor, generator: torch.Generator, feature_weight: float = 1.0):
        """The method's output with hidden states; ConMIM's teacher sees the images in other colours."""
        b = len(images)
        gain, shift = torch.rand(b, 1, 1, 1, generator=generator), torch.randn(b, 1, 1, 1, generator=generator)
        inputs: dict[str, Any] = self.network.teacher_targets(
            self.teacher, images, images * (0.6 + 0.8 * gain) + 0.4 * shift
        )
        if self.run.method == "bootmae":
            inputs["feature_weight"] = feature_weight
        return self.network(images, mask, num_masked=self.sampler.num_masked, return_hidden=True, **inputs)

    def terms(self, out: dict[str, Any], mask: Tensor, progress: float) -> Tensor:
        hidden, count = out["hidden"], self.sampler.num_masked
        return self.mto.streams(hidden, mask, num_masked=count, progress=progress, measure=False)["loss"]

    # -------------------------------------------------------------------------------------------------------- training

    def train(self) -> dict[str, Any]:
        """Pre-train; returns the ratio of MTO's gradient to the reconstruction's at the start, half-way and the end."""
        run, network = self.run, self.network
        generator = torch.Generator().manual_seed(1000 + run.seed)
        named = [(n, p) for n, p in network.named_parameters() if p.requires_grad]
        groups = [
            {"params": [p for _, p in named if p.ndim > 1], "weight_decay": 0.05},
            {"params": [p for _, p in named if p.ndim <= 1], "weight_decay": 0.0},
        ]
        betas = (0.9, 0.95) if run.method in ("mae", "bootmae") else (0.9, 0.999)
        optimizer = torch.optim.AdamW(groups, lr=PEAK_RATE, betas=betas, fused=True)
        passes = 1 + run.steps * BATCH // len(self.data.pretrain)
        order = torch.cat([torch.randperm(len(self.data.pretrain), generator=generator) for _ in range(passes)])
        ratios = [self.gradient_ratio()]
        for step in range(run.steps):
            for group in optimizer.param_groups:
                group["lr"] = PEAK_RATE * rate(step, run.steps)
            images = pixels(self.data.pretrain[order[step * BATCH : (step + 1) * BATCH]], self.data, generator)
            mask = self.masks(BATCH, generator)
            out = self.forward(images, mask, generator, min(1.0, 4 * (step + 1) / run.steps))
            loss = out["loss"]
            if self.mto.settings["terms"]:
                loss = loss + self.terms(out, mask, step / UNIT)
            if not torch.isfinite(loss):
                break
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_([p for _, p in named], CLIP)
            optimizer.step()
            if self.teacher is not None:
                momentum = network.teacher_momentum(step, run.steps, 0, 1)
                network.update_teacher(self.teacher, momentum)
            if step + 1 in (run.steps // 2, run.steps):
                ratios.append(self.gradient_ratio())
        return {"grad_ratio": ratios}

    def gradient_ratio(self) -> float:
        """Norm of MTO's gradient at full weight over that of the method's own loss, on one fixed held-out batch."""
        if not self.mto.settings["terms"]:
            return 0.0
        trial, images, mask, generator = self.held_out(BATCH)
        out = trial.forward(images, mask, generator)
        losses = out["loss"], trial.terms(out, mask, 1e9)
        parameters = [p for p in trial.network.parameters() if p.requires_grad]
        norms = []
        for loss in losses:
            gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
            norms.append(float(nn.utils.get_total_norm([g for g in gradients if g is not None])))
        return norms[1] / norms[0]

    # ------------------------------------------------------------------------------------------------------ evaluation

    def held_out(self, count: int) -> tuple["Trial", Tensor, Tensor, torch.Generator]:
        """A copy (batch norms keep count of what they see), test images and the masks that every run is measured on."""
        trial, generator = copy.copy(self), torch.Generator().manual_seed(7)
        trial.network, trial.teacher = copy.deepcopy((self.network, self.teacher))
        return trial, pixels(self.data.test[0][:count], self.data), self.masks(count, generator), generator

    @torch.no_grad()
    def evaluate(self) -> dict[str, Any]:
        trial, images, mask, generator = self.held_out(256)
        out = trial.forward(images, mask, generator)
        hidden = out.pop("hidden")
        total = out.pop("loss")
        losses = {name: value.item() for name, value in out.items()}
        result: dict[str, Any] = {"loss": losses.get("reconstruction", losses.get("pixel", total.item()))}
        result["feature_loss"] = losses.get("feature", "")
        streams = [tokens_summary(stream.tokens, mask, self.mto.settings) for stream in hidden.values()]
        for name, worst in {"cos_masked": max, "modal_share": max, "rank_x0": min}.items():
            result[name] = worst(stream[name] for stream in streams)
        result["norm_x0"] = float(np.mean([stream["norm_x0"] for stream in streams]))
        for name in ("h", "h_dot", "h_cosine", "h_cosine1", "h_normed"):
            result[name] = np.mean([stream[name] for stream in streams], axis=0).tolist()
        train, test = (self.features(images) for images in (self.data.labelled[0], self.data.test[0]))
        if train.isfinite().all():
            result["knn"] = knn(train, self.data.labelled[1], test, self.data.test[1])
            result["probe"] = ridge(train, self.data.labelled[1], test, self.data.test[1])
        return result

    def features(self, images: Tensor) -> Tensor:
        """Mean of the student encoder's normed patch tokens of whole images, (n, D)."""
        pooled = []
        for x in (pixels(chunk, self.data) for chunk in images.split(500)):
            network: Any = self.network
            if self.run.method in ("simmim", "conmim"):
                tokens = network.encode(x, None)[0]
            else:
                tokens = network.forward_encoder(x, torch.arange(network.grid_size[0] ** 2).expand(len(x), -1))
                tokens = tokens if isinstance(tokens, Tensor) else tokens[0]
            pooled.append(tokens[:, 1:].mean(1))
        return torch.cat(pooled)


def rate(step: int, steps: int, warmup: int = UNIT) -> float:
    """Share of the peak rate: linear warm-up, then a half cosine to 0."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


# --------------------------------------------------------------------------------------------------------------- table

COLUMNS = (
    *Run._fields, "loss", "feature_loss", "knn", "probe", "cos_masked", "modal_share", "rank_x0", "norm_x0",
    "grad_ratio", "h", "h_dot", "h_cosine", "h_normed", "cpu_s", "switches", "h_cosine1",
)  # fmt: skip


def compact(value: Any) -> str:
    """Four significant digits; a list's numbers separated by spaces."""
    if isinstance(value, list):
        return " ".join(compact(v) for v in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def finished(table: Path) -> set[tuple[str, ...]]:
    if not table.exists():
        return set()
    with table.open(newline="") as file:
        return {tuple(row[field] for field in Run._fields) for row in csv.DictReader(file)}


def append(table: Path, row: dict[str, Any]) -> None:
    new = not table.exists()
    with table.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        if new:
            writer.writeheader()
        writer.writerow({name: compact(value) for name, value in row.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", nargs="+", choices=PLANS, default=list(PLANS))
    parser.add_argument("--data", nargs="+", choices=("fashion", "photographs"), default=["fashion", "photographs"])
    parser.add_argument("--fashion-mnist", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--photographs", type=Path, default=Path("photographs.npz"))
    parser.add_argument("--out", type=Path, default=Path("mto-search.csv"))
    parser.add_argument("--limit", type=int, help="stop after so many runs")
    args = parser.parse_args()
    torch.set_num_threads(1)

    runs = dict.fromkeys(run for plan in args.plan for run in PLANS[plan]() if run.data in args.data)
    done = finished(args.out)
    todo = [run for run in runs if tuple(map(str, run)) not in done][: args.limit]
    data: dict[str, Data] = {}
    for number, run in enumerate(todo, 1):
        if run.data not in data:
            data[run.data] = load_data(run.data, args)
        start = time.process_time()
        trial = Trial(run, data[run.data])
        row = run._asdict() | trial.train() | trial.evaluate()
        row |= {"cpu_s": round(time.process_time() - start), "switches": json.dumps(PRESETS[run.preset])}
        append(args.out, row)
        print(f"{number}/{len(todo)}", *(f"{k}={compact(v)}" for k, v in row.items() if k in COLUMNS[:15]), flush=True)


if __name__ == "__main__":
    main()
