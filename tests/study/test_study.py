"""The experiment plan: names of runs, the paper's grid in full, and jobs that hold what a task needs and no more."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mto.config import load
from mto.config.layers import SCALES
from mto.config.study_plan import REPORTS
from mto.errors import UserError
from mto.names import BASELINES, STAGES, TERMS, Run, Step
from mto.study.study import AUDIT, FIGURES, OURS, PRESETS, TABLES, Study

ROOT = Path(__file__).parents[2]
RAW = yaml.safe_load((ROOT / "config.yaml").read_text())
EPOCHS = (100, 200, 300, 400, 800)
FIVE = ("simmim-vitb", "mae-vitb", "mae-vitl", "bootmae-vitb", "conmim-vitb")


def study(scale: str = "paper", **keys: Any) -> Study:
    """The study of config.yaml, some keys set: `study__table2_linear__epochs=[...]`."""
    whole = json.loads(json.dumps(RAW))
    for key, value in keys.items():
        *parents, last = key.split("__")
        node = whole
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return Study(load(whole, scale=scale))


@pytest.fixture(scope="module")
def paper() -> Study:
    return study()


# ---------------------------------------------------------------------------------------------------------------- runs
@pytest.mark.parametrize(
    ("name", "run"),
    [
        ("mae-vitb", Run("mae", "vitb")),
        ("mae-vitl-mto", Run("mae", "vitl", TERMS)),
        ("simmim-vitb-mto_spa", Run("simmim", "vitb", ("spa",))),
        ("simmim-vitb-mto_e_r", Run("simmim", "vitb", ("e", "r"))),
        ("mae-vitb-mto-depth2", Run("mae", "vitb", TERMS, 2)),
        ("mae-vitb-mto@text", Run("mae", "vitb", TERMS, preset="text")),
        ("mae-vitb-mto_e@as_printed-depth2", Run("mae", "vitb", ("e",), 2, "as_printed")),
    ],
)
def test_names(name: str, run: Run) -> None:
    assert run.name == name
    assert Run.parse(name) == run


@given(
    st.sampled_from(list(BASELINES)),
    st.sampled_from(["vitb", "vitl"]),
    st.sets(st.sampled_from(TERMS)),
    st.none() | st.integers(1, 99),
    st.none() | st.from_regex("[a-z0-9_]+", fullmatch=True),
)
def test_every_name_is_read_back(
    baseline: str, backbone: str, terms: set[str], depth: int | None, preset: str | None
) -> None:
    run = Run(baseline, backbone, tuple(term for term in TERMS if term in terms), depth, preset if terms else None)
    assert Run.parse(run.name) == run


@pytest.mark.parametrize(
    "name",
    [
        *("mae", "mae-vitx", "beit-vitb", "mae-vitb-mto_spa_e_r", "mae-vitb-mto_e_spa", "mae-vitb-depth"),
        *("mae-vitb-mto_x", "mae-vitb@text", "mae-vitb-mto@", "mae-vitb-mto@Text", "mae-vitb-mto@a-b"),
        "mae-vitb-mto-depth2@text",
    ],
)
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(UserError, match=f"no such run: '{name}'"):
        Run.parse(name)


# ------------------------------------------------------------------------------------------------------------ the grid
def test_the_paper_in_numbers(paper: Study) -> None:
    assert len(paper.runs()) == 21
    counts = Counter(step.task for step in [*paper.segments(), *paper.steps()])
    # ten runs in five segments, ten (ablations, decoder depths) in one, and ours, MAE with the preset `text`, in two
    assert counts == {"pretrain": 62, "finetune": 62, "linear": 22, "ade20k": 9, "coco": 9, "heterogeneity": 4}


def test_the_ablations_end_half_way(paper: Study) -> None:
    """Table 3 and supplementary Figure 2 are measured at 400: their own runs are trained no further."""
    ends = {run.name: max(s.epoch for s in paper.segments() if s.run == run.name) for run in paper.runs()}
    main = {run for name in FIVE for run in (name, f"{name}-mto")} | {"mae-vitb-mto@text"}
    assert {run for run, end in ends.items() if end == 800} == main
    assert {end for run, end in ends.items() if run not in main} == {400}
    assert sum(ends.values()) == 11 * 800 + 10 * 400


def test_figure_4_is_ten_runs_at_five_epochs(paper: Study) -> None:
    runs = [run for name in FIVE for run in (name, f"{name}-mto")]
    assert {(s.run, s.epoch) for s in paper.steps("fig4_epochs")} == {(run, e) for run in runs for e in EPOCHS}
    assert paper.steps("table1_rauc") == paper.steps("fig4_epochs")


def test_table_2_has_no_simmim(paper: Study) -> None:
    steps = paper.steps("table2_linear")
    assert {step.run.removesuffix("-mto") for step in steps} == set(FIVE) - {"simmim-vitb"}
    assert {step.epoch for step in steps if step.run.endswith("-mto")} == {400, 800}
    assert {step.epoch for step in steps if not step.run.endswith("-mto")} == {400, 800}
    assert {step.task for step in steps} == {"linear"}


def test_table_3_is_seven_subsets(paper: Study) -> None:
    runs = [cell.run.removeprefix("simmim-vitb-mto") for cell in paper.cells("table3_objectives")]
    assert runs == ["_spa", "_e", "_r", "_spa_e", "_spa_r", "_e_r", ""]


@pytest.mark.parametrize(("table", "metrics"), [("tableS1_ade20k", ["mIoU"]), ("tableS2_coco", ["box_ap", "mask_ap"])])
def test_transfer_tables_are_nine_rows(paper: Study, table: str, metrics: list[str]) -> None:
    rows = list(dict.fromkeys((cell.run, cell.epoch) for cell in paper.cells(table)))
    expected = [
        (f"{name}-vitb{mto}", e)
        for name in ("mae", "bootmae", "conmim")
        for mto, e in (("", 800), ("-mto", 400), ("-mto", 800))
    ]
    assert rows == expected
    assert [cell.metric for cell in paper.cells(table)] == metrics * 9


def test_decoder_depths_share_the_default_with_the_main_run(paper: Study) -> None:
    runs = {cell.run for cell in paper.cells("figS2_decoder_depth")}
    assert runs == {"mae-vitb-mto", *(f"mae-vitb-mto-depth{depth}" for depth in (1, 2, 4, 12))}
    assert paper.job(Step("pretrain", "mae-vitb-mto", 0, 800)).plain()["method"]["decoder_depth"] == 8
    assert paper.job(Step("pretrain", "mae-vitb-mto-depth2", 0, 800)).plain()["method"]["decoder_depth"] == 2


def test_every_measurement_has_its_segment_and_every_segment_its_predecessor(paper: Study) -> None:
    segments = set(paper.segments())
    for step in paper.steps():
        assert step._replace(task="pretrain") in segments
    for step in segments:
        previous = paper.previous(step)
        assert previous is None or previous in segments

    def before(run: str, epoch: int) -> int | None:
        previous = paper.previous(Step("pretrain", run, 0, epoch))
        assert previous is None or (previous.run, previous.seed) == (run, 0)
        return previous and previous.epoch

    assert [before("mae-vitb", epoch) for epoch in EPOCHS] == [None, 100, 200, 300, 400]
    assert before("mae-vitb-mto-depth2", 400) is None
    named = [before("mae-vitb-mto@as_printed", epoch) for epoch in EPOCHS]  # asked for by name, in no table
    assert named == [None, 100, 200, 300, 400]


def test_only_the_segments_that_something_needs() -> None:
    plan = study(study__figS2_decoder_depth__epoch=200)
    assert max(s.epoch for s in plan.segments() if "depth2" in s.run) == 200


def test_seeds_multiply_the_steps_and_not_the_cells() -> None:
    one, two = study(), study(seeds=[0, 7])
    assert len(two.steps()) == 2 * len(one.steps())
    assert len(two.segments()) == 2 * len(one.segments())
    assert {report: two.cells(report) for report in REPORTS} == {report: one.cells(report) for report in REPORTS}


def test_targets_divide_the_steps(paper: Study) -> None:
    every = sorted([*paper.segments(), *paper.steps()])
    assert sorted(step for name in BASELINES for step in paper.select(name)) == every
    assert sorted(step for name in STAGES for step in paper.select(name)) == every
    assert paper.select("analysis") == paper.select("heterogeneity")


def test_the_demo_is_the_same_study_with_fewer_epochs() -> None:
    demo = study("demo")
    assert demo.runs() == study(study__table_presets=None).runs()
    assert {step.epoch for step in demo.segments()} == {1, 2, 4, 8}
    assert set(TABLES) | set(FIGURES) == {*REPORTS, AUDIT} - {*OURS}


# ----------------------------------------------------------------------------------------------------------- mistakes
@pytest.mark.parametrize(
    ("keys", "match"),
    [
        ({"study__table2_linear__baselines": ["simmim-vitl"]}, r"simmim-vitl.*baselines\.simmim\.backbones has: vitb"),
        ({"study__figS2_decoder_depth__baseline": "simmim-vitb"}, "simmim-vitb has no decoder"),
    ],
)
def test_a_run_that_cannot_be(keys: dict[str, Any], match: str) -> None:
    with pytest.raises(UserError, match=match):
        study(**keys)


def test_an_epoch_that_nobody_measures(paper: Study) -> None:
    with pytest.raises(UserError, match=r"measured_epochs has no epoch 500"):
        paper.job(Step("finetune", "mae-vitb", 0, 500)).plain()


# --------------------------------------------------------------------------------------------------------------- jobs
def jobs(plan: Study) -> dict[Step, dict[str, Any]]:
    return {step: plan.job(step).plain() for step in [*plan.segments(), *plan.steps()]}


@pytest.mark.parametrize("scale", SCALES)
def test_jobs_are_plain_sorted_json(scale: str) -> None:
    for job in jobs(study(scale)).values():
        assert json.loads(json.dumps(job)) == job
        assert list(job) == sorted(job)
        assert json.dumps(job) == json.dumps(job, sort_keys=True)


def test_a_job_names_its_step(paper: Study) -> None:
    for step, job in jobs(paper).items():
        assert (job["task"], job["run"], job["seed"], job["epoch"]) == step
        assert job["run"].startswith(f"{job['baseline']}-{job['backbone']}")


def test_no_hardware_in_a_job() -> None:
    hardware = {"gpu": 1, "cpus_per_task": 3, "mem_mb": 5, "runtime": 7, "workers": 9, "micro_batch": None}
    other = study(resources=dict.fromkeys((*STAGES, "dataset"), hardware))
    assert jobs(other) == jobs(study())
    assert other.resources("coco").runtime == 7


def differing(keys: dict[str, Any], scale: str = "paper") -> set[tuple[str, str]]:
    """(task, baseline) of the jobs that a change of config alters."""
    before, after = jobs(study(scale)), jobs(study(scale, **keys))
    return {(step.task, step.run.split("-")[0]) for step in before if before[step] != after[step]}


@pytest.mark.parametrize(
    ("keys", "altered"),
    [
        ({"baselines__mae__finetune__lr__base": 0.1}, {("finetune", "mae")}),
        ({"baselines__conmim__linear__epochs": 3}, {("linear", "conmim")}),
        ({"baselines__bootmae__ade20k__layer_decay": 0.5}, {("ade20k", "bootmae")}),
        ({"baselines__bootmae__coco__layer_decay": 0.5}, {("coco", "bootmae")}),
        ({"baselines__simmim__mask__ratio": 0.5}, {("pretrain", "simmim"), ("heterogeneity", "simmim")}),
        ({"mto__presets__cosine__r_weight": 0.5}, {("pretrain", name) for name in BASELINES}),
        ({"mto__presets__text__r_weight": 0.5}, {("pretrain", "mae")}),
        ({"mto__presets__as_printed__r_weight": 0.5}, set()),
        ({"mto__guard": None, "mto__gradient_interval": 3}, set()),
        ({"analysis__images": 7}, {("heterogeneity", "mae"), ("heterogeneity", "simmim")}),
        (
            {"datasets__imagenet__decode": "device"},
            {("pretrain", name) for name in BASELINES} | {("linear", name) for name in BASELINES if name != "simmim"},
        ),
        ({"datasets__imagenet__decode": "workers"}, set()),
        ({"scales__demo__analysis__images": 48}, set()),
    ],
)
def test_an_edit_alters_the_jobs_that_it_touches(keys: dict[str, Any], altered: set[tuple[str, str]]) -> None:
    assert differing(keys) == altered


def test_chosen_classes_are_in_every_job_that_reads_images(tmp_path: Path) -> None:
    """Other classes are other numbers, so that nothing finished or begun with these may be taken for those."""
    (tmp_path / "two.txt").write_text("# mine\nn02\n\n  n01  \n")
    keys = {"datasets__imagenet__num_classes": 2, "datasets__imagenet__classes": ["n02", "n01"]}
    listed, read = study(**keys), study(**keys | {"datasets__imagenet__classes": str(tmp_path / "two.txt")})
    for step, job in jobs(listed).items():
        assert job["data"].get("classes") == (None if step.task in ("ade20k", "coco") else ["n01", "n02"])
    assert listed.data_job("imagenet").plain()["classes"] == ["n01", "n02"]
    assert jobs(listed) == jobs(read)
    assert listed.data_job("imagenet").plain() == read.data_job("imagenet").plain()
    every = study()
    assert not [job for job in jobs(every).values() if "classes" in job["data"]]
    assert "classes" not in every.data_job("imagenet").plain()


def test_who_decodes_is_in_the_jobs_where_it_is_not_the_workers() -> None:
    """Without a key of its own the job of the default is the job of before there was a choice."""
    assert not [job for job in jobs(study()).values() if "decode" in job["data"]]
    on_device = {step.task for step, job in jobs(study(datasets__imagenet__decode="device")).items() if _decodes(job)}
    assert on_device == {"pretrain", "linear"}
    assert (
        study().data_job("imagenet").plain() == study(datasets__imagenet__decode="device").data_job("imagenet").plain()
    )


def _decodes(job: dict[str, Any]) -> bool:
    return job["data"].get("decode") == "device"


def test_mto_is_in_the_jobs_of_its_runs_alone(paper: Study) -> None:
    assert paper.job(Step("pretrain", "mae-vitb", 0, 100)).plain()["mto"] == {"terms": []}
    assert paper.job(Step("pretrain", "simmim-vitb-mto_spa_e", 0, 100)).plain()["mto"]["terms"] == ["spa", "e"]
    for step in paper.select("finetune"):
        assert "mto" not in paper.job(step).plain()


def shown(*runs: str) -> dict[str, Any]:
    """Keys that make Figure 2 show these runs, at the paper scale's last epoch."""
    return {"study__fig2_affinity__models": {run: [800] for run in runs}}


def test_presets_stand_side_by_side() -> None:
    runs = ("simmim-vitb-mto", "simmim-vitb-mto@as_printed")
    plan = study(**shown(*runs))
    default, other = (plan.job(Step("pretrain", run, 0, 800)).plain()["mto"] for run in runs)
    assert (default["rank_direction"], other["rank_direction"]) == ("decreasing", "as_printed")
    assert other == {**plan.config.mto.presets["as_printed"].model_dump(), "terms": ["spa", "e", "r"]}
    assert {Step("pretrain", run, 0, 800) for run in runs} <= set(plan.segments())
    folder = "results/paper/pretrain/simmim-vitb-mto@as_printed/seed0/epoch0800"
    assert plan.folder(Step("pretrain", runs[1], 0, 800)) == folder


@pytest.mark.parametrize("preset", ["cosine", "as_printed"])
def test_an_edited_preset_alters_the_pretraining_of_its_runs_alone(preset: str) -> None:
    keys = shown("simmim-vitb-mto", "simmim-vitb-mto@as_printed")
    plan, edited = study(**keys), study(**keys, **{f"mto__presets__{preset}__r_weight": 0.5})
    before, after = jobs(plan), jobs(edited)
    altered = {step for step in before if before[step] != after[step]}
    default = preset == plan.config.mto.default
    own = {run.name for run in plan.runs() if run.terms and run.preset == (None if default else preset)}
    assert own
    assert altered == {step for step in plan.segments() if step.run in own}


@pytest.mark.parametrize(
    ("run", "match"),
    [
        ("simmim-vitb-mto@none", r"simmim-vitb-mto@none: no such preset \(mto.presets has: text, as_printed"),
        ("simmim-vitb-mto@cosine", r"'cosine' is mto.default, so that this run is called simmim-vitb-mto$"),
    ],
)
def test_a_run_has_one_name_and_a_preset_that_exists(paper: Study, run: str, match: str) -> None:
    with pytest.raises(UserError, match=match):
        study(**shown(run))
    with pytest.raises(UserError, match=match):
        paper.job(Step("finetune", run, 0, 800)).plain()


ASKED = {"baselines": ["mae-vitb", "conmim-vitb"], "presets": ["cosine", "text"], "epochs": [800]}


def test_the_table_of_presets_is_made_where_it_is_asked_for(paper: Study) -> None:
    """At the paper and small scales the paper's own equations stand beside the default, for one baseline."""
    default = [(cell.run, cell.epoch) for cell in paper.cells(PRESETS) if cell.task == "linear"]
    assert default == [(run, e) for run in ("mae-vitb", "mae-vitb-mto", "mae-vitb-mto@text") for e in (400, 800)]
    assert {cell.epoch for cell in study("small").cells(PRESETS)} == {100, 200}
    assert PRESETS not in {*study("demo").tables, *study("mini").tables}
    without = study(study__table_presets=None)
    plan = study(scales__paper__study__table_presets=ASKED)
    assert plan.tables == (*without.tables, PRESETS)
    names = [f"{base}{mto}" for base in ASKED["baselines"] for mto in ("", "-mto", "-mto@text")]
    cells = [(cell.run, cell.task, cell.epoch) for cell in plan.cells(PRESETS)]
    assert cells == [(name, task, 800) for name in names for task in ("finetune", "linear")]
    assert {run.name for run in plan.runs() - without.runs()} == {"mae-vitb-mto@text", "conmim-vitb-mto@text"}
    with pytest.raises(UserError, match="mto@worst: no such preset"):
        study(scales__paper__study__table_presets=ASKED | {"presets": ["worst"]})


def test_half_a_question_about_presets_is_refused() -> None:
    with pytest.raises(UserError, match=r"scales\.paper\.study\.table_presets\.presets: needs at least 1"):
        study(scales__paper__study__table_presets=ASKED | {"presets": []})


# ----------------------------------------------------------------------------------------------------------- the pilot
def test_the_pilot_is_the_studys_own_pretraining_stopped_early(paper: Study) -> None:
    job, whole = (
        paper.pilot_job("mae-vitb-mto", 0, 48).plain(),
        paper.job(Step("pretrain", "mae-vitb-mto", 0, 100)).plain(),
    )
    assert {key for key in whole if job[key] != whole[key]} == {"epoch"}
    assert (job["epoch"], job["epochs"]) == (48, 800)
    for run, warmup in paper.pilot_report_job()["runs"].items():
        assert warmup < 48, run  # else its table could say nothing
    with pytest.raises(UserError, match=r"pilot\.epochs is 48, not 100"):
        paper.pilot_job("mae-vitb-mto", 0, 100).plain()


def test_the_pilot_is_no_part_of_the_study(paper: Study) -> None:
    folders = paper.pilot_folders()
    assert len(folders) == len(set(folders)) == 8
    assert "results/paper/pilot/conmim-vitb-mto/seed0/epoch0048" in folders
    assert not {paper.folder(step) for step in [*paper.segments(), *paper.steps()]} & set(folders)
    other = study(pilot={"baselines": ["mae-vitl"], "presets": ["text"], "epochs": 7})
    assert jobs(other) == jobs(paper)
    assert [folder.split("/")[3] for folder in other.pilot_folders()] == ["mae-vitl", "mae-vitl-mto@text"]
    with pytest.raises(UserError, match="mae-vitl-mto@worst: no such preset"):
        study(pilot={"baselines": ["mae-vitl"], "presets": ["worst"], "epochs": 7})


def test_a_drawing_knows_no_seeds_and_a_table_does() -> None:
    plan = study(seeds=[0, 1])
    assert plan.report_job("fig3_method")["seeds"] == []
    assert plan.report_job(AUDIT)["seeds"] == []
    assert plan.report_job("table1_rauc")["seeds"] == [0, 1]


def test_data_jobs() -> None:
    assert study().data_job("coco").plain()["make"] is None
    assert study("demo").data_job("coco").plain()["make"]["size"] > 0


def test_folders_carry_identity_only(paper: Study) -> None:
    assert (
        paper.folder(Step("finetune", "mae-vitb-mto", 3, 400)) == "results/paper/finetune/mae-vitb-mto/seed3/epoch0400"
    )


# ---------------------------------------------------------------------------------------------------- from scratch
def test_every_accuracy_has_one_from_scratch_beside_it_where_the_study_asks() -> None:
    plain, asked = study(), study(study__from_scratch=True)
    for report in REPORTS:
        assert asked.cells(report) == plain.cells(report)
        assert plain.scratch(report) == []
        wanted = {
            (cell.task, Run.parse(cell.run).baseline, Run.parse(cell.run).backbone, cell.metric)
            for cell in plain.cells(report)
            if cell.task != "heterogeneity"
        }
        found = asked.scratch(report)
        runs = [Run.parse(cell.run) for cell in found]
        given = [(c.task, r.baseline, r.backbone, c.metric) for c, r in zip(found, runs, strict=True)]
        assert sorted(given) == sorted(wanted)
        assert all(cell.epoch == 0 and not run.terms for cell, run in zip(found, runs, strict=True))
    assert asked.segments() == plain.segments()  # nothing is pre-trained for it
    added = set(asked.steps()) - set(plain.steps())
    assert {step.epoch for step in added} == {0}
    assert not {step.task for step in added} & {"pretrain", "heterogeneity"}


def test_a_job_from_scratch_is_the_same_job_with_the_encoder_of_before_pretraining() -> None:
    asked = study(study__from_scratch=True)
    scratch, last = (asked.job(Step("finetune", "mae-vitb", 0, epoch)).plain() for epoch in (0, 800))
    assert scratch.pop("method") == asked.job(Step("pretrain", "mae-vitb", 0, 800)).plain()["method"]
    assert {key for key in last if last[key] != scratch[key]} == {"epoch"}
    with pytest.raises(UserError, match="no epoch 0"):
        asked.job(Step("pretrain", "mae-vitb", 0, 0)).plain()
    with pytest.raises(UserError, match="no epoch 0"):
        study().job(Step("finetune", "mae-vitb", 0, 0)).plain()


def test_a_table_that_is_null_is_not_made_and_its_jobs_are_not_run() -> None:
    whole, less = study(), study(study__tableS2_coco=None)
    assert set(whole.tables) - set(less.tables) == {"tableS2_coco"}
    assert {step.task for step in set(whole.steps()) - set(less.steps())} == {"coco"}
    demo = study("demo", study__tableS2_coco=None)  # whose own keys of it are not a whole table
    assert set(demo.tables) - {*OURS} == set(less.tables) - {*OURS}
    with pytest.raises(UserError, match=r"study\.tableS2_coco is null at scale paper"):
        less.report_job("tableS2_coco")
