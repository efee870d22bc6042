"""`python -m mto report`: results.csv, one table, one figure, or the profile of heterogeneity.csv files."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any

from mto.errors import UserError
from mto.report import metrics
from mto.study import FIGURES, TABLES


def main(argv: list[str] | None = None) -> None:
    """Run one report command.

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
    results.add_argument("--from-dir", type=Path, help="take every metrics.json below this folder")
    results.add_argument("metrics", type=Path, nargs="*", help="metrics.json files, or @FILE with one a line")
    results.set_defaults(action=_results)

    for kind, known in (("table", TABLES), ("figure", FIGURES)):
        command = commands.add_parser(kind, help=f"one of: {', '.join(known)}")
        command.add_argument("--job", required=True, help="the report's job: JSON, or a file of it")
        command.add_argument("--results", type=Path, required=True, help="results/<scale>")
        command.add_argument("--out", type=Path, required=True, help=f"the folder of the {kind}s")
        command.set_defaults(action=_table if kind == "table" else _figure)

    profile = commands.add_parser("profile", help="which reading of Eq. 2 gives a heterogeneity that falls with depth")
    profile.add_argument(
        "--from", dest="folders", type=Path, nargs="+", required=True, help="folders with heterogeneity.csv"
    )
    profile.set_defaults(action=_profile)
    return parser


def _results(args: argparse.Namespace) -> None:
    found = sorted(args.from_dir.glob("*/*/seed*/epoch*/metrics.json")) if args.from_dir else []
    paths = [*args.metrics, *found]
    if not paths:
        raise UserError(f"{args.from_dir or 'report results'}: no metrics.json given or found; run `snakemake` first")
    print(f"{args.out}: {metrics.write_results(paths, args.out)} values of {len(paths)} steps", file=sys.stderr)


def _table(args: argparse.Namespace) -> None:
    from mto.report import tables

    report = _report(args, tuple(tables.TABLES))
    tables.TABLES[report.name](report).write(args.out)


def _figure(args: argparse.Namespace) -> None:
    from mto.report.figures import style

    report = _report(args, FIGURES)
    module = importlib.import_module(f"mto.report.figures.{report.name}")
    style.save(module.draw(report), args.out, report.name)


def _profile(args: argparse.Namespace) -> None:
    from mto.report import profiles

    print(profiles.describe([path.parent if path.is_file() else path for path in args.folders]))


def _report(args: argparse.Namespace, known: tuple[str, ...]) -> metrics.Report:
    try:
        text = args.job if args.job.lstrip().startswith("{") else Path(args.job).read_text()
        job: dict[str, Any] = json.loads(text)
    except FileNotFoundError:
        raise UserError(f"--job {args.job}: no such file") from None
    except ValueError as error:
        raise UserError(f"--job: not JSON ({error})") from None
    if job.get("name") not in known:
        raise UserError(f"--job: name must be one of {', '.join(known)}, not {job.get('name')!r}")
    return metrics.Report(job, args.results)
