"""``python -m mto bench``: what training costs here, per method and stage, as a table and as JSON.

python -m mto bench                                          the four methods, without and with MTO
python -m mto bench --all --json bench.json                  every stage; the step, the data and both
python -m mto bench --baseline mae --stage finetune --what step data both --workers 8
python -m mto bench --memory                                 memory, traffic and launches of a step, on any machine

A step is what training makes of one micro-batch: the copy to the device, teacher, forward and backward pass, the
gradient's norm, the optimiser's update. Steps of one baseline take turns and a time is the median of the rounds.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mto.bench.cases import STAGES
from mto.emulate import cli as emulated
from mto.emulate.card import Card
from mto.errors import UserError
from mto.names import BASELINES, MEMORIES

COLUMNS = {
    "baseline": "baseline",
    "stage": "stage",
    "images": "micro-batch",
    "step_images_per_second": "images/s",
    "mto_ratio": "with MTO",
    "tflops_per_second": "TFLOP/s",
    "peak_share": "of peak",
    "memory_mib": "MiB",
    "compiled": "compiled",
    "operators": "operators",
    "data_images_per_second": "data images/s",
    "both_images_per_second": "both images/s",
    "waiting_share": "waiting",
    "error": "not measured",
}
#: of --memory
COUNTED = {
    "baseline": "baseline",
    "stage": "stage",
    "variant": "MTO",
    "memory": "memory",
    "images": "micro-batch",
    "peak_mib": "peak MiB",
    "peak_ratio": "peak, to none",
    "peak_to_fast": "peak, to fast",
    "peak_to_official": "peak, to official",
    "comparing_mib": "comparing gradients",
    "comparing_ratio": "comparing, to its step",
    "stays_mib": "stays MiB",
    "kept_mib": "kept, MiB an image",
    "kept_ratio": "kept, to none",
    "kept_to_fast": "kept, to fast",
    "traffic_gb": "traffic, GB",
    "traffic_ratio": "traffic, to none",
    "traffic_to_fast": "traffic, to fast",
    "traffic_to_official": "traffic, to official",
    "launches": "launches",
    "launches_ratio": "launches, to none",
    "launches_to_fast": "launches, to fast",
    "launches_to_official": "launches, to official",
    "waits": "waits",
    "compiled": "compiled",
    "error": "not measured",
}


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mto bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--file", default="config.yaml")
    parser.add_argument("--scale", default="paper", help="of config.yaml (default paper: the true shapes)")
    parser.add_argument("--config", nargs="+", default=[], metavar="KEY=VALUE", help="as Snakemake's")
    parser.add_argument("--baseline", nargs="+", choices=BASELINES, default=list(BASELINES))
    parser.add_argument("--stage", nargs="+", choices=STAGES, default=["pretrain", "pretrain-mto"])
    parser.add_argument("--what", nargs="+", choices=["step", "data", "both"], default=["step"])
    parser.add_argument("--all", action="store_true", help="every stage of the study; the step, the data and both")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: a GPU if there is one")
    parser.add_argument("--images", type=int, help="micro-batch; default: the stage's in config.yaml, or 2 on a CPU")
    parser.add_argument("--depth", type=int, help="encoder blocks; default: all, or 4 on a CPU")
    parser.add_argument("--steps", type=int, help="timed steps; default 20, or 3 on a CPU")
    parser.add_argument("--workers", type=int, help="of the loader; default: the stage's in config.yaml, or 0 on a CPU")
    parser.add_argument("--precision", choices=["fp32", "bf16"], help="default: the job's, or fp32 on a CPU")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="default: on a GPU")
    parser.add_argument(
        "--memory",
        nargs="*",
        choices=MEMORIES,
        help="count what a step needs, on an emulated GPU: peak, traffic, launches; for these options (default: all)",
    )
    parser.add_argument("--preset", nargs="+", help="with --memory: presets of MTO (default: text and mto.default)")
    parser.add_argument("--modules", action="store_true", help="with --memory: where the bytes kept for backward lie")
    emulated.add_options(parser)
    parser.add_argument("--json", type=Path, help="write all numbers to this file too")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Measures the steps, and prints them as a table.

    Raises:
        UserError: no GPU where one is asked for, or a key of the config that is wrong.
    """
    args = parser().parse_args(argv)
    if args.memory is not None:
        if Card.asked() is None:
            emulated.again(["bench", *(sys.argv[2:] if argv is None else argv)], emulated.asked(args))
        _memory(args)
        return
    from mto.bench.rows import table
    from mto.bench.run import Bench, measure

    study = _study(args)
    if args.all:
        studied = {"pretrain", *(step.task for step in study.steps())}
        args.stage = [stage for stage, (task, _) in STAGES.items() if task in studied]
        args.what = ["step", "data", "both"]
    bench = Bench.choose(args.device, args.steps, args.precision, args.compile)
    described = bench.machine()
    print(f"{described['device']}, torch {described['torch']}, peak {described['peak_tflops']:.2f} TFLOP/s", flush=True)
    rows: list[dict[str, Any]] = []
    with _images(args, bench.on_gpu) as folder:
        for baseline in args.baseline:
            rows += measure(args, bench, study, baseline, described["peak_tflops"], folder, _say)
    print(table(rows, COLUMNS))
    if args.json:
        args.json.write_text(json.dumps({"machine": described, "rows": rows}, indent=1) + "\n", encoding="utf-8")


def _memory(args: argparse.Namespace) -> None:
    from mto.bench import memory
    from mto.bench.rows import table
    from mto.bench.run import Bench
    from mto.tasks.provenance import device_name
    from mto.training.hardware import Hardware

    study = _study(args)
    presets = study.config.mto.presets
    args.memory = args.memory or list(MEMORIES)
    args.preset = args.preset or list(dict.fromkeys(["text", study.config.mto.default]))
    if unknown := set(args.preset) - presets.keys():
        raise UserError(
            f"--preset: no such preset: {', '.join(sorted(unknown))} (mto.presets has: {', '.join(presets)})"
        )
    bench = Bench.choose("cuda", 1, args.precision, bool(args.compile))
    print(f"{device_name(Hardware(gpus=1))}, {'compiled' if args.compile else 'eager'} steps", flush=True)
    rows = memory.measure(args, bench, study, _say)
    print(table(rows, COUNTED))
    for row in rows:
        if "modules" in row:
            print(f"\n{row['baseline']}, {row['stage']} {row['variant']}:\n")
            print(table(row["modules"], {"kept": "kept for backward", "mib": "MiB", "number": "tensors"}))
    if args.json:
        args.json.write_text(json.dumps({"rows": rows, "official": memory.OFFICIAL}, indent=1) + "\n", encoding="utf-8")


@contextmanager
def _images(args: argparse.Namespace, many: bool) -> Iterator[Any]:
    """Yields a folder of made-up photographs, made once for all rows; None where no loader is measured."""
    if not {"data", "both"} & set(args.what):
        yield None
        return
    from mto.bench import loading

    with loading.photographs(512 if many else 64) as root:
        yield loading.of_one_class(root)


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _study(args: argparse.Namespace) -> Any:
    import yaml

    from mto.config.reading import load
    from mto.study.study import Study

    given = {}
    for pair in args.config:
        key, separator, value = pair.partition("=")
        if not separator:
            raise UserError(f"--config {pair}: expected KEY=VALUE")
        given[key] = yaml.safe_load(value)
    return Study(load(args.file, given, scale=args.scale))
