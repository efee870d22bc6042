"""Only what changed reruns: what real Snakemake plans after the whole demo study is done and something was edited."""

from __future__ import annotations

import json
import os
import time
from itertools import pairwise

import torch
from workflow_clone import Clone

from mto.config import load
from mto.names import IMPORTED, RESTART, Step
from mto.study.study import Study
from mto.tasks.prune import prune
from mto.training.checkpoint import save_state

RESULTS = "results/demo/"
SCRATCH = "/epoch0000/"  # which needs no pre-training
FORMS = {"table": ("tables", ("csv", "md", "tex", "json")), "fig": ("figures", ("png", "pdf"))}


def reports(*names: str) -> set[str]:
    """The files of results.csv, of the report, and of these tables and figures."""
    files = {f"{RESULTS}results.csv", f"{RESULTS}report.html"}
    for name in names:
        folder, forms = FORMS["fig" if name.startswith("fig") else "table"]
        files |= {f"{RESULTS}{folder}/{name}.{form}" for form in forms}
    return files


def test_a_finished_study_plans_nothing(finished: Clone) -> None:
    assert finished.planned() == set()
    assert "Nothing to be done" in finished.snakemake("--cores", "1")


def test_what_alters_no_job_plans_nothing(finished: Clone) -> None:
    """Hardware, what is watched, keys not used here, comments, touched and edited sources."""
    finished.set("scales.demo.resources.pretrain.cpus_per_task", 2)
    finished.set("scales.demo.resources.pretrain.micro_batch", 16)
    finished.set("scales.demo.resources.linear.gpu", 1)
    finished.set("scales.demo.resources.finetune.deterministic", False)
    finished.set("scales.demo.resources.finetune.memory", "lean")
    finished.set("mto.guard", None)
    finished.set("mto.gradient_interval", 3)
    for file in (finished.path / "rules").iterdir():
        file.write_text(f"# another comment\n{file.read_text()}")
    future = time.time() + 60
    for file in (finished.path / "src").rglob("*.py"):
        file.write_text(f"{file.read_text()}\n# another comment\n")
        os.utime(file, (future, future))
    assert finished.planned() == set()


def test_another_shell_line_or_environment_plans_nothing(finished: Clone) -> None:
    """A newer version of the workflow; what alters results is in the jobs."""
    rules = finished.path / "rules/pretrain.smk"
    text = rules.read_text()
    assert "python -m mto pretrain" in text
    rules.write_text(text.replace("python -m mto pretrain", "python -B -m mto pretrain"))
    environment = finished.path / "envs/mto.yaml"
    environment.write_text(environment.read_text() + "  - another\n")
    assert finished.planned() == set()


def test_a_table_that_is_left_out_leaves_its_runs_done(finished: Clone) -> None:
    """The epochs of tables end the segments: without some of them the others would have other states before them."""
    for report in ("fig4_epochs", "table1_rauc", "figS1_architectures"):
        finished.set(f"scales.demo.study.{report}", None)
    assert finished.planned() == {f"{RESULTS}results.csv", f"{RESULTS}report.html"}


def test_an_epoch_more_repeats_what_comes_after_it(finished: Clone) -> None:
    finished.set("scales.demo.study.measured_epochs", [1, 2, 4, 6, 8])
    finished.set("scales.demo.study.table2_linear.epochs", [4, 6, 8])
    planned = {file for file in finished.planned() if "/pretrain/mae-vitb/" in file}
    assert {file.split("/")[5] for file in planned} == {"epoch0006", "epoch0008"}


def test_a_cluster_s_job_has_the_settings_of_the_start(finished: Clone) -> None:
    """It reads the rules anew on its node, when config.yaml may have been edited; Snakemake files it as planned."""
    target = f"{RESULTS}finetune/mae-vitb/seed0/epoch0008/metrics.json"
    finished.set("scales.demo.baselines.mae.finetune.lr", {"base": 0.25})
    finished.snakemake("--cores", "1", target)
    (kept,) = [file for file in (finished.path / ".snakemake/mto").iterdir() if '"base": 0.25' in file.read_text()]
    finished.set("scales.demo.baselines.mae.finetune.lr", {"base": 0.125})
    recipe = finished.path / "src/mto/config/data/recipes/mae.yaml"  # the package's own settings are read anew too
    recipe.write_text(recipe.read_text().replace("betas: [0.9, 0.999]", "betas: [0.5, 0.999]"))
    job = ("--mode", "remote", "--cores", "1", "--nolock", "--force", "--target-jobs")
    name = "finetune_encoder:run=mae-vitb,seed=0,epoch=0008"
    finished.snakemake(*job, name, "--", target, MTO_SETTINGS=str(kept))
    assert '"betas":[0.9,0.999]' in (finished.path / target).read_text()
    assert '"lr":0.25' in (finished.path / target).read_text()
    finished.snakemake(*job, name, "--", target)  # an executor that passes no environment on
    assert '"betas":[0.5,0.999]' in (finished.path / target).read_text()
    assert '"lr":0.125' in (finished.path / target).read_text()


def test_what_is_set_for_another_scale_alters_nothing(finished: Clone) -> None:
    finished.set("scales.paper.baselines.mae.finetune.lr.base", 0.123)
    finished.set("scales.mine.seeds", [3])
    assert finished.planned() == set()


def test_an_edit_of_the_root_file_wins_at_the_demo(finished: Clone) -> None:
    """Though the scale sets the same key: a new rate of pre-training is a new pre-training, and all that follows."""
    finished.set("baselines.mae.pretrain.lr", {"base": 0.0123})
    planned = finished.planned()
    own = {file for file in finished.made() if "/mae-" in file and "/progress/" not in file and SCRATCH not in file}
    assert own <= planned
    assert not [file for file in planned if "-vit" in file and "/mae-" not in file]
    first = f"{RESULTS}pretrain/mae-vitb/seed0/epoch0001/metrics.json"
    finished.snakemake("--cores", "1", "--quiet", "all", "--", first)
    assert '"lr":0.0123' in (finished.path / first).read_text()


def test_the_command_line_wins_over_the_scale(finished: Clone) -> None:
    planned = finished.planned("mae", "--config", "baselines={mae: {finetune: {epochs: 5}}}")
    assert planned == {file for file in finished.made() if "/finetune/mae-" in file and "/progress/" not in file}


def test_another_dataset_reruns_what_reads_it(finished: Clone) -> None:
    finished.set("scales.demo.datasets.coco.make.train", 40)
    own = {file for file in finished.made() if f"{RESULTS}coco/" in file and "/progress/" not in file}
    made = {f"{RESULTS}data/coco/manifest.json"}
    assert finished.planned() == own | made | reports("tableS2_coco")


def test_states_that_were_pruned_plan_nothing(finished: Clone) -> None:
    """All but the last of each chain: real states stand where the fake tasks wrote words."""
    chains = [sorted(run.iterdir()) for run in (finished.path / RESULTS / "pretrain").glob("*/seed0")]
    before = {folder: after for chain in chains for folder, after in pairwise(chain)}
    for folder in before:
        state = folder / "state.pth"
        changed = state.stat().st_mtime_ns
        content = {"state_dict": {"weight": torch.ones(1000)}, "optimizer": {"state": {0: torch.ones(2000)}}}
        save_state(state, content, {"fingerprint": "1"}, changed)
        whole = state.stat().st_size
        prune(state, "1")
        assert state.stat().st_size < 0.6 * whole
    assert finished.planned() == set()
    assert finished.planned("pretrain") == finished.planned("analysis") == set()
    state.touch()  # what is compared is the time: without its care the segments after it would be trained again
    assert f"{before[state.parent].relative_to(finished.path)}/encoder.safetensors" in finished.planned()


def test_fine_tuning_rate_of_one_baseline(finished: Clone) -> None:
    finished.set("scales.demo.baselines.mae.finetune", {"lr": {"base": 0.0042}})
    own = {file for file in finished.made() if file.startswith(f"{RESULTS}finetune/mae-") and "/progress/" not in file}
    # Two files; two backbones, MTO or not, four epochs, and one from scratch; four more decoder depths.
    assert len(own) == 2 * (2 * (2 * 4 + 1) + 4)
    names = ("table1_rauc", "fig4_epochs", "figS1_architectures", "figS2_decoder_depth")
    assert finished.planned() == own | reports(*names)


def test_mask_of_one_baseline(finished: Clone) -> None:
    finished.set("scales.demo.baselines.simmim.mask.ratio", 0.5)
    own = {file for file in finished.made() if "/simmim-" in file and SCRATCH not in file}
    curves = ("table1_rauc", "fig4_epochs", "figS1_architectures")
    names = (*curves, "table3_objectives", "table_knn", "fig1_heterogeneity", "fig2_affinity")
    assert finished.planned() == own | reports(*names)


def test_mto_leaves_the_plain_baselines(finished: Clone) -> None:
    finished.set(f"mto.presets.{load(finished.path / 'config.yaml').mto.default}.spa_weight", 0.5)
    planned = finished.planned()
    assert {file for file in finished.made() if "-mto" in file} <= planned
    assert not [file for file in planned if "-vit" in file and "-mto" not in file]


def test_a_preset_that_no_run_has_reruns_nothing(finished: Clone) -> None:
    finished.set("mto.presets.as_printed.spa_weight", 0.5)
    assert finished.planned() == set()  # the report shows the presets that runs have


def test_another_seed_plans_its_own_jobs(finished: Clone) -> None:
    finished.set("seeds", [0, 1])
    first = {file for file in finished.made() if "/seed0/" in file}
    shown = {
        file
        for file in finished.made()
        if "/tables/" in file or "/figures/" in file or file.endswith(("results.csv", "report.html"))
    }
    of_no_run = {file for file in shown if "fig3_method" in file or "audit" in file}
    assert finished.planned() == {file.replace("/seed0/", "/seed1/") for file in first} | shown - of_no_run


def test_forced_rerun_of_one_baseline_leaves_the_others(finished: Clone) -> None:
    before = {file: (finished.path / file).stat().st_mtime_ns for file in finished.made()}
    finished.snakemake("--cores", "4", "--quiet", "all", "--forceall", "conmim", MARK="again")
    after = {file: (finished.path / file).stat().st_mtime_ns for file in finished.made()}
    rerun = {file for file in after if after[file] != before[file]}
    datasets = {f"{RESULTS}data/{name}/manifest.json" for name in ("imagenet", "ade20k", "coco")}
    assert rerun == {file for file in before if "/conmim-" in file} | datasets
    assert finished.planned() == reports(
        "table1_rauc", "table2_linear", "table_knn", "tableS1_ade20k", "tableS2_coco", "fig4_epochs"
    )


def test_forcing_a_rule_for_a_target_keeps_to_the_target(finished: Clone) -> None:
    planned = finished.planned("mae", "--forcerun", "pretrain_segment")
    assert planned == {file for file in finished.made() if "/mae-" in file and SCRATCH not in file}


def test_a_task_is_given_its_job_its_inputs_and_its_hardware(finished: Clone) -> None:
    """The fake task wrote its arguments into its files."""
    step = "mae-vitb-mto/seed0/epoch0008"
    given = (finished.path / RESULTS / "pretrain" / step / "metrics.json").read_text().split(" ")
    assert given[0] == "pretrain"
    assert f"state={RESULTS}pretrain/mae-vitb-mto/seed0/epoch0004/state.pth" in given
    hardware = "--gpus 0 --nodes 1 --workers 0 --micro-batch 0 --compile --memory fast --deterministic strict"
    assert " ".join(given).endswith(f"--out {RESULTS}pretrain/{step} {hardware} --guard 10 --gradients 10 --prune")
    study = Study(load(finished.path / "config.yaml"))
    assert json.loads(given[given.index("--job") + 1]) == study.job(Step("pretrain", "mae-vitb-mto", 0, 8)).plain()
    given = (finished.path / RESULTS / "finetune" / step / "metrics.json").read_text().split(" ")
    assert f"encoder={RESULTS}pretrain/{step}/encoder.safetensors" in given


def test_an_imported_run_is_not_trained(clone: Clone) -> None:
    """Its last link stands, although earlier ones and the dataset's manifest are wanted and yet to be made."""
    folder = clone.path / RESULTS / "pretrain/mae-vitb/seed0/epoch0008"
    folder.mkdir(parents=True)
    for name in ("encoder.safetensors", "state.pth", "metrics.json", "history.jsonl", IMPORTED):
        (folder / name).write_text("imported")
    planned = clone.planned("mae")
    assert not [file for file in planned if "pretrain/mae-vitb/seed0/epoch0008" in file]
    assert f"{RESULTS}data/imagenet/manifest.json" in planned
    assert f"{RESULTS}pretrain/mae-vitb/seed0/epoch0004/state.pth" in planned
    assert f"{RESULTS}finetune/mae-vitb/seed0/epoch0008/metrics.json" in planned


def test_a_forced_job_is_told_to_start_over(clone: Clone) -> None:
    """Others continue: what is marked is what the user named, not what follows from it."""
    encoder = f"{RESULTS}pretrain/mae-vitb/seed0/epoch0008/encoder.safetensors"
    target = f"{RESULTS}linear/mae-vitb/seed0/epoch0008/metrics.json"
    clone.snakemake("--cores", "2", target)
    progress = [(clone.path / file).parent / "progress" for file in (encoder, target)]
    for folder in progress:
        folder.mkdir()
    clone.snakemake("-n", target, "--forcerun", encoder)
    (clone.path / target).unlink()
    clone.snakemake("--cores", "2", target)
    assert not any((folder / RESTART).exists() for folder in progress)
    clone.snakemake("--cores", "2", target, "--forcerun", encoder)
    assert [(folder / RESTART).exists() for folder in progress] == [True, False]
