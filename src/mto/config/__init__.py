"""config.yaml as strict models: unknown keys, wrong types and impossible values are one clear line each.

`load` merges the file's own overrides (`official`, `scales.<scale>`) before it validates, so that a demo differs from
the paper by values alone. Nothing here imports torch: the Snakefile, which every cluster job parses again, uses it.
"""

from mto.config.models import Config
from mto.config.reading import load

__all__ = ["Config", "load"]
