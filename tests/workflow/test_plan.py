"""The plan at both scales, its targets, and how the workflow refuses to start: real Snakemake, nothing trained."""

from __future__ import annotations

import os
import re
from itertools import product
from pathlib import Path

import pytest
from workflow_clone import ROOT, Clone, copy_workflow

from mto.names import STAGES

HEAVY = ("torch", "torchvision", "timm", "mmengine", "mmcv", "mmdet", "mmseg", "sklearn", "matplotlib")

# Paper: 20 runs (five baselines, plain and with MTO; six more subsets of its terms; four more decoder depths) at five
# epochs, and MAE with preset `text` at two. Fine-tuned: ten runs at five epochs, six subsets and four depths at 400.
# Probed: four baselines, plain and with MTO, at 400 and 800, and four depths. Subsets and depths are one segment each.
# Demo: four epochs instead of five, no presets, and beside each value the same from scratch (five fine-tuned, four
# probed, three transferred to each); the nearest neighbours of four, from scratch, without and with MTO. Small: as the
# demo, but with the presets, and no ViT-L and no neighbours.
TRANSFERS = {"ade20k_upernet": 12, "coco_maskrcnn": 12}
JOBS = {
    "paper": {"pretrain_segment": 62, "finetune_encoder": 62, "linear_probe": 22, "table": 7},
    "demo": {"pretrain_segment": 50, "finetune_encoder": 55, "linear_probe": 24, "knn_vote": 12, "table": 7}
    | TRANSFERS,
    "small": {"pretrain_segment": 52, "finetune_encoder": 56, "linear_probe": 21, "heterogeneity": 5, "table": 7}
    | TRANSFERS,
}
SAME = {
    "dataset": 3,
    "ade20k_upernet": 9,
    "coco_maskrcnn": 9,
    "heterogeneity": 4,
    "results": 1,
    "table": 6,
    "figure": 6,
    "report": 1,
    "all": 1,
}


def stats(printed: str) -> dict[str, int]:
    """Snakemake's table of jobs."""
    table = printed.rsplit("Job stats:", 1)[1].split("\n\n")[0]
    return {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE) if name != "total"}


@pytest.mark.parametrize("scale", JOBS)
def test_the_whole_plan_without_torch_or_data(clone: Clone, tmp_path: Path, scale: str) -> None:
    for name in HEAVY:
        (tmp_path / "poison").mkdir(exist_ok=True)
        (tmp_path / "poison" / f"{name}.py").write_text(f"raise SystemExit('{name} was imported')")
    printed = clone.snakemake("-n", "--config", f"scale={scale}", PYTHONPATH=str(tmp_path / "poison"))
    assert stats(printed) == SAME | JOBS[scale]


def test_a_baseline_plans_its_own_jobs_and_nothing_else(clone: Clone) -> None:
    planned = clone.planned("mae")
    folders = {file.split("/")[3] for file in planned if "/data/" not in file}
    runs = {"mae-vitb", "mae-vitb-mto", "mae-vitl", "mae-vitl-mto", *(f"mae-vitb-mto-depth{d}" for d in (1, 2, 4, 12))}
    assert folders == runs
    tasks = {"data", *STAGES}
    assert {file.split("/")[2] for file in planned} == tasks


@pytest.mark.parametrize(
    ("target", "jobs"),
    [
        ("linear", {"dataset": 1, "pretrain_segment": 36, "linear_probe": 24, "linear": 1}),
        ("analysis", {"dataset": 1, "pretrain_segment": 12, "heterogeneity": 4, "analysis": 1}),
        ("plan", {"plan": 1}),
        ("preflight", {"preflight_stage": 5, "preflight": 1}),
    ],
)
def test_targets(clone: Clone, target: str, jobs: dict[str, int]) -> None:
    assert stats(clone.snakemake("-n", target)) == jobs


def test_an_older_snakemake_learns_which_version_it_takes() -> None:
    """It compiles the whole Snakefile before the first line runs: what it cannot read must be in an included file."""
    text = (ROOT / "Snakefile").read_text()
    assert text.index("min_version(") < text.index("include:")
    assert "pathvars" not in text


def test_the_pilot_is_asked_for_alone(clone: Clone) -> None:
    assert stats(clone.snakemake("-n", "pilot")) == {"dataset": 1, "pretrain_pilot": 8, "pilot": 1}
    clone.snakemake("--cores", "2", "results/demo/pilot/mae-vitb-mto/seed0/epoch0004/metrics.json")
    given = (clone.path / "results/demo/pilot/mae-vitb-mto/seed0/epoch0004/metrics.json").read_text()
    assert given.startswith("pretrain --job ")
    assert given.endswith(" --guard 0 --gradients 10")  # what collapses is to be in the table
    assert "state=" not in given


def test_the_plan_and_a_preflight_are_shown_each_time_and_measured_once(clone: Clone) -> None:
    clone.snakemake("--cores", "2", "preflight")
    measured = {
        "results/demo/preflight/" + stage + ".json" for stage in ("pretrain", "finetune", "linear", "ade20k", "coco")
    }
    assert measured <= clone.made()
    job = (clone.path / "results/demo/preflight/linear.json").read_text()
    assert '"task":"linear"' in job
    assert job.endswith(" --gpus 0 --workers 0 --micro-batch 0 --compile --memory fast --deterministic strict")
    assert stats(clone.snakemake("-n", "preflight")) == {"preflight": 1}
    clone.set("baselines.mae.linear.probe.head_std", 0.02)  # what is measured changes with its job
    assert stats(clone.snakemake("-n", "preflight")) == {"preflight_stage": 1, "preflight": 1}


def test_a_preflight_without_a_gpu_is_refused_in_one_line(clone: Clone) -> None:
    printed = clone.snakemake("--cores", "2", "preflight", "--config", "scale=paper", code=1)
    (line,) = (line for line in printed.splitlines() if line.startswith("no GPU here"))
    assert "ade20k 8, coco 8, finetune 8, linear 8, pretrain 8" in line
    assert "Traceback" not in printed
    assert not (clone.path / "results").exists()


def test_gpus_that_are_fewer_than_a_job_asks_for_are_refused(clone: Clone) -> None:
    """Snakemake would cut the job down to them, and its batch norms would see half as many images."""
    manifest = clone.path / "results/demo/data/ade20k/manifest.json"
    manifest.parent.mkdir(parents=True)
    manifest.touch()
    clone.set("scales.demo.resources.ade20k", {"gpu": 4, "micro_batch": 1})
    metrics = "results/demo/ade20k/mae-vitb/seed0/epoch0000/metrics.json"
    for resources, given in (("gpu=2", 2), ("gpu=0", 0)):
        printed = clone.snakemake("--cores", "2", "--resources", resources, "--", metrics, code=1)
        (line,) = (line for line in printed.splitlines() if line.startswith("config.yaml: resources.ade20k.gpu: 4"))
        assert f"gives its jobs {given}: give them 4, or set resources.ade20k" in line
    for visible in ("0,1", ""):
        printed = clone.snakemake("--cores", "2", "--", metrics, code=1, CUDA_VISIBLE_DEVICES=visible)
        assert ("and 2 are here: set resources.ade20k: gpu: 2, micro_batch: 2" in printed) == bool(visible)
        assert ("no GPU here" in printed) == (not visible)
    assert not (clone.path / metrics).exists()
    clone.snakemake("--cores", "2", "--resources", "gpu=4", "--", metrics, CUDA_VISIBLE_DEVICES="0,1,2,3")
    assert " --gpus 4 " in (clone.path / metrics).read_text()


def test_a_warm_start_leaves_the_run_without_mto(clone: Clone) -> None:
    """Which keeps the state that both continue; a step of the epochs that they share is the plain run's alone."""
    warm = ("--config", "scale=demo", "mto={starts_at: 2}")
    last = "results/demo/pretrain/{}/seed0/epoch{:04d}/{}"
    wanted = [last.format(run, 8, "metrics.json") for run in ("mae-vitb", "mae-vitb-mto")]
    printed = clone.snakemake("-n", "-p", *wanted, *warm)
    state = {}
    for command in re.findall(r"python -m mto pretrain .*", printed):
        out = re.search(r"--out (\S+)", command)[1].removeprefix("results/demo/pretrain/")
        given = re.search(r"state=(\S*)", command)[1].removeprefix("results/demo/pretrain/")
        state[out.replace("/seed0/epoch", " ")] = given.replace("/seed0/epoch", " "), "--prune" in command
    assert state == {
        "mae-vitb 0001": ("", True),
        "mae-vitb 0002": ("mae-vitb 0001/state.pth", True),
        "mae-vitb 0004": ("mae-vitb 0002/state.pth", False),
        "mae-vitb 0008": ("mae-vitb 0004/state.pth", True),
        "mae-vitb-mto 0004": ("mae-vitb 0002/state.pth", False),
        "mae-vitb-mto 0008": ("mae-vitb-mto 0004/state.pth", True),
    }
    shared = last.format("mae-vitb-mto", 2, "metrics.json")
    refused = clone.snakemake("-n", shared, *warm, code=1)
    assert "mae-vitb-mto has MTO after epoch 2 (mto.starts_at in config.yaml)" in refused


def test_the_slurm_profile_is_the_paper_scale(clone: Clone) -> None:
    printed = clone.snakemake("-n", "--cores", "all", "--profile", "slurm")
    assert stats(printed)["pretrain_segment"] == 62


# ------------------------------------------------------------------------------------------------- refusing to start
def test_missing_datasets_stop_the_start_before_any_job(clone: Clone) -> None:
    printed = clone.snakemake("--cores", "2", "--config", "scale=paper", code=1)
    for name, layout in (("imagenet", "train/<class>"), ("ade20k", "annotations"), ("coco", "instances_")):
        (line,) = (line for line in printed.splitlines() if f"datasets.{name}.root" in line)
        assert f"data/{name}" in line
        assert layout in line
    assert "Traceback" not in printed
    assert "steps (" not in printed
    assert not (clone.path / "results").exists()


def test_only_the_datasets_that_are_needed_are_asked_for(clone: Clone) -> None:
    segment = "results/paper/pretrain/mae-vitb/seed0/epoch0100/metrics.json"
    printed = clone.snakemake("--cores", "2", segment, "--config", "scale=paper", code=1)
    assert re.findall(r"datasets\.(\w+)\.root: ", printed) == ["imagenet"]
    for split in ("train", "val"):
        for number in range(1000):
            folder = clone.path / "data/imagenet" / split / f"n{number:08d}"
            folder.mkdir(parents=True)
            (folder / "0.JPEG").touch()
    on_a_cpu = "resources={pretrain: {gpu: 0}}"  # this machine has not the eight GPUs, which would be refused
    clone.snakemake("--cores", "2", segment, "--config", "scale=paper", on_a_cpu)
    given = (clone.path / segment).read_text()  # the fake task wrote its arguments
    told = "--gpus 0 --nodes 1 --workers 11 --micro-batch 64 --compile --memory fast --deterministic strict"
    assert given.endswith(f"{told} --guard 10 --gradients 10 --prune")
    assert " state= --out " in given  # the first segment continues nothing


def test_every_mistake_in_the_config_is_one_line(clone: Clone) -> None:
    clone.set("baselines.mae.finetune.layer_decai", 0.75)
    clone.set("precision", "fp8")
    printed = clone.snakemake("-n", "--config", "scale=paper", code=1).splitlines()
    assert [line for line in printed if "baselines.mae.finetune.layer_decai" in line and "layer_decay" in line]
    assert [line for line in printed if "precision" in line and "bf16" in line]
    assert len([line for line in printed if re.match(r"config.yaml:\d+: ", line)]) == 2
    assert "Building DAG" not in "\n".join(printed)
    assert "Traceback" not in "\n".join(printed)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-n", "results/demo/finetune/mae-vitb/seed0/epoch0005/metrics.json"], "the study has no such epoch"),
        (["-n", "results/demo/finetune/mae-vitb/seed7/epoch0008/metrics.json"], "the study has no such seed"),
        (["-n", "results/demo/finetune/mae-vitb-mto-depth0/seed0/epoch0008/metrics.json"], "no such run: "),
        (["-n", "results/demo/finetune/mae-vitb/seed0/epoch800/metrics.json"], "seed0/epoch800: no step is called so"),
        (["-n", "results/demo/finetune/mae-vitb/seed00/epoch0008/metrics.json"], "seed00/epoch0008: no step is called"),
        (
            ["-n", "results/demo/pretrain/mae-vitb/seedx/epoch0008/metrics.json"],
            "seedx/epoch0008: no step is called",
        ),
        (["-n", "results/demo/pilot/mae-vitb/seed0/epoch004x/metrics.json"], "seed0/epoch004x: no step is called so"),
        (["-n", "--config", "scale=[demo]"], "no such scale: ['demo']"),
        (["--cores", "0", "plan"], "--cores 0: no job can run"),
    ],
)
def test_what_cannot_be_asked_for_is_one_line(clone: Clone, arguments: list[str], expected: str) -> None:
    printed = clone.snakemake(*arguments, code=1)
    assert expected in printed.splitlines()[-1]
    assert "Traceback" not in printed


def test_braces_in_the_clones_path(tmp_path: Path) -> None:
    printed = copy_workflow(tmp_path / "a{b}" / "clone").snakemake("-n", code=1)
    assert "Snakemake takes braces in a path for wildcards" in printed
    assert "Traceback" not in printed


def test_how_closely_data_is_looked_at_re_queues_nothing(finished: Clone) -> None:
    for key, value in {"verify": "full", "bad_files": "skip", "bad_files_limit": 3}.items():
        finished.set(f"scales.demo.datasets.imagenet.{key}", value)
    assert finished.planned() == set()


def test_a_failing_task_fails_the_run_and_keeps_its_log_and_progress(clone: Clone) -> None:
    folder = clone.path / "results/demo/linear/mae-vitb/seed0/epoch0004"
    (folder / "progress").mkdir(parents=True)
    (folder / "progress/last.pth").touch()
    printed = clone.snakemake("--cores", "2", f"{folder.relative_to(clone.path)}/metrics.json", code=1, FAIL="linear")
    assert "linear/mae-vitb/seed0/epoch0004 | linear fails" in printed
    log = clone.path / "logs/demo/linear/mae-vitb/seed0/epoch0004.log"
    assert log.read_text() == "linear at work\nlinear fails\n"
    assert [file.name for file in folder.rglob("*") if file.is_file()] == ["last.pth"]


def test_a_failure_is_tried_again_and_a_refusal_is_not(clone: Clone) -> None:
    target = "results/demo/linear/mae-vitb/seed0/epoch0004/metrics.json"
    start = ("--cores", "2", "--retries", "2", target)
    printed = clone.snakemake(*start, code=1, FAIL="linear")
    assert printed.count("Trying to restart job") == 2
    printed = clone.snakemake(*start, code=1, FAIL="linear", SAYS="mto: error: ")
    assert "mto: error: linear fails" in printed
    assert "Trying to restart job" not in printed
    # The user mended it: what an earlier run refused is tried anew, and again.
    printed = clone.snakemake(*start, code=1, FAIL="linear")
    assert printed.count("Trying to restart job") == 2


def test_the_slurm_profile_asks_what_slurm_can_tell_before_any_job(clone: Clone, tmp_path: Path) -> None:
    """With stand-ins for Slurm's commands; against real ones, see tests/slurm."""
    answers = {
        "sbatch": "exit 1",
        "sacct": "echo Slurm accounting storage is disabled >&2; exit 1",
        "sinfo": "echo 'gpu*|64|100000|gpu:a100:4|1-00:00:00'",
        "scontrol": "echo MinJobAge = 300 sec",
        "squeue": "exit 0",
    }
    for name, answer in answers.items():
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\n{answer}\n")
        program.chmod(0o755)
    segment = "results/paper/pretrain/mae-vitb/seed0/epoch0100/metrics.json"
    (clone.path / "results/paper/data/imagenet").mkdir(parents=True)
    (clone.path / "results/paper/data/imagenet/manifest.json").touch()
    for split in ("train", "val"):
        for number in range(1000):
            folder = clone.path / "data/imagenet" / split / f"n{number:08d}"
            folder.mkdir(parents=True)
            (folder / "0.JPEG").touch()
    slurm = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    printed = clone.snakemake("--cores", "all", "--profile", "slurm", segment, code=1, **slurm)
    for said in (
        "slurm-status-command: sacct fails (Slurm accounting storage is disabled)",
        "resources.pretrain.gpu: 8 GPUs a node, and partition gpu has 4 at most",
        "resources.pretrain.cpus_per_task: 96 CPUs",
        "resources.pretrain.mem_mb: 256000 MB",
        "resources.pretrain.runtime: 2880 minutes",
    ):
        assert len([line for line in printed.splitlines() if said in line]) == 1, printed
    assert "Traceback" not in printed
    assert "has been submitted" not in printed


# ------------------------------------------------------------------------------------------------------- the drawing
def test_the_readme_draws_the_workflow(clone: Clone) -> None:
    drawing = clone.snakemake("--rulegraph", "mermaid-js")
    names = dict(re.findall(r"^\s*(id\d+)\[(\w+)\]", drawing, re.MULTILINE))
    drawn = {(names[a], names[b]) for a, b in re.findall(r"^\s*(id\d+) --> (id\d+)", drawing, re.MULTILINE)}
    shown = set()
    for line in re.findall(r"^ +(.+ --> .+)$", (ROOT / "README.md").read_text(), re.MULTILINE):
        before, after = (side.split(" & ") for side in line.split(" --> "))
        shown |= set(product(before, after))
    assert drawn
    assert shown == drawn
