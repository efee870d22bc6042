"""Where the two recipes, the paper's tables and the official repositories', differ."""

from __future__ import annotations

from typing import Any

from mto.config.layers import RECIPES
from mto.config.models import Config
from mto.config.reading import Source, resolve, validate


def differences() -> list[tuple[str, Any, Any]]:
    """Returns (run and key, paper, official) wherever a run's two recipes differ, as the package has them."""
    paper, official = (_runs(validate(resolve(Source(), scale="paper", recipe=recipe))) for recipe in RECIPES)
    return [(key, paper[key], official[key]) for key in paper if paper[key] != official[key]]


def _runs(config: Config) -> dict[str, Any]:
    """Returns every value of every baseline's recipe, a backbone at a time."""
    recipes = {
        f"{name}-{backbone}": config.of(name, backbone).model_dump(exclude={"backbones"})
        for name, baseline in config.baselines
        for backbone in baseline.backbones
    }
    return _flatten(recipes)


def _flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, dict):
        return {prefix.rstrip("."): node}
    return {k: v for key, value in node.items() for k, v in _flatten(value, f"{prefix}{key}.").items()}
