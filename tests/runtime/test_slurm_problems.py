"""The check of a Slurm cluster at start: the real commands' answers, given by stand-ins on PATH."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from mto.runtime.slurm import Request, count_gpus, minutes, problems, read_partitions, remember_min_job_age

# sinfo -a -h -N -o '%P|%c|%m|%G|%l', from Slurm 22.05
NODES = """gpu*|128|600000|gpu:h100:8(S:0-1)|2-00:00:00
gpu*|128|600000|gpu:h100:8(S:0-1)|2-00:00:00
small|64|250000|gpu:a100:4(S:0),nvme:1|1-00:00:00
small|64|250000|gpu:a100:4(S:0),nvme:1|1-00:00:00
short|128|600000|gpu:h100:8(S:0-1)|30:00
short|512|1000|(null)|30:00
"""
PAPER = Request("pretrain", gpu=8, cpus_per_task=96, mem_mb=256_000, runtime=2880)


class Slurm:
    """Stand-ins for Slurm's commands: what each prints, and its exit code."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.answer("sbatch", "")
        self.answer("sinfo", NODES)
        self.answer("sacct", "")
        self.answer("scontrol", "MinJobAge               = 300 sec\n")

    def answer(self, command: str, printed: str, code: int = 0) -> None:
        program = self.folder / command
        program.write_text(f"#!/bin/sh\ncat >&{2 if code else 1} <<'END'\n{printed}END\nexit {code}\n")
        program.chmod(0o755)

    def remove(self, command: str) -> None:
        (self.folder / command).unlink()


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    (tmp_path / "cat").symlink_to("/bin/cat")
    monkeypatch.setenv("PATH", str(tmp_path))
    return Slurm(tmp_path)


def test_a_job_that_fits_is_no_problem(slurm: Slurm) -> None:
    assert problems([PAPER, Request("heterogeneity", "short", gpu=1, cpus_per_task=8, mem_mb=32_000, runtime=30)]) == []


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (Request("coco", "h100"), ["slurm_partition: h100", "one of gpu, short, small"]),
        (Request("coco", "gpu,old"), ["slurm_partition: old"]),
        (Request("coco", "small", gpu=8), ["resources.coco.gpu: 8 GPUs", "small has 4 at most", "nodes: N"]),
        (Request("coco", cpus_per_task=129), ["resources.coco.cpus_per_task: 129 CPUs", "128 at most"]),
        (Request("coco", mem_mb=600_001), ["resources.coco.mem_mb: 600001 MB", "600000 at most"]),
        (Request("coco", runtime=2881), ["resources.coco.runtime: 2881 minutes", "2880 at most", "continues"]),
        (Request("coco", "short", runtime=31), ["runtime: 31 minutes", "30 at most"]),
        # Each alone is there, on one node they are not.
        (Request("coco", "short", gpu=8, cpus_per_task=200), ["resources.coco:", "0 node(s) with all of gpu: 8"]),
        (Request("coco", gpu=24, nodes=3), ["has 2 node(s)", "wants 3"]),
        # Two nodes of eight GPUs for eight: Slurm may deal them out as 7 and 1.
        (Request("coco", gpu=8, nodes=2), ["resources.coco.nodes:", "has 8 GPUs", "gpu: 16, or nodes: 1"]),
    ],
)
def test_a_job_that_no_node_could_run_is_one_line(slurm: Slurm, request_: Request, said: list[str]) -> None:
    (line,) = problems([request_, request_])
    for words in said:
        assert words in line
    assert "\n" not in line


def test_whole_nodes_together_are_no_problem(slurm: Slurm) -> None:
    spread = Request("pretrain", "small", gpu=8, cpus_per_task=48, mem_mb=200_000, runtime=1440, nodes=2)
    assert problems([spread]) == []


def test_several_partitions_are_alternatives(slurm: Slurm) -> None:
    assert problems([Request("pretrain", "short,gpu", gpu=8, runtime=2880)]) == []


def test_every_stage_is_told_what_is_wrong_with_it(slurm: Slurm) -> None:
    lines = problems([Request("pretrain", runtime=5000, mem_mb=10**6), Request("finetune", runtime=5000)])
    assert len(lines) == 3


def test_a_cluster_without_a_default_partition(slurm: Slurm) -> None:
    slurm.answer("sinfo", NODES.replace("*", ""))
    (line,) = problems([PAPER])
    assert "slurm_partition: needed" in line
    assert problems([Request("pretrain", "gpu", gpu=8)]) == []


def test_a_cluster_that_does_not_manage_memory_has_any_amount(slurm: Slurm) -> None:
    slurm.answer("sinfo", "gpu*|128|1|gpu:8|infinite\n")
    assert problems([PAPER]) == []


def test_without_slurm_here(slurm: Slurm) -> None:
    slurm.remove("sbatch")
    (line,) = problems([PAPER])
    assert "sbatch" in line


def test_slurmctld_away(slurm: Slurm) -> None:
    slurm.answer("sinfo", "slurm_load_partitions: Unable to contact slurm controller (connect failure)\n", 1)
    (line,) = problems([PAPER])
    assert "connect failure" in line


# -------------------------------------------------------------------------------------------- seeing that a job ended
def test_without_an_accounting_database_the_key_is_named(slurm: Slurm) -> None:
    slurm.answer("sacct", "Slurm accounting storage is disabled\n", 1)
    (line,) = problems([PAPER], "sacct")
    assert "slurm-status-command" in line
    assert "squeue" in line
    assert "accounting storage is disabled" in line
    assert problems([PAPER], "squeue") == []


def test_jobs_must_be_remembered_for_longer_than_snakemake_looks_away(slurm: Slurm) -> None:
    slurm.answer("scontrol", "MinJobAge               = 60 sec\n")
    assert problems([PAPER], "sacct") == []
    (line,) = problems([PAPER], "squeue")
    assert "MinJobAge" in line
    slurm.answer("scontrol", "MinJobAge               = 200 sec\n")
    assert problems([PAPER], "squeue", first_look=40) == []
    assert problems([PAPER], "squeue", first_look=100)


def test_without_sacct_an_account_is_asked_for(slurm: Slurm) -> None:
    slurm.remove("sacct")
    (line,) = problems([PAPER], "squeue")
    assert "slurm_account" in line
    assert problems([PAPER], "squeue", account="me") == []
    assert problems([PAPER], "sacct", account="me") == []  # the plugin takes squeue then


def test_min_job_age_is_asked_for_once() -> None:
    """An answer that fails later must not send the plugin to sacct."""
    answers = iter([600, None])
    plugin = SimpleNamespace(get_min_job_age=lambda: next(answers))
    remember_min_job_age(plugin)
    assert [plugin.get_min_job_age(), plugin.get_min_job_age()] == [600, 600]


def test_the_plugin_looks_min_job_age_up_where_it_is_put() -> None:
    plugin = pytest.importorskip("snakemake_executor_plugin_slurm")
    names = plugin.Executor.check_active_jobs.__code__.co_names
    assert "get_min_job_age" in names
    assert callable(plugin.get_min_job_age)


# -------------------------------------------------------------------------------------------------- Slurm's language
@pytest.mark.parametrize(
    ("gres", "gpus"),
    [
        ("(null)", 0),
        ("gpu:8", 8),
        ("gpu", 1),
        ("gpu:a100", 1),
        ("gpu:h100:8(S:0-1)", 8),
        ("nvme:2,gpu:a100:2(S:0,2),gpu:v100:3", 5),
    ],
)
def test_gpus_of_a_node(gres: str, gpus: int) -> None:
    assert count_gpus(gres) == gpus


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("30:00", 30), ("1:00:00", 60), ("2-00:00:00", 2880), ("1-12:30:30", 2190.5), ("infinite", float("inf"))],
)
def test_time_limits(limit: str, expected: float) -> None:
    assert minutes(limit) == expected


def test_partitions_and_the_default() -> None:
    partitions, default = read_partitions(NODES)
    assert default == "gpu"
    assert {name: len(nodes) for name, nodes in partitions.items()} == {"gpu": 2, "small": 2, "short": 2}
