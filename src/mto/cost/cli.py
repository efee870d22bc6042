"""``python -m mto plan``: what the study costs and what is left of it; nothing is trained.

python -m mto plan                                                 the scale that config.yaml names
python -m mto plan --config '{"scale": "paper", "plan": {"card": "h100"}}'
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from mto.bench.work import Work
from mto.config.job import Job
from mto.config.models import Config
from mto.config.reading import load
from mto.cost import fits, table
from mto.cost.amounts import copy_bytes, counted, size_of
from mto.cost.estimate import Cost, estimate, once
from mto.cost.measured import Measured
from mto.cost.parts import Part, parts, row
from mto.cost.pilot import pilot_costs
from mto.data.layout import EXPECTED
from mto.files import json_object
from mto.names import Step
from mto.study.study import Study


def main(argv: list[str] | None = None) -> None:
    """Prints the plan, and writes plan.csv and plan.md.

    Raises:
        UserError: a key of the config that is wrong.
    """
    parser = argparse.ArgumentParser(
        prog="python -m mto plan", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--file", default="config.yaml")
    parser.add_argument("--config", default="{}", metavar="JSON", help="laid over the file: a mapping")
    parser.add_argument("--out", type=Path, help="folder of plan.csv and plan.md (default: results/<scale>)")
    args = parser.parse_args(argv)
    study = Study(load(args.file, json_object(args.config, "--config")))
    plan(study).show(args.out or Path(study.results))


def plan(study: Study, count: Callable[[Job], Work] | None = None) -> Plan:
    """Builds the plan on `plan.card`, and the rows of the stages and the whole on each card of its kind (GPU or CPU).

    Args:
        count: counts a job's work; `mto.bench.counting.count` by default, with each work counted once.
    """
    if count is None:
        from mto.bench import counting

        count = once(counting.count)
    counted, price = count, study.config.plan.cards
    measured = Measured(study, study.config.plan.card)
    costs = estimate(study, measured, counted)
    rows = [row(part, costs, study.config.plan.gpus, price[measured.card].price_per_gpu_hour) for part in parts(study)]
    before = pilot_costs(study, measured, counted)
    whole = Part("pilot", "the pilot", frozenset(before), frozenset())
    pilot = row(whole, before, study.config.plan.gpus, price[measured.card].price_per_gpu_hour)
    others = {}
    for card in price:
        if (card == "cpu") == (measured.card == "cpu"):
            told = study.config.plan.model_copy(update={"card": card})
            there = Study(study.config.model_copy(update={"plan": told}))
            reckoned = estimate(there, Measured(there, card), counted)
            chosen = [part for part in parts(there) if part.kind in ("stage", "all")]
            others[card] = [row(part, reckoned, told.gpus, price[card].price_per_gpu_hour) for part in chosen]
    return Plan(study, costs, rows, pilot, others, measured.foreign)


class Plan(NamedTuple):
    study: Study
    costs: dict[Step, Cost]
    rows: list[dict[str, Any]]
    pilot: dict[str, Any]
    cards: dict[str, list[dict[str, Any]]]
    foreign: set[str]

    def text(self) -> str:
        """Returns plan.md."""
        config = self.study.config
        about = config.plan, config.scale, self.foreign, copy_bytes(config)
        shown = table.markdown(self.rows, self.pilot, self.cards, self.costs.values(), *about)
        shown += images_told(config)
        return shown + "".join(f"{line}\n" for line in fits.told(Path(self.study.results)))

    def show(self, out: Path) -> None:
        """Prints the plan, and writes plan.csv and plan.md."""
        from mto.report.metrics import write_csv

        shown = self.text()
        print(shown)
        write_csv(out / "plan.csv", self.rows[0], [{k: _rounded(v) for k, v in row.items()} for row in self.rows])
        (out / "plan.md").write_text(shown, encoding="utf-8")


def images_told(config: Config) -> str:
    """Returns a line on how many images the plan takes there to be; none where they are the paper's, or are made."""
    source = config.datasets.imagenet
    if source.make is not None or source.num_classes == EXPECTED["imagenet"]["train"]:
        return ""
    size, here = size_of(config, "pretrain"), counted(config)
    said = f"counted by {here.by}" if here else "as many a class as ImageNet-1K has, until they are counted"
    return f"{source.title}: {size.train:,} training and {size.val:,} validation images, {said}.\n"


def _rounded(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value
