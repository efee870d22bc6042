"""Which MTO at which width, and which term: the runs that docs/width-study.md registered, one CSV row a run.

    python benchmarks/width_study.py --plan width terms --out docs/width-study.csv \\
        --fashion-mnist /usr/share/datasets/fashion-mnist --photographs photographs.npz

A run that the table holds is skipped, so a stopped study goes on where it was. One process a core: `--part 0/4` to
`--part 3/4` share the list between four, each with an `--out` of its own (`--done` names the others' tables). Data and
networks are those of `mto_search.py`: ViTs of depth 4 on 28 pixels, 49 patches, batch 32, AdamW.
"""

import argparse
import copy
import csv
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mto_search import BATCH, CLIP, PEAK_RATE, Data, build, compact, load_data, pixels, rate
from mto_search_measures import effective_rank, knn, ridge
from torch import Tensor, nn
from width_study_arms import ARMS, SHARES, Arm

from mto.losses.balance import image_gradient_norms, log_of
from mto.losses.diagnostics import collapse

#: Steps at which the shares are measured; the last is the end of the longest run.
LOOKS = (0, 10, 25, 50, 100, 150, 200, 299)
#: Seeds: those that choose something, and those that are reported.
CHOOSING, REPORTED = (10, 11), (30, 31, 32, 33, 34)
WIDTHS = (48, 192, 384, 768)
#: Of the plain method, times its own (control (d)).
RATES = (0.5, 1.0, 2.0, 4.0)
METHODS = ("simmim", "mae", "bootmae", "conmim")


class Run(NamedTuple):
    arm: str
    method: str
    data: str
    seed: int
    width: int = 48
    steps: int = 300
    starts_at: int = 0  # steps without MTO before those with it
    rate: float = 1.0  # times 1.5e-3 * sqrt(48 / width)


def width_study() -> Iterator[Run]:
    """The widths: 768 in 150 steps and on two seeds, the others in 300 and on three."""
    for width in WIDTHS:
        for seed in REPORTED[: 2 if width == 768 else 3]:
            for method in ("simmim", "mae"):
                for arm in ("none", "text", "balanced", "cosine", "as_printed"):
                    yield Run(arm, method, "photographs", seed, width, 150 if width == 768 else 300)


def strength() -> Iterator[Run]:
    """Does a share stay what was asked for? All four methods; MTO's own widths; few steps at 768."""
    for width in WIDTHS:
        for method in METHODS:
            yield Run("balanced", method, "photographs", REPORTED[0], width, {384: 100, 768: 25}.get(width, 300))


def rates() -> Iterator[Run]:
    """Control (d): the plain method's rate, chosen by kNN on seeds that are not reported, as MTO's side is not."""
    for data in ("fashion", "photographs"):
        for method in METHODS[:3]:
            for seed in CHOOSING:
                for factor in RATES:
                    yield Run("none", method, data, seed, rate=factor)


def term_study() -> Iterator[Run]:
    """Table 3's subsets and the controls, at the same share of the gradient."""
    for seed in REPORTED:
        for data in ("photographs", "fashion"):
            for method in METHODS[:3]:
                for arm in TERM_ARMS:
                    yield Run(arm, method, data, seed)


def warm_start() -> Iterator[Run]:
    """MTO from a trained state: 300 steps without, 150 with; beside the same schedule without MTO throughout."""
    for seed in REPORTED[:3]:
        for method in ("simmim", "conmim", "mae"):
            for arm in ("none", "text", "balanced"):
                yield Run(arm, method, "fashion", seed, steps=450, starts_at=0 if arm == "none" else 300)


def tuned(tables: list[Path]) -> Iterator[Run]:
    """Control (d) on the reported seeds: `none` at the best of the rates that the tables hold, where it is another."""
    for (data, method), factor in best_rates(tables).items():
        if factor != 1.0:
            for seed in REPORTED:
                yield Run("none", method, data, seed, rate=factor)


def best_rates(tables: list[Path]) -> dict[tuple[str, str], float]:
    """The rate's factor with the best mean kNN of `none` on the seeds that choose; only where all of its runs exist."""
    found: dict[tuple[str, str], dict[float, list[float]]] = {}
    for row in rows_of(tables):
        if row["arm"] == "none" and int(row["seed"]) in CHOOSING and row["width"] == "48":
            by_rate = found.setdefault((row["data"], row["method"]), {})
            by_rate.setdefault(float(row["rate"]), []).append(float(row["knn"]))
    whole = {cell: knn for cell, knn in found.items() if all(len(knn.get(rate, ())) == len(CHOOSING) for rate in RATES)}
    return {cell: max(knn, key=lambda rate: sum(knn[rate])) for cell, knn in whole.items()}


TERM_ARMS = ("none", "balanced", "spa", "covariance", "spa, visible columns", "e+r", "e+r, visible detached",
             "e", "r", "spa+e", "spa+r")  # fmt: skip
PLANS = {"strength": strength, "width": width_study, "terms": term_study, "warm": warm_start, "rates": rates}


class Trial:
    """A network in training with one arm of the study."""

    def __init__(self, run: Run, data: Data) -> None:
        torch.manual_seed(run.seed)
        self.run, self.data = run, data
        self.network, self.sampler = build(run.method, run.width)
        self.teacher = self.network.make_teacher()
        self.arm = Arm(ARMS[run.arm])
        self.parameters = [p for p in self.network.parameters() if p.requires_grad]

    def forward(self, images: Tensor, mask: Tensor, generator: torch.Generator, feature_weight: float = 1.0):
        """The method's output; ConMIM's teacher sees the images in other colours."""
        gain, shift = (draw(len(images), 1, 1, 1, generator=generator) for draw in (torch.rand, torch.randn))
        recoloured = images * (0.6 + 0.8 * gain) + 0.4 * shift
        inputs: dict[str, Any] = self.network.teacher_targets(self.teacher, images, recoloured)
        if self.run.method == "bootmae":
            inputs["feature_weight"] = feature_weight
        return self.network(images, mask, num_masked=self.sampler.num_masked, return_hidden=True, **inputs)

    def masks(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.stack([self.sampler(generator) for _ in range(count)])

    def train(self) -> dict[str, Any]:
        """Trains, and measures the shares on the way; stops where the loss is no number."""
        run, network, arm = self.run, self.network, self.arm
        generator = torch.Generator().manual_seed(1000 + run.seed)
        groups = [
            {"params": [p for p in self.parameters if (p.ndim > 1) == decays], "weight_decay": 0.05 * decays}
            for decays in (True, False)
        ]
        betas = (0.9, 0.95) if run.method in ("mae", "bootmae") else (0.9, 0.999)
        peak = PEAK_RATE * (48 / run.width) ** 0.5 * run.rate
        optimizer = torch.optim.AdamW(groups, lr=peak, betas=betas, fused=True)
        passes = 1 + run.steps * BATCH // len(self.data.pretrain)
        order = torch.cat([torch.randperm(len(self.data.pretrain), generator=generator) for _ in range(passes)])
        looks: dict[str, list[float]] = {"look": []}
        for step in range(run.steps):
            for group in optimizer.param_groups:
                group["lr"] = peak * rate(step, run.steps)
            images = pixels(self.data.pretrain[order[step * BATCH : (step + 1) * BATCH]], self.data, generator)
            mask = self.masks(BATCH, generator)
            out = self.forward(images, mask, generator, self.feature_weight(step))
            loss, hidden = out["loss"], out["hidden"]
            if step >= run.starts_at and arm.names:
                terms = arm.terms(hidden, mask, self.sampler.num_masked)
                arm.rebalance(step - run.starts_at, loss, terms, hidden)
                if step - run.starts_at in LOOKS:
                    self.look(looks, step)
                loss = loss + arm.loss(terms)
            if not torch.isfinite(loss):
                break
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.parameters, CLIP)
            optimizer.step()
            if self.teacher is not None:
                network.update_teacher(self.teacher, network.teacher_momentum(step, run.steps, 0, 1))
        return {"finished_steps": step + 1, **looks}

    def feature_weight(self, step: int) -> float:
        """BootMAE's weight of its features' loss, warmed up in a quarter of the run."""
        return min(1.0, 4 * (step + 1) / self.run.steps)

    def look(self, looks: dict[str, list[float]], step: int) -> None:
        """Each term's weighted gradient over the method's, on images that no step is taken on and no weight set by.

        At X^0 and, where a width is not too dear for it, of all parameters.
        """
        generator = torch.Generator().manual_seed(7)
        images, mask = pixels(self.data.labelled[0][: 2 * BATCH], self.data), self.masks(2 * BATCH, generator)
        trial = copy.copy(self)  # batch norms keep count of what they see
        trial.network, trial.teacher = copy.deepcopy((self.network, self.teacher))
        out = trial.forward(images, mask, generator, self.feature_weight(step))
        hidden, parameters = out["hidden"], [p for p in trial.network.parameters() if p.requires_grad]
        terms = self.arm.terms(hidden, mask, self.sampler.num_masked)
        looks["look"].append(step)
        for place, tensors in (
            ("x0", [stream.tokens[0] for stream in hidden.values()]),
            ("parameters", parameters if self.run.width < 384 else []),
        ):
            if not tensors:
                continue
            norms = image_gradient_norms if place == "x0" else whole_norm
            base = log_of(norms(out["loss"], tensors).detach())
            for name, value in terms.items():
                share = float(self.arm.weight(name) * (log_of(norms(value, tensors).detach()) - base).mean().exp())
                looks.setdefault(f"share_{place}_{name}", []).append(share)

    @torch.no_grad()
    def evaluate(self) -> dict[str, Any]:
        """Loss on held-out images under fixed masks, signs of collapse, and what the features know of the labels."""
        generator = torch.Generator().manual_seed(7)
        images, mask = pixels(self.data.test[0][:256], self.data), self.masks(256, generator)
        out = self.forward(images, mask, generator)
        loss = next(out[name] for name in ("reconstruction", "pixel", "loss") if name in out)
        streams = list(out["hidden"].values())
        signs = [collapse(stream.tokens, mask) for stream in streams]
        result = {"loss": loss.item(), "constant": next(iter(self.network.constant_loss(images, mask).values())).item()}
        for name, worst in (("masked_cosine", max), ("modal_share", max), ("visible_norm", max)):
            result[name] = worst(float(sign[name]) for sign in signs)
        result["rank_x0"] = min(effective_rank(stream.tokens[0][~mask]) for stream in streams)
        few = 1000 if self.run.width >= 384 else 2000
        (train, labels), (test, test_labels) = (
            (self.features(x[:few]), y[:few]) for x, y in (self.data.labelled, self.data.test)
        )
        if train.isfinite().all():
            result |= {"knn": knn(train, labels, test, test_labels), "probe": ridge(train, labels, test, test_labels)}
        return result

    def features(self, images: Tensor) -> Tensor:
        """Mean of the student encoder's normed patch tokens of whole images, (n, D)."""
        network: Any = self.network
        pooled = []
        for x in (pixels(chunk, self.data) for chunk in images.split(250)):
            if self.run.method in ("simmim", "conmim"):
                tokens = network.encode(x, None)[0]
            else:
                tokens = network.encoder.forward_features(x)
            pooled.append(tokens[:, 1:].mean(1))
        return torch.cat(pooled)


def whole_norm(loss: Tensor, tensors: list[Tensor]) -> Tensor:
    """The norm (1,) of a loss's gradient at all of the tensors; 0 where it depends on none."""
    found = torch.autograd.grad(loss, tensors, retain_graph=True, allow_unused=True) if loss.requires_grad else ()
    return torch.stack([loss.new_zeros(()), *(g.square().sum() for g in found if g is not None)]).sum().sqrt()[None]


#: What a row says beside its run: the commit, what came out, and the shares at each look.
COLUMNS = (
    *Run._fields, "finished_steps", "loss", "constant", "masked_cosine", "modal_share", "visible_norm", "rank_x0",
    "knn", "probe", "look", *(f"share_{place}_{name}" for place in ("x0", "parameters") for name in SHARES),
    "cpu_s", "commit",
)  # fmt: skip


def finished(tables: list[Path]) -> set[tuple[str, ...]]:
    """The runs that the tables hold."""
    return {tuple(row[field] for field in Run._fields) for row in rows_of(tables)}


def rows_of(tables: list[Path]) -> Iterator[dict[str, str]]:
    """The rows of the tables that are there."""
    for table in tables:
        if table.exists():
            with table.open(newline="") as file:
                yield from csv.DictReader(file)


def append(table: Path, row: dict[str, Any]) -> None:
    """One line, written at once: a reader, or a run that is stopped, sees whole rows alone."""
    new = not table.exists()
    with table.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        if new:
            writer.writeheader()
        writer.writerow({name: compact(value) for name, value in row.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", nargs="+", choices=[*PLANS, "tuned"], default=[*PLANS, "tuned"])
    parser.add_argument("--widths", nargs="+", type=int, default=list(WIDTHS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--data", nargs="+", choices=("fashion", "photographs"), default=["fashion", "photographs"])
    parser.add_argument("--seeds", nargs="+", type=int, help="only these; by default all of a plan's")
    parser.add_argument("--fashion-mnist", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--photographs", type=Path, default=Path("photographs.npz"))
    parser.add_argument("--out", type=Path, default=Path("width-study.csv"))
    parser.add_argument("--done", type=Path, nargs="*", default=[], help="other tables, whose runs are skipped too")
    parser.add_argument("--part", default="0/1", help="this process's part of the runs, as 2/4")
    parser.add_argument("--commit", default="", help="what the column says")
    parser.add_argument("--list", action="store_true", help="print the runs that are left, and train none")
    args = parser.parse_args()
    torch.set_num_threads(1)

    plans = PLANS | {"tuned": lambda: tuned([args.out, *args.done])}
    runs = list(dict.fromkeys(run for plan in args.plan for run in plans[plan]()))
    runs = [run for run in runs if run.width in args.widths and run.method in args.methods]
    runs = [run for run in runs if run.arm in args.arms and run.data in args.data]
    runs = [run for run in runs if not args.seeds or run.seed in args.seeds]
    part, parts = map(int, args.part.split("/"))
    done = finished([args.out, *args.done])
    todo = [run for run in runs[part::parts] if tuple(map(compact, run)) not in done]
    data: dict[str, Data] = {}
    for number, run in enumerate(todo, 1):
        if args.list:
            print(*run)
            continue
        if run.data not in data:
            data[run.data] = load_data(run.data, args)
        start = time.process_time()
        trial = Trial(run, data[run.data])
        row = run._asdict() | trial.train() | trial.evaluate()
        append(args.out, row | {"cpu_s": round(time.process_time() - start), "commit": args.commit})
        shown = ("arm", "method", "data", "seed", "width", "loss", "knn", "rank_x0", "masked_cosine")
        print(f"{number}/{len(todo)}", *(f"{k}={compact(row[k])}" for k in shown if k in row), flush=True)


if __name__ == "__main__":
    main()
