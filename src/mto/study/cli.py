"""`python -m mto config`: check the settings, show one and who set it, compare the recipes, write the JSON schema."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from mto.config import layers, show
from mto.config.compare import differences
from mto.config.layers import RECIPES, SCALES
from mto.config.models import Config
from mto.config.reading import Resolved, Source, load, read, resolve, validate
from mto.errors import UserError
from mto.files import json_object
from mto.losses import switches
from mto.study.study import Study
from mto.study.unused import unused

SCHEMA = Path(__file__).parents[1] / "config.schema.json"
SWITCHES_PAGE = Path(__file__).parents[3] / "docs" / "switches.md"


def schema() -> dict[str, Any]:
    """Returns the JSON schema of config.yaml: `Config` without a required key, and the blocks that are laid over it."""
    whole = Config.model_json_schema()
    for model in (whole, *whole["$defs"].values()):
        model.pop("required", None)
    preset = whole["$defs"]["Preset"]["properties"]
    preset["base"] = {"type": "string", "description": "the preset that has the switches which this one does not name"}
    for model in whole["$defs"].values():
        if "epochs" in model["properties"] and model["properties"]["epochs"].get("type") == "array":
            model["properties"]["epochs"] = {"anyOf": [model["properties"]["epochs"], {"const": layers.MEASURED}]}
    body = json.loads(json.dumps(whole["properties"]))
    baselines = whole["$defs"]["Baselines"]["properties"].values()
    each = {"anyOf": [{"$ref": baseline["$ref"]} for baseline in baselines]}
    scale = {"type": "object", "additionalProperties": False, "properties": {**body, "each_baseline": each}}
    whole["properties"]["each_baseline"] = each
    whole["properties"]["scales"] = {"type": "object", "additionalProperties": scale}
    return whole


def main(argv: list[str] | None = None) -> None:
    """Runs one `config` command.

    Raises:
        UserError: a setting that is wrong, or a key that is not there.
    """
    args = _parser().parse_args(argv)
    args.action(args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mto config", description=__doc__)
    commands = parser.add_subparsers(required=True)
    check = commands.add_parser("check", help="is the file good at its scale, and are the package's own settings?")
    check.set_defaults(action=_check)
    told = commands.add_parser("show", help="a setting, the file and line that it comes from, and what it overrides")
    told.add_argument("keys", nargs="*", metavar="KEY", help="such as baselines.mae.pretrain.lr")
    told.add_argument("--run", help="all settings of a run, such as mae-vitb-mto")
    told.set_defaults(action=_show)
    for command in (check, told):
        command.add_argument("--file", default="config.yaml")
        command.add_argument("--scale", help="instead of the file's")
        command.add_argument("--recipe", help="instead of the file's")
        command.add_argument("--config", default="{}", metavar="JSON", help="laid over the file")
    diff = commands.add_parser("diff", help="where the two recipes, the paper's and the repositories', differ")
    diff.set_defaults(action=_diff)
    write = commands.add_parser(
        "schema", help="write src/mto/config.schema.json, which editors read, and docs/switches.md"
    )
    write.set_defaults(action=_schema)
    return parser


def _resolved(args: argparse.Namespace) -> tuple[Config, Resolved]:
    source = read(args.file, json_object(args.config, "--config"))
    config = load(source, scale=args.scale, recipe=args.recipe)
    return config, resolve(source, scale=args.scale, recipe=args.recipe)


def _check(args: argparse.Namespace) -> None:
    config, resolved = _resolved(args)
    study = Study(config)  # the plan refuses what no single key shows
    for scale in SCALES:
        for recipe in RECIPES:
            Study(validate(resolve(Source(), scale=scale, recipe=recipe)))
    for line in unused(study, resolved):
        print(line, file=sys.stderr)
    print(f"{args.file}: good, at scale {config.scale} and recipe {config.recipe}", file=sys.stderr)


def _show(args: argparse.Namespace) -> None:
    config, resolved = _resolved(args)
    if not args.keys and not args.run:
        raise UserError("config show: name a key, such as baselines.mae.pretrain.lr, or --run mae-vitb")
    for name in args.keys:
        print(*show.key(resolved, config, name), sep="\n")
    if args.run:
        print(*show.run(resolved, config, args.run), sep="\n")


def _diff(args: argparse.Namespace) -> None:
    print("| key | paper | official |\n|---|---|---|")
    for row in differences():
        print("| {} | {} | {} |".format(*row))


def _schema(args: argparse.Namespace) -> None:
    SCHEMA.write_text(json.dumps(schema(), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    if SWITCHES_PAGE.parent.is_dir():  # an installed package has no documentation
        SWITCHES_PAGE.write_text(switches.table(), encoding="utf-8")
