"""Writes the plan's tables into docs/cost.md and docs/small-study.md, between their markers; trains nothing.

python tools/plan_tables.py            some three minutes of one core, in which networks are counted
python tools/plan_tables.py --check    writes nothing, and fails where a page says something else
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Callable, Iterable
from contextlib import chdir
from pathlib import Path
from typing import Any

from mto.config.job import Job
from mto.config.reading import load, read
from mto.cost import cli
from mto.cost.estimate import estimate, once
from mto.cost.measured import Measured
from mto.names import Run, Step
from mto.study.study import Study

ROOT = Path(__file__).parents[1]
MARKED = re.compile(r"(<!-- plan_tables: (\w+) -->\n).*?(\n<!-- end -->)", re.DOTALL)
Count = Callable[[Job], Any]

#: The parts of the small scale's table, each job in the first that takes it; those above `MAIN` are summed up.
PARTS: dict[str, Callable[[Step, Run], bool]] = {
    "Table 3, which of the three losses": lambda step, run: len(run.terms) not in (0, 3),
    "supplementary Figure 2, the decoder's depth": lambda step, run: run.decoder_depth is not None,
    "the table of presets, `text` beside the default": lambda step, run: run.preset is not None,
    "supplementary Table 1, ADE20K": lambda step, run: step.task == "ade20k",
    "supplementary Table 2, COCO": lambda step, run: step.task == "coco",
    "five analyses of the heterogeneity": lambda step, run: step.task == "heterogeneity",
    "pre-training, four methods without and with MTO": lambda step, run: step.task == "pretrain",
    "fine-tuning: Table 1, Figure 4, supplementary Figure 1": lambda step, run: step.task == "finetune",
    "probes: Table 2": lambda step, run: step.task == "linear",
}
MAIN = list(PARTS)[-3:]
#: A rate that nothing waits for.
UNBOUNDED = 9e5


def study(scale: str, **keys: Any) -> Study:
    return Study(load(read(ROOT / "config.yaml", {"scale": scale, **keys})))


def paper(count: Count) -> str:
    """What `python -m mto plan` prints at the paper scale, below its heading."""
    return cli.plan(study("paper"), count).text().partition("\n\n")[2].strip()


def small(count: Count) -> str:
    """Hours of each card alone, and of the cores that read."""
    rates = study("small").config.plan.images_per_core
    idle = {
        "startup_minutes": 0,
        "decoded_per_core": 1.1 * UNBOUNDED,
        "images_per_core": dict.fromkeys(rates, UNBOUNDED),
    }
    columns = {name: idle | {"card": name.lower().replace(" ", "")} for name in ("RTX 3090", "A100", "H100")}
    fast = {"tflops": UNBOUNDED, "utilisation": 1.0, "price_per_gpu_hour": 0.0}
    columns["reading"] = {"startup_minutes": 0, "card": "fast", "cards": {"fast": fast}}
    hours: dict[str, dict[str, float]] = {}
    jobs: dict[str, int] = {}
    for column, keys in columns.items():
        planned = study("small", plan=keys)
        found = estimate(planned, Measured(planned, planned.config.plan.card), count)
        for part, steps in by_part(found).items():
            jobs[part] = len(steps)
            hours.setdefault(part, {})[column] = sum(found[step].gpu_hours for step in steps)

    def line(name: str, chosen: list[str], mark: str = "") -> str:
        cells = [str(sum(jobs[part] for part in chosen))]
        sums = (sum(hours[part][column] for part in chosen) for column in columns)
        cells += [f"{value:.0f}" if mark else f"{value:.1f}" for value in sums]
        return "| " + " | ".join(f"{mark}{cell}{mark}" for cell in (name, *cells)) + " |"

    others = [part for part in PARTS if part not in MAIN]
    return "\n".join(
        [
            f"| part | jobs | {' | '.join(columns)} |",
            f"|---|{'--:|' * (1 + len(columns))}",
            *(line(part, [part]) for part in MAIN),
            line("the main tables", MAIN, "**"),
            *(line(part, [part]) for part in others),
            line("all", list(PARTS), "**"),
        ]
    )


def by_part(steps: Iterable[Step]) -> dict[str, list[Step]]:
    found: dict[str, list[Step]] = {part: [] for part in PARTS}
    for step in steps:
        part = next(part for part, takes in PARTS.items() if takes(step, Run.parse(step.run)))
        found[part].append(step)
    return found


TABLES = {"paper": ("docs/cost.md", paper), "small": ("docs/small-study.md", small)}


def pages(count: Count) -> dict[Path, str]:
    """Each page's text with tables of today."""
    found = {}
    with tempfile.TemporaryDirectory() as empty, chdir(empty):  # what this clone has finished or measured is none of it
        for name, (page, table) in TABLES.items():
            text, made = (ROOT / page).read_text(encoding="utf-8"), table(count)
            assert [match[2] for match in MARKED.finditer(text)] == [name], page
            found[ROOT / page] = MARKED.sub(lambda match, made=made: match[1] + made + match[3], text)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="fail where a page says something else")
    check = parser.parse_args().check
    from mto.bench.counting import count

    stale = {page: text for page, text in pages(once(count)).items() if page.read_text(encoding="utf-8") != text}
    for page, text in stale.items():
        print(page.relative_to(ROOT), "has other tables" if check else "written")
        if not check:
            page.write_text(text, encoding="utf-8")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
