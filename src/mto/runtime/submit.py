"""`sbatch`, patiently: a submission that Slurm may take later is made later. Standard library only.

The executor plugin counts a refused submission as a failed attempt of its job, though nothing ran. Two minutes without
slurmctld, or a QOS that takes no more jobs for now, would use up all attempts. It calls this instead
(`mto.runtime.slurm`).
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Sequence

#: What sbatch says of an outage, and of a limit to the number of jobs that are submitted at once.
LATER = re.compile(
    r"Unable to contact slurm controller|Connection (refused|timed out)|Socket timed out|[Tt]emporarily un|"
    r"(Max|Grp)SubmitJob"
)
PAUSE = 15.0  # seconds


def submit(command: Sequence[str], pause: float = PAUSE) -> subprocess.CompletedProcess[str]:
    """Runs ``command`` until it is taken, or refused for good."""
    script = None if sys.stdin.isatty() else sys.stdin.read()  # sbatch takes it from there where no --wrap is given
    while True:
        done = subprocess.run(command, input=script, capture_output=True, text=True, check=False)
        if done.returncode == 0 or not LATER.search(done.stderr):
            return done
        time.sleep(pause)


if __name__ == "__main__":
    done = submit(sys.argv[1:])
    sys.stdout.write(done.stdout)
    sys.stderr.write(done.stderr)
    sys.exit(done.returncode)
