"""`python -m mto config`: check the file, print where the recipes differ, write the JSON schema."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from mto.config.compare import differences
from mto.config.models import Config
from mto.config.reading import RECIPES, load, read, resolve, validate
from mto.study.study import Study

SCHEMA = Path(__file__).parents[1] / "config.schema.json"


def schema() -> dict[str, Any]:
    """The JSON schema of the file itself: `Config`, plus the override blocks, in which no key is required."""
    whole = Config.model_json_schema()
    partial = json.loads(json.dumps(whole["$defs"]).replace("#/$defs/", "#/$defs/Partial"))
    for definition in partial.values():
        definition.pop("required", None)
    whole["$defs"] |= {f"Partial{name}": definition for name, definition in partial.items()}
    body = json.loads(json.dumps(whole["properties"]).replace("#/$defs/", "#/$defs/Partial"))
    names = ("Simmim", "Mae", "Bootmae", "Conmim")
    baseline = {"anyOf": [{"$ref": f"#/$defs/Partial{name}"} for name in names]}
    whole["properties"]["official"] = {"type": "object", "additionalProperties": baseline}
    scale = {"type": "object", "additionalProperties": False, "properties": {**body, "each_baseline": baseline}}
    whole["properties"]["scales"] = {"type": "object", "additionalProperties": scale}
    return whole


def main(argv: list[str] | None = None) -> None:
    """`python -m mto config check|diff|schema`."""
    parser = argparse.ArgumentParser(prog="python -m mto config", description=main.__doc__)
    parser.add_argument("action", choices=["check", "diff", "schema"])
    parser.add_argument("--file", default="config.yaml")
    args = parser.parse_args(argv)
    if args.action == "schema":
        SCHEMA.write_text(json.dumps(schema(), indent=1, sort_keys=True) + "\n")
        return
    source = read(args.file)
    load(source)
    for recipe in RECIPES:
        for scale in source.raw["scales"]:
            Study(validate(resolve(source, scale=scale, recipe=recipe)))  # the plan refuses what no single key shows
    if args.action == "diff":
        print("| key | paper | official |\n|---|---|---|")
        for row in differences(source):
            print("| {} | {} | {} |".format(*row))
    else:
        print(f"{args.file}: good, at every scale and recipe", file=sys.stderr)
