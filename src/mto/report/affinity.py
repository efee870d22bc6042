"""Which affinity a heterogeneity was measured by: the same layer of one run has another H under each.

Pre-training measures H by the affinity that MTO is trained with, and the stage `heterogeneity` by the first of
`analysis.variants`. A metrics.json does not say which; the job.json beside it does, of finished steps of any version.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mto.files import read_json
from mto.losses.switches import SWITCHES

#: H of a layer, maybe of one of several streams; and its share of the largest there is.
MEASURED = re.compile(r"(\w+/)?heterogeneity_(\d+|ratio)")
PARTS = ("position", "affinity", "tokens", "temperature")


def affinity_of(metrics: Path, task: str) -> str | None:
    """Finds the affinity of the heterogeneities in a metrics.json; None without any, or without a job.json beside it.

    Returns:
        As the variants of heterogeneity.csv are called: `pre-dot-raw`, `pre-cosine-raw-0.1`.
    """
    if task not in ("pretrain", "heterogeneity"):
        return None
    job = (read_json(metrics.with_name("job.json")) or {}).get("job", {})
    if task == "heterogeneity":
        return _name(job["variants"][0]) if job.get("variants") else None
    return _name({part: SWITCHES[part].default for part in PARTS} | job["mto"]) if "mto" in job else None


def _name(parts_of: dict[str, Any]) -> str:
    """Names an affinity by its parts; a temperature of 1, which divides by nothing, goes without saying."""
    parts = [parts_of[part] for part in PARTS if parts_of.get(part) is not None]
    return "-".join(str(part) for part in (parts[:-1] if parts[-1] == 1.0 else parts))
