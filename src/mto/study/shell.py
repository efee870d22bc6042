"""The environment of every task: the prefix of the rules' shell commands, and a process that has imported everything.

Snakemake does not compare the prefix, so that another place of the clone re-queues nothing.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

from mto.data import bad_files
from mto.runtime import pass_on, preloaded
from mto.study.needs import canonical
from mto.study.study import Study
from mto.training import trackers

#: Jobs for which the ten seconds of importing everything are worth it.
WORTH_IT = 10
STRICT = "set -euo pipefail\n"
# Under a bar of progress the log is kept, and nothing shown.
KEEP_LOG_ALONE = """
keep_log() ( trap "" INT TERM USR1; cat > "$1" )
"""
# A copy of what is shown, where each line names its job. It outlives the signals on which a task saves and stops.
KEEP_LOG = """
keep_log() (
    trap "" INT TERM USR1
    name=${1#logs/*/}
    tee "$1" | while IFS= read -r line || [ -n "$line" ]; do printf "%s | %s\\n" "${name%.log}" "$line"; done
)
"""


def prefix(study: Study, source: str, *, deployed: bool, in_a_job: bool, quiet: bool, socket: str) -> str:
    """Returns what every shell command begins with, for Snakemake to format.

    The rules' `python` is the one that runs Snakemake, here and on a cluster's node, and its `mto` the clone's. What
    becomes of bad files, and where curves go, is told the same way: it is no part of a job.

    Args:
        study: the plan.
        source: the folder of the clone's package.
        deployed: Snakemake brings an environment with its own Python (`--sdm conda`).
        in_a_job: this Snakemake runs inside a cluster's job.
        quiet: shows no task's lines, which would break into a bar of progress.
        socket: of the preloaded process, or "".
    """
    python = "" if deployed else f"{Path(sys.executable).parent}:"
    passed_over = {name: d.bad_files_limit for name, d in study.config.datasets if d.bad_files == "skip"}
    told = {bad_files.VARIABLE: canonical(passed_over), preloaded.VARIABLE: socket}
    if study.config.log != [trackers.DEFAULT]:
        told |= trackers.settings(study.config.log, Path(study.results).resolve())
    exports = f"PYTHONPATH={shlex.quote(source)} PATH={shlex.quote(python)}$PATH"
    exports += "".join(f" {name}={shlex.quote(value)}" for name, value in told.items())
    if in_a_job:  # OMP_NUM_THREADS is of the machine that submitted this job, and the cores are its own
        exports += " OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-${OMP_NUM_THREADS:-}}"
    outlive = pass_on.OUTLIVE if in_a_job else ""
    text = f"{STRICT}{outlive}export {exports}\n{KEEP_LOG_ALONE if quiet else KEEP_LOG}"
    return text.replace("{", "{{").replace("}", "}}")


def start_preloaded(socket: str, source: str) -> subprocess.Popen[bytes]:
    """Starts a process that imports everything once, and from which jobs are forked (`mto.runtime.preloaded`).

    Small networks train in seconds, and imports would take most of the time. It ends with the caller, which holds the
    other end of its standard input. Jobs that begin before it listens start by themselves.
    """
    os.mkdir(os.path.dirname(socket), mode=0o700)
    os.makedirs(".snakemake/mto", exist_ok=True)
    with open(".snakemake/mto/preloaded.log", "w", encoding="utf-8") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "mto", "preload", socket],
            env=os.environ | {"PYTHONPATH": source, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
