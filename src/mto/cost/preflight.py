"""``python -m mto preflight``: what this machine has, and how fast it trains; `snakemake preflight` runs it.

python -m mto preflight --job JSON --out FILE [--gpus N] [--workers N] [--micro-batch N]     measure one stage
python -m mto preflight --emulate [--card-gb N] [--compute-capability X.Y]    without a GPU: does every stage start and
                                                                              fit such a card (no speed, no data)
python -m mto preflight --show                                 datasets, disk and all that was measured, as a table
"""

from __future__ import annotations

import argparse
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

from mto.config.job import LoggedJob, PreflightJob, parse
from mto.config.prices import Plan
from mto.cost import fits
from mto.cost.measured import is_card
from mto.emulate import cli as emulated
from mto.emulate.card import Card
from mto.errors import UserError
from mto.files import json_object, read_json, write_json
from mto.names import MEMORIES, TRAINED, Run
from mto.study.jobs import classes_of, convert_of
from mto.study.study import Study

#: Stages whose step can be taken without values: how many regions Mask R-CNN has depends on them.
EMULATED = tuple(stage for stage in TRAINED if stage != "coco")

COLUMNS = {
    "run": "run",
    "task": "stage",
    "micro_batch": "micro-batch",
    "images_per_second": "images/s a GPU",
    "mto_ratio": "time with MTO",
    "waiting_share": "waiting for data",
    "memory_mib": "MiB",
    "compiled": "compiled",
    "fits": "largest that fits",
    "fits_images_per_second": "images/s with it",
    "peak_share": "of peak",
}


def jobs(study: Study, stage: str) -> list[LoggedJob]:
    """Returns a stage's own jobs that are measured, of each baseline and backbone.

    Pre-training without MTO and with the default's; decoder depths and subsets of terms are reckoned from these.
    """
    chosen: dict[str, LoggedJob] = {}
    for step in study.select(stage):
        run = Run.parse(step.run)
        if run.decoder_depth is None and run.preset is None and len(run.terms) in (0, 3):
            kind = run.name if stage == "pretrain" else f"{run.baseline}-{run.backbone}"
            chosen.setdefault(kind, cast(LoggedJob, study.job(step)))
    return list(chosen.values())


def job(study: Study, stage: str) -> PreflightJob:
    """Returns what the measuring of a stage is made from: the `jobs`, and the images."""
    source = study.config.datasets.imagenet
    side = [source.make.size] * 2 if source.make else [500, 375]  # ImageNet's usual one
    images = {"root": source.root, "num_classes": source.num_classes, **classes_of(source), **convert_of(source)}
    measured = [job.plain() for job in jobs(study, stage)]
    which = {"task": "preflight", "scale": study.config.scale, "stage": stage}
    return parse(PreflightJob, {**which, "jobs": measured, "images": images | {"side": side}})


def main(argv: list[str] | None = None) -> None:
    """Measures one stage, emulates all stages, or shows what was measured.

    Raises:
        UserError: no GPU where the stage's jobs have some; a key of the config that is wrong.
    """
    parser = argparse.ArgumentParser(
        prog="python -m mto preflight", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--job", help="of a stage: JSON, or a file of it")
    what.add_argument("--emulate", action="store_true", help="steps of all stages on a GPU that is not there")
    what.add_argument("--show", action="store_true", help="what is there, and what was measured")
    parser.add_argument("--out", type=Path, help="with --job: the JSON to write")
    parser.add_argument("--gpus", type=int, default=0, help="of a job of the stage; 0: the CPU (default)")
    parser.add_argument("--workers", type=int, default=0, help="of a GPU (default 0)")
    parser.add_argument("--micro-batch", type=int, default=0, help="0: the whole batch at once (default)")
    parser.add_argument("--deterministic", choices=("strict", "warn", "off"), default="strict", help="as of a job")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--memory", choices=MEMORIES, default="fast", help="as of a job")
    parser.add_argument("--config", default="{}", metavar="JSON", help="with --show, --emulate: laid over config.yaml")
    parser.add_argument("--stage", nargs="+", default=[], choices=EMULATED, help="with --emulate: these alone")
    emulated.add_options(parser)
    args = parser.parse_args(argv)
    if args.emulate:
        if Card.asked() is None:
            emulated.again(["preflight", *(sys.argv[2:] if argv is None else argv)], emulated.asked(args))
        emulate(args)
        return
    if args.show:
        show(args.config)
        return
    if args.out is None:
        raise UserError("preflight --job needs --out FILE")
    from mto.runtime.devices import lease

    lease(args.gpus)  # before CUDA starts
    from mto.bench.trials import Asked, measure

    asked = Asked(args.gpus, args.workers, args.micro_batch or None, args.compile, args.deterministic, args.memory)
    write_json(args.out, measure(parse(PreflightJob, json_object(args.job, "--job")), asked))


def emulate(args: argparse.Namespace) -> None:
    """Prints whether each stage starts on the emulated card and what fits it; writes preflight-emulated.{json,md}.

    Each row is printed and written when it is there. Called again, it goes on with the rows that are missing.
    """
    from mto.bench.fitting import fit
    from mto.config.reading import load

    study = Study(load("config.yaml", json_object(args.config, "--config")))
    asked = {
        stage: (study.resources(stage), jobs(study, stage))
        for stage in args.stage or EMULATED
        if study.resources(stage).gpu and study.select(stage)
    }
    folder = Path(study.results)
    found: dict[str, Any] = {"gigabytes": args.card_gb, "compute_capability": args.compute_capability}
    found["torch"] = version("torch")
    before = read_json(folder / fits.NAME) or {}
    alike = all(before.get(name) == value for name, value in found.items())
    known = before["rows"] if alike else []
    found["left_out"] = [stage for stage in TRAINED if stage not in EMULATED and study.select(stage)]
    found["rows"] = [row for row in known if row["stage"] not in asked]
    print(f"# Scale {study.config.scale} on {fits.card(found)}\n\n{fits.HEAD}", flush=True)
    for row in fit(asked, known):
        found["rows"] = sorted([*found["rows"], row], key=lambda row: EMULATED.index(row["stage"]))
        print(fits.line(row), flush=True)
        _write_emulated(folder, study.config.scale, found)
    print("\n".join([*fits.left_out(found), "", *fits.remedies(found)]))


def _write_emulated(folder: Path, scale: str, found: dict[str, Any]) -> None:
    write_json(folder / fits.NAME, found)
    text = "\n".join([f"# Scale {scale} on {fits.card(found)}", "", *fits.table(found)]) + "\n"
    (folder / fits.NAME).with_suffix(".md").write_text(text, encoding="utf-8")


def show(given: str) -> None:
    """Prints datasets, disk, GPUs, all measurements and the plan; writes preflight.md, plan.md and plan.csv."""
    from mto.config.reading import load
    from mto.cost import cli

    study = Study(load("config.yaml", json_object(given, "--config")))
    folder = Path(study.results)
    folder.mkdir(parents=True, exist_ok=True)
    asked, card = study.config.plan, _card(study.config.plan, folder)
    plan = cli.plan(Study(study.config.model_copy(update={"plan": asked.model_copy(update={"card": card})})))
    lines = [f"# Preflight of scale {study.config.scale}", "", *_machines(folder), "", *_table(folder), ""]
    lines += [f"- {line}" for line in (*_datasets(study), *_disk(study, plan.costs))]
    if card != asked.card:
        lines.append(
            f"- the plan below is that of {card}, which was measured; `plan.card` in config.yaml is {asked.card}, and "
            f"`snakemake plan` reckons with that until it says {card}"
        )
    text = "\n".join(lines) + "\n"
    print(text)
    (folder / "preflight.md").write_text(text, encoding="utf-8")
    plan.show(folder)


def _found(folder: Path) -> list[dict[str, Any]]:
    return [read_json(path) for path in sorted((folder / "preflight").glob("*.json"))]


def _card(plan: Plan, folder: Path) -> str:
    """Returns the measured card, if it is known: `plan.card` if that was measured, else the first of `plan.cards`."""
    machines = [found["machine"] for found in _found(folder)]
    there = [card for card in plan.cards if any(is_card(card, m["device"], m["gpus"]) for m in machines)]
    return plan.card if plan.card in there or not there else there[0]


def _machines(folder: Path) -> list[str]:
    said = []
    for found in _found(folder):
        m = found["machine"]
        gpus = f"{m['visible_gpus']} visible, {m['gpus']} a job" if m["gpus"] else "no GPU"
        said.append(
            f"- {found['stage']}: {m['device']} ({gpus}), {m['peak_tflops']:.3g} TFLOP/s, images: {found['images']}"
        )
    return said


def _table(folder: Path) -> list[str]:
    from mto.bench.rows import table

    rows = [row for found in _found(folder) for row in found["rows"]]
    measured = [row for row in rows if "error" not in row]
    lines = table(measured, COLUMNS).splitlines() if measured else []
    failed = [f"- {row['run']}, {row['task']}: {_failure(row)}" for row in rows if "error" in row]
    if failed:
        failed.append("- these are measured again with `--forcerun preflight_stage`, or when their settings change")
    return [*lines, "", *failed]


def _failure(row: dict[str, Any]) -> str:
    """Returns what went wrong, and the option or micro-batch with which it would not, if one was found."""
    said = [row["error"]]
    if spared := row.get("spared"):
        said.append(f"it fits with memory: {spared['memory']}, {spared['images_per_second']:,.0f} images/s")
    if "fits" in row:
        said.append(f"{row['fits']} fits, {row['fits_images_per_second']:,.0f} images/s")
    return "; ".join(said)


def _datasets(study: Study) -> list[str]:
    """Returns a line for each dataset that the study reads: where it is, or what is wrong with it."""
    from mto.data.forms.recognise import place_of
    from mto.data.layout import check

    said = []
    for name in study.datasets:
        source = getattr(study.config.datasets, name)
        try:
            if source.make is None:
                place = place_of(source.root, getattr(source, "convert", None))
                check(name, place, classes=getattr(source, "classes", None), num_classes=source.num_classes)
            said.append(f"{name}: {'made by the workflow' if source.make else f'complete at {source.root}'}")
        except UserError as error:
            said.append(f"{name}: {error}")
    return said


def _disk(study: Study, costs: Any) -> list[str]:
    from mto.cost.amounts import cache_bytes, copy_bytes
    from mto.cost.parts import running

    free = shutil.disk_usage(study.results).free / 1e9
    kept = sum(cost.disk_bytes for cost in costs.values() if cost.left)
    wanted = (kept + running([cost for cost in costs.values() if cost.left], study.config.plan.gpus)) / 1e9
    said = f"disk: {wanted:,.1f} GB wanted for what is left, {free:,.1f} GB free below {study.results}"
    lines = [said if wanted < free else f"{said}: TOO LITTLE; put results/ on a larger disk"]
    if copied := copy_bytes(study.config):
        lines.append(f"datasets.imagenet.convert: some {copied / 1e9:,.0f} GB more, until it is made")
    if cached := cache_bytes(study.config):
        lines.append(f"datasets.imagenet.cache: some {cached / 1e9:,.0f} GB more, until it is made")
    return lines
