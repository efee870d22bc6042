"""`python -m mto report`: results.csv, one table, one figure, the report page, or the profile of heterogeneity.csv."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mto.config.reading import load
from mto.errors import UserError
from mto.files import json_object
from mto.names import Step
from mto.report import metrics
from mto.study import report_jobs as jobs
from mto.study.study import FIGURES, OURS, TABLES, Study


def main(argv: list[str] | None = None) -> None:
    """Runs one report command.

    Raises:
        UserError: a missing or invalid input, naming the file.
    """
    args = _parser().parse_args(argv)
    args.action(args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mto report", description=__doc__, fromfile_prefix_chars="@")
    commands = parser.add_subparsers(required=True)

    results = commands.add_parser("results", help="every metrics.json as one tidy table", fromfile_prefix_chars="@")
    results.add_argument("--out", type=Path, required=True, help="results.csv")
    results.add_argument("--from-dir", type=Path, help="take those of every finished step below results/<scale>")
    results.add_argument("--job", help="of --from-dir take the steps that it names: JSON, or a file of it")
    results.add_argument("metrics", type=Path, nargs="*", help="metrics.json files, or @FILE with one a line")
    results.set_defaults(action=_results)

    for kind, known in (("table", (*TABLES, *OURS)), ("figure", FIGURES)):
        command = commands.add_parser(kind, help=f"of whatever has finished; some of: {', '.join(known)}")
        command.add_argument("names", nargs="*", metavar="NAME", help=f"some of: {', '.join(known)} (default: all)")
        command.add_argument("--job", help="one report's job instead of names: JSON, or a file of it")
        command.add_argument("--config", default="config.yaml", help="where the jobs of names come from")
        command.add_argument("--scale", help="of config.yaml, if not the one that it names")
        command.add_argument("--results", type=Path, help="default: results/<scale>")
        command.add_argument("--out", type=Path, help=f"default: <results>/{kind}s")
        command.set_defaults(action=_reports_of_a_kind, kind=kind, known=known)

    page = commands.add_parser("page", help="the report: one HTML file of whatever is finished")
    page.add_argument("--results", type=Path, required=True, help="results/<scale>")
    page.add_argument("--out", type=Path, help="the page (default: report.html in that folder)")
    page.add_argument("--remake", action="store_true", help="first make results.csv and every table and figure anew")
    plan = page.add_mutually_exclusive_group()
    plan.add_argument("--config", default="config.yaml", help="where the plan is (default: config.yaml)")
    plan.add_argument("--job", help="the plan itself, as the workflow gives it: JSON")
    page.set_defaults(action=_page)

    pilot = commands.add_parser("pilot", help="what the first epochs say of each preset of MTO")
    pilot.add_argument("--job", required=True, help="of the pilot's table: JSON, or a file of it")
    pilot.add_argument("--results", type=Path, required=True, help="results/<scale>")
    pilot.set_defaults(action=_pilot)

    profile = commands.add_parser("profile", help="which affinity in Eq. 2 gives a heterogeneity that falls with depth")
    profile.add_argument(
        "--from", dest="folders", type=Path, nargs="+", required=True, help="folders with heterogeneity.csv"
    )
    profile.add_argument("--layers", action="store_true", help="H of every layer instead, in nats")
    profile.set_defaults(action=_profile)
    return parser


def _results(args: argparse.Namespace) -> None:
    job = json_object(args.job, "--job") if args.job else None
    paths = [*args.metrics, *(_below(args.from_dir, job) if args.from_dir else [])]
    if not paths:
        raise UserError(f"{args.from_dir or 'report results'}: no metrics.json given or found; run `snakemake` first")
    values = metrics.write_results(paths, args.out, (job or {}).get("mto"))
    print(f"{args.out}: {values} values of {len(paths)} steps", file=sys.stderr)


def _below(results: Path, wanted: dict[str, Any] | None) -> list[Path]:
    if wanted is None:
        return metrics.finished(results)
    return [
        results / Step(task, run, seed, epoch).folder / "metrics.json"
        for seed in wanted["seeds"]
        for task, run, epoch in wanted["steps"]
    ]


def _reports_of_a_kind(args: argparse.Namespace) -> None:
    for report, out in _reports(args):
        _make(report, out)


def _make(report: metrics.Report, out: Path) -> None:
    """Writes one table or figure into a folder."""
    if report.name in FIGURES:
        from mto.report.figures import style

        module = importlib.import_module(f"mto.report.figures.{report.name}")
        style.save(module.draw(report), out, report.name)
        if hasattr(module, "values"):
            metrics.write_csv(out / f"{report.name}.csv", module.COLUMNS, module.values(report))
    else:
        from mto.report import tables

        tables.TABLES[report.name](report).write(out)


def _page(args: argparse.Namespace) -> None:
    from mto.report import page
    from mto.report.page import render

    if not args.results.is_dir():
        raise UserError(f"--results {args.results}: no such folder; run `snakemake` first")
    out = args.out or args.results / "report.html"
    if args.job:
        if args.remake:
            raise UserError("--remake takes the plan from --config, not from --job")
        print(f"{out}: {render.write(json_object(args.job, '--job'), args.results, out)}", file=sys.stderr)
        return
    study = _study(args.config, args.results)
    problems = _remake(study, args.results) if args.remake else {}
    print(f"{out}: {render.write(page.job(study), args.results, out, problems)}", file=sys.stderr)


def _study(file: str, results: Path) -> Study:
    """Returns the plan at the scale that the folder is named after, with the config's seeds and those found in it."""
    study = Study(load(file, scale=results.name))
    found = {int(folder.name[4:]) for folder in results.glob("*/*/seed*") if folder.name[4:].isdigit()}
    seeds = sorted(found | set(study.config.seeds))
    return Study(study.config.model_copy(update={"seeds": seeds}))


def _remake(study: Study, results: Path) -> dict[str, str]:
    """Makes results.csv and every table and figure as far as their cells are there; returns why others failed."""
    problems = {}
    if finished := metrics.finished(results):
        metrics.write_results(finished, results / "results.csv", study.config.mto.default)
    for name in (*study.tables, *study.figures):
        report = metrics.Report(jobs.report_job(study, name), results)
        try:
            _make(report, results / ("figures" if name in FIGURES else "tables"))
        except UserError as error:
            problems[name] = str(error)
    return problems


def _pilot(args: argparse.Namespace) -> None:
    from mto.report import pilot

    sheet = pilot.sheet(json_object(args.job, "--job"), args.results)
    sheet.write(args.results / "pilot")
    print(sheet.markdown())


def _profile(args: argparse.Namespace) -> None:
    from mto.report import profiles

    show = profiles.layers if args.layers else profiles.describe
    print(show([path.parent if path.is_file() else path for path in args.folders]))


def _require_known(args: argparse.Namespace, name: object) -> None:
    if name not in args.known:
        raise UserError(f"no such {args.kind}: {name!r}; its name must be one of {', '.join(args.known)}")


def _reports(args: argparse.Namespace) -> Iterator[tuple[metrics.Report, Path]]:
    """Yields each report that is asked for, by its job or by names, and the folder that it is written to."""
    if args.job is not None:
        chosen = [json_object(args.job, "--job")]
    else:
        study = Study(load(args.config, **({"scale": args.scale} if args.scale else {})))
        names = args.names or (study.tables if args.kind == "table" else study.figures)
        for name in names:
            _require_known(args, name)
        chosen = [jobs.report_job(study, name) for name in names]
    for job in chosen:
        _require_known(args, job.get("name"))
        results = args.results or Path("results", job["scale"])
        report = metrics.Report(job, results)
        out = args.out or results / f"{args.kind}s"
        yield report, out
        print(out / report.name, *report.missing_notes, *report.commit_notes, sep="  ", file=sys.stderr)
