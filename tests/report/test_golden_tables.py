"""The tables that made-up results give, byte for byte as they were.

`UPDATE_GOLDEN=1 pytest tests/report/test_golden_tables.py` writes the hashes anew, for a change that is meant.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from mto.report.cli import main
from mto.study import report_jobs as jobs

GOLDEN = Path(__file__).parents[1] / "golden" / "tables.txt"


@pytest.mark.parametrize("scale", ["demo", "paper"])
def test_every_table_is_what_it_was(scale, request, tmp_path):
    study, results = request.getfixturevalue(scale)
    for name in study.tables:
        job = json.dumps(jobs.report_job(study, name))
        main(["table", "--job", job, "--results", str(results), "--out", str(tmp_path)])
    files = sorted(path for path in tmp_path.iterdir() if path.suffix in (".csv", ".md", ".tex"))
    now = {f"{scale} {path.name} {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}" for path in files}
    known = set(GOLDEN.read_text().splitlines()) if GOLDEN.exists() else set()
    if os.environ.get("UPDATE_GOLDEN"):
        others = {line for line in known if not line.startswith(f"{scale} ")}
        GOLDEN.write_text("\n".join(sorted(others | now)) + "\n")
        return
    before = {line for line in known if line.startswith(f"{scale} ")}
    assert now == before, f"changed: {sorted(now - before)}"
