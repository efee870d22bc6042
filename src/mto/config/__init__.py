"""The settings as strict models: unknown keys, wrong types and impossible values are one clear line each.

data/ holds the package's own: the paper scale's, the baselines' recipes, and what the smaller scales set otherwise.
`load` lays the user's config.yaml over them, and the command line over that, before it validates: a demo differs from
the paper by values alone, and the user has the last word (`layers`). Nothing here imports torch: the Snakefile, which
every cluster job parses again, uses it.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mto.config.models import Config
    from mto.config.reading import load

__all__ = ["Config", "load"]


def __getattr__(name: str) -> Any:
    """Imports the models on first use: a task reads its typed job alone, and pydantic would be half of its start."""
    if name in __all__:
        from mto.config import models, reading

        return {"Config": models.Config, "load": reading.load}[name]
    raise AttributeError(f"module 'mto.config' has no attribute '{name}'")
