"""What becomes of a file that cannot be read while a job trains: it stops the job, or its next neighbour stands in.

A policy of the process, not of the job: it alters no run but one that meets such a file, and there ``metrics.json`` has
their number. Evaluation never passes over an image. The record is one file a job, to which every rank and worker
appends, so that the count outlives an attempt.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from mto.errors import UserError

#: ``{"imagenet": 20}``: how many files of a dataset a job may pass over; set by the Snakefile from config.yaml.
VARIABLE = "MTO_BAD_FILES"
RECORD = "bad_files.txt"


def limits() -> dict[str, int]:
    """Returns how many unreadable training images a job may pass over, by dataset; none for one that is absent."""
    return json.loads(os.environ.get(VARIABLE) or "{}")


@dataclass
class Policy:
    """The record of the files that a job passed over; without one it passes over none."""

    record: Path | None = None

    def passed(self) -> list[str]:
        """Returns the files passed over so far, in all attempts of the job."""
        if self.record is None or not self.record.exists():
            return []
        return sorted(set(self.record.read_text(encoding="utf-8", errors="surrogateescape").splitlines()))

    def pass_over(self, dataset: str, path: str | Path, error: UserError) -> None:
        """Records a file that cannot be read; a neighbour may then stand in.

        Raises:
            UserError: the error itself, where files are not passed over, or too many were.
        """
        limit = limits().get(dataset, 0)
        if not limit or self.record is None:
            raise error
        passed = self.passed()
        if str(path) in passed:
            return
        if len(passed) >= limit:
            raise UserError(f"{error}; {limit} files were passed over already (datasets.{dataset}.bad_files_limit)")
        self.record.parent.mkdir(parents=True, exist_ok=True)
        with self.record.open("a", encoding="utf-8", errors="surrogateescape") as file:
            file.write(f"{path}\n")
        print(f"passed over, {len(passed) + 1} of at most {limit}: {error}", flush=True)


#: Of this process; worker processes inherit it.
policy = Policy()
