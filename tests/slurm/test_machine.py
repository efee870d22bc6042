"""When a Slurm that does not start is the machine's doing, and the tests are skipped; this needs no Slurm."""

from __future__ import annotations

import pytest
from machine import why_not, withheld

# Slurm 22.05 complains of these two wherever it runs.
COMPLAINTS = """
[20:20:57] error: Could not open node state file /tmp/slurm0/state/node_state: No such file or directory
[20:20:57] error:  mpi/pmix_v4: init: (null) [0]: mpi_pmix.c:195: pmi/pmix: can not load PMIx library
"""


@pytest.mark.parametrize(
    "said",
    [
        "munged: Error: Failed to lock memory: Operation not permitted",
        "[20:20:57] fatal: Could not create socket: Address family not supported by protocol",
        "[20:20:57] error: cannot create cgroup context for cgroup/v2\n"
        "[20:20:57] error: Unable to initialize cgroup plugin\n"
        "[20:20:57] error: slurmd initialization failed",
    ],
)
def test_what_a_sandbox_withholds(said: str) -> None:
    assert withheld(COMPLAINTS + said) in said


@pytest.mark.parametrize(
    "said",
    [
        "",
        "[20:20:57] fatal: Unable to determine this slurmd's NodeName",
        "error: Parsing error at unrecognized key: SwichType\nslurmctld: fatal: Unable to process configuration file",
        "[20:20:57] error: setpriority: Permission denied\n[20:20:57] fatal: Can't find plugin for select/cons_typo",
        "[20:20:57] fatal: slurm_init_msg_engine_port error Address already in use",
    ],
)
def test_a_mistake_of_ours_is_none_of_the_machine(said: str) -> None:
    assert withheld(COMPLAINTS + said) is None


def test_daemons_that_are_not_installed_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("machine.PATH", "/nowhere")
    assert "slurmctld" in why_not()
    assert "apt-get install slurm-wlm munge" in why_not()
