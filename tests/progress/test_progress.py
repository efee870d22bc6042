"""The logger plugin: the bar of a start on a terminal, lines elsewhere, and failures that nobody overlooks."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snakemake_logger_plugin_mto import Progress, duration

SNAKEFILE = """
rule all:
    input: "a.txt", "b.txt", "c.txt"
    message: "All is done"

rule good:
    output: "{name,[ab]}.txt"
    log: "{name}.log"
    message: "Making {wildcards.name}"
    shell: "echo words of a task | tee {log}; touch {output}"

rule bad:
    output: "c.txt"
    log: "c.log"
    message: "Making c"
    shell: "echo the reason > {log}; exit 1"
"""


def start(folder: Path, *options: str) -> tuple[str, str, int]:
    """Runs Snakemake with the plugin in a folder with `SNAKEFILE`; returns stdout, stderr and the exit code."""
    (folder / "Snakefile").write_text(SNAKEFILE)
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "--keep-going", "--logger", "mto", *options]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return ran.stdout, ran.stderr, ran.returncode


def test_without_a_terminal_a_line_a_kind_of_job_and_the_failure_with_its_log(tmp_path: Path) -> None:
    _, told, code = start(tmp_path)
    assert code == 1
    assert re.search(r"^good: done\. \[#+ +\] 2 of 4 jobs", told, re.M)
    assert told.count("Failed: Making c") == 1
    assert told.count("see c.log") == 2  # when it happens, and at the end
    assert "localrule" not in told
    assert "reason:" not in told.lower()
    assert len(told.splitlines()) < 20


def test_the_log_of_snakemake_keeps_everything(tmp_path: Path) -> None:
    start(tmp_path)
    (log,) = (tmp_path / ".snakemake" / "log").glob("*.snakemake.log")
    assert "Making a" in log.read_text()
    assert "Reason" in log.read_text()


@pytest.mark.parametrize("option", ["--dry-run", "--verbose"])
def test_a_dry_run_and_verbose_are_as_ever(tmp_path: Path, option: str) -> None:
    out, told, _ = start(tmp_path, option)
    assert "Making a" in out + told
    assert "of 4 jobs," not in out + told


def test_on_a_terminal_one_line_is_drawn_again_and_again(tmp_path: Path) -> None:
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--keep-going", "--logger", "mto"]
    process = subprocess.Popen(command, cwd=tmp_path, stdin=follower, stdout=subprocess.DEVNULL, stderr=follower)
    os.close(follower)
    told = b""
    while True:
        try:
            part = os.read(leader, 4096)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        told += part
    process.wait()
    os.close(leader)
    drawn = told.decode().split("\r\x1b[K")
    bars = [text for text in drawn if text.startswith("[")]
    assert bars[-1].startswith("[############            ] 2 of 4 jobs, 1 failed")
    assert sum("Failed: Making c" in text for text in drawn) == 1


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 100)), max_size=30))
def test_counts_and_time_left_are_of_what_is_planned(jobs: list[tuple[str, float]]) -> None:
    planned = {rule: sum(name == rule for name, _ in jobs) for rule in "abc"}
    progress = Progress(planned)
    for number, (rule, seconds) in enumerate(jobs):
        assert (progress.left(0.0) is None) == (number == 0)
        progress.begins(number, rule, rule, 0.0)
        last = progress.ends(number, seconds)
        assert (last == rule) == (progress.done[rule] == planned[rule])
    assert sum(progress.done.values()) == len(jobs)
    assert not jobs or progress.left(0.0) == 0.0


def test_two_at_once_take_half_as_long() -> None:
    progress = Progress({"a": 6})
    for job in (1, 2):
        progress.begins(job, "a", "a", 0.0)
    for job in (1, 2):
        progress.ends(job, 10.0)
    assert progress.left(10.0) == 20.0


@pytest.mark.parametrize(("seconds", "said"), [(40, "40 s"), (700, "12 min"), (18000, "5 h"), (260000, "3 days")])
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said
