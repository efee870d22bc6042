"""Hours, money and disk: by hand from round numbers, from what was measured, and as parts that add up."""

import json
from pathlib import Path

import pytest
from round_numbers import count

from mto.bench.cases import WITH_LOADER
from mto.bench.work import work_key
from mto.cost.amounts import amount, evaluations, loading_rates, size_of
from mto.cost.estimate import COUNTED, FINISHED, LIKE, PREFLIGHT, SCALED
from mto.cost.measured import is_card
from mto.cost.parts import longest, needed, parts, row, running
from mto.errors import UserError
from mto.names import Step

MAE = Step("pretrain", "mae-vitb", 0, 400)
FINE = Step("finetune", "mae-vitb", 0, 400)


def finish(study, step, hours, device="NVIDIA A100-SXM4-80GB", job=None):
    folder = Path(study.folder(step))
    folder.mkdir(parents=True)
    made = {"provenance": {"gpu_hours": hours, "wall_seconds": hours * 450, "gpus": 8, "device": device}}
    (folder / "metrics.json").write_text(json.dumps(made))
    (folder / "job.json").write_text(json.dumps({"job": job or study.job(step).plain()}))


def preflight(study, rates, device="NVIDIA A100-SXM4-80GB", step=MAE, alone=None):
    """What a preflight of a stage leaves: a row for each run that fitted.

    Args:
        rates: images a second, with the loader's 11 workers where the stage is measured with them.
        alone: the rate of the step without the loader, if it is another.
    """
    rows = []
    for run, rate in rates.items():
        job = study.job(step._replace(run=run))
        row = {key: getattr(job, key) for key in ("task", "baseline", "backbone")} | {"workers": 11}
        row |= {"mto": {"terms": job.mto.terms if step.task == "pretrain" else []}}
        measured = {"images_per_second": rate, "step_images_per_second": alone or rate}
        if step.task in WITH_LOADER:
            measured["both_images_per_second"] = rate
        measured = measured if rate else {"error": "out of memory at micro-batch 64"}
        rows.append(row | {"key": work_key(job), "train_flops": count(job).train} | measured)
    folder = Path(study.results, "preflight")
    folder.mkdir(parents=True)
    (folder / f"{step.task}.json").write_text(json.dumps({"machine": {"device": device, "gpus": 8}, "rows": rows}))


# ----------------------------------------------------------------------------------------------------------- by hand
def test_a_segment_trains_its_epochs_and_a_fine_tuning_evaluates_too(study):
    plan = study()
    steps = 1_281_167 // 4096
    segment = amount(plan.job(MAE), 300, size_of(plan.config, "pretrain"))
    assert segment == (100 * steps * 4096, 0, 100 * steps)
    fine = amount(plan.job(FINE), 0, size_of(plan.config, "finetune"))
    assert fine == (100 * (1_281_167 // 1024) * 1024, 25 * 50_000, 100 * (1_281_167 // 1024))
    assert evaluations(plan.job(FINE).changed(epochs=90, eval_interval=4)) == 23  # the last is one
    coco = amount(plan.job(Step("coco", "mae-vitb", 0, 800)), 0, size_of(plan.config, "coco"))
    assert coco == (25 * (117_266 // 64) * 64, 5000, 25 * (117_266 // 64))


def test_of_chosen_classes_only_their_images_are_counted(study):
    chosen = study(datasets={"imagenet": {"num_classes": 3, "classes": ["a", "b", "c"]}})
    sizes = {task: size_of(chosen.config, task) for task in ("finetune", "coco")}
    assert (sizes["finetune"].train, sizes["finetune"].val) == (3844, 150)  # 3 of 1,000 classes
    assert sizes["coco"] == size_of(study().config, "coco")
    assert work_key(chosen.job(MAE)) != work_key(
        study().job(MAE)
    )  # its head has fewer classes; by name they are none of it
    assert "classes" not in json.loads(work_key(chosen.job(MAE)))["data"]


def test_hours_are_operations_by_the_cards_rate(study, costs):
    plan = study(plan={"card": "rtx3090", "startup_minutes": 6})
    cost = costs(plan)[MAE]
    trained = 100 * (1_281_167 // 4096) * 4096
    assert cost.gpu_hours == pytest.approx(trained * 60e9 / (71e12 * 0.40) / 3600 + 8 * 0.1)
    assert cost.wall_hours == pytest.approx(cost.gpu_hours / 8)
    assert cost.basis == COUNTED
    last = costs(plan)[MAE._replace(epoch=800)]
    assert last.disk_bytes > 4 * (80e6 + 310e6) > 0.98 * last.disk_bytes  # the encoder; weights, two moments, the fixed
    assert cost.disk_bytes > 4 * (80e6 + 110e6) > 0.98 * cost.disk_bytes  # no moments where a segment continued it
    assert cost.running_bytes == 2 * 4 * 310e6 + 2 * 4 * 100e6  # the moments of the state that it continues, too
    assert costs(plan)[MAE._replace(epoch=100)].running_bytes == 2 * 4 * 310e6


def test_a_fast_card_waits_for_the_loader(study, costs):
    fast = study(plan={"cards": {"a100": {"tflops": 100_000, "utilisation": 1.0, "price_per_gpu_hour": 1.0}}})
    cost = costs(fast)[MAE]
    rate = fast.config.plan.images_per_core["mae"]
    assert cost.wall_hours == pytest.approx(cost.amount.trained / (88 * rate) / 3600 + 0.05)


def test_a_cache_spares_the_decoding(study, costs):
    cards = {"a100": {"tflops": 100_000, "utilisation": 1.0, "price_per_gpu_hour": 1.0}}
    plan = {"cards": cards, "images_per_core": {"mae": 300}, "decoded_per_core": 600}
    cost = costs(study(plan=plan, datasets={"imagenet": {"cache": {"side": 256}}}))[MAE]
    assert cost.wall_hours == pytest.approx(cost.amount.trained / (88 * 600) / 3600 + 0.05)
    assert cost.read_bytes == pytest.approx(cost.amount.trained * 256 * 256 * 4)
    with pytest.raises(UserError, match="decoded_per_core: must be above"):
        study(plan={"decoded_per_core": 200})


def test_files_for_the_device_are_read_at_a_rate_of_their_own(study, costs):
    """Of pre-training and probes; an evaluation's images are decoded as ever, and so are fine-tuning's."""
    cards = {"a100": {"tflops": 100_000, "utilisation": 1.0, "price_per_gpu_hour": 1.0}}
    plan = {"cards": cards, "files_per_core": 900}
    chosen = study(plan=plan, datasets={"imagenet": {"decode": "device"}})
    cost = costs(chosen)[MAE]
    assert cost.wall_hours == pytest.approx(cost.amount.trained / (88 * 900) / 3600 + 0.05)
    assert cost.read_bytes == pytest.approx(cost.amount.trained * 108e3)
    rates = chosen.config.plan.images_per_core
    assert loading_rates(chosen.config, chosen.job(MAE._replace(task="linear"))) == (900, rates["linear"])
    assert loading_rates(chosen.config, chosen.job(MAE._replace(task="finetune"))) == 2 * (rates["finetune"],)


def test_mtos_share_is_what_the_run_without_it_would_not_take(study, costs):
    """Products by the card's float32 rate, all else by its bandwidth; on a card without these, by operations alone."""
    own = {"tflops": 100, "utilisation": 0.5, "price_per_gpu_hour": 0}
    roofs = {"float32_tflops": 20, "memory_tb_per_s": 1}
    cards = {"bare": own, "known": own | roofs}
    plan = {"cards": cards, "startup_minutes": 0, "roofline": 0.5}
    for card, share in (("bare", 0.1), ("known", ((6e9 / 20e12 + 9e6 / 1e12) / 0.5) / (60e9 / 50e12))):
        found = costs(study(plan=plan | {"card": card}))
        without, with_mto = found[MAE], found[MAE._replace(run="mae-vitb-mto")]
        more = with_mto.gpu_hours - without.gpu_hours
        assert with_mto.mto_hours == pytest.approx(more) == pytest.approx(share * without.gpu_hours), card
        assert without.mto_hours == 0


def test_on_cpus_hours_are_hours_and_cost_nothing(study, costs):
    plan = study("demo")
    found = costs(plan)
    assert all(cost.gpus == 1 and cost.gpu_hours == cost.wall_hours > 0 for cost in found.values())
    assert row(parts(plan)[-1], found, 2, 0.0)["cost"] == 0


# ---------------------------------------------------------------------------------------------------------- measured
def test_finished_jobs_count_as_they_were_and_foretell_their_like(study, costs):
    plan = study()
    first = MAE._replace(epoch=100)
    finish(plan, first, 50.0)
    found = costs(plan)
    assert (found[first].gpu_hours, found[first].wall_hours, found[first].left) == (50.0, 50 / 8, False)
    assert found[first].basis == FINISHED
    last = found[MAE._replace(epoch=800)]  # 400 epochs
    assert (last.basis, last.gpu_hours) == (LIKE, pytest.approx(200.0))
    assert found[MAE._replace(run="mae-vitb-mto")].basis == COUNTED


def test_a_job_that_would_run_again_is_not_finished_nor_what_depends_on_it(study, costs):
    plan = study()
    first, second = MAE._replace(epoch=100), MAE._replace(epoch=200)
    finish(plan, first, 50.0, job={**plan.job(first).plain(), "precision": "fp16"})
    finish(plan, second, 50.0)
    found = costs(plan)
    assert found[first].left
    assert found[second].left


def test_another_cards_measurements_are_left_out(study, costs):
    plan = study()
    finish(plan, MAE._replace(epoch=100), 50.0, device="NVIDIA H100 80GB HBM3")
    found = costs(plan)
    assert found[MAE._replace(epoch=100)].basis == FINISHED  # paid for, whatever it ran on
    assert found[MAE].basis == COUNTED


def test_a_preflight_gives_the_rate_of_its_work_and_of_what_is_near(study, costs):
    plan = study(plan={"startup_minutes": 0})
    preflight(plan, {"mae-vitb": 1000.0, "mae-vitb-mto": 800.0, "simmim-vitb": None, "mae-vitl": 300.0})
    found = {run: costs(plan)[MAE._replace(run=run)] for run in {step.run for step in costs(plan)}}
    mae, with_mto, depth = (found[run] for run in ("mae-vitb", "mae-vitb-mto", "mae-vitb-mto-depth2"))
    assert (mae.basis, with_mto.basis, depth.basis) == (PREFLIGHT, PREFLIGHT, SCALED)
    assert mae.gpu_hours == pytest.approx(mae.amount.trained / 1000 / 3600)
    assert with_mto.mto_hours == pytest.approx(0.2 * with_mto.gpu_hours)  # a fifth of the time, whatever was counted
    assert depth.gpu_hours == pytest.approx(4 * with_mto.gpu_hours)  # one segment, of the same operations an image here
    assert found["simmim-vitb"].basis == COUNTED  # it did not fit
    large = found["mae-vitl-mto"]
    assert large.basis == COUNTED  # what MTO costs is not known of a run without it
    assert large.mto_hours == pytest.approx(large.gpu_hours * 6 / 66)


def test_a_measured_rate_is_no_more_than_the_jobs_cores_can_read(study, costs):
    few = study(plan={"startup_minutes": 0}, resources={"pretrain": {"cpus_per_task": 32}})
    preflight(few, {"mae-vitb": 3300.0}, step=MAE)  # on one GPU, whose 11 workers had a core each
    cost = costs(few)[MAE]
    assert cost.basis == PREFLIGHT
    known = few.config.plan.images_per_core["mae"]
    assert cost.wall_hours == pytest.approx(cost.amount.trained / (32 * known) / 3600)  # not 26,400 images a second


@pytest.mark.parametrize(("cpus", "rate"), [(96, 8 * 5500), (32, 32 * 500)])
def test_cores_that_were_measured_to_be_faster_are(study, costs, cpus, rate):
    fast = study(plan={"startup_minutes": 0}, resources={"pretrain": {"cpus_per_task": cpus}})
    preflight(fast, {"mae-vitb": 5500.0})  # 500 of each worker
    cost = costs(fast)[MAE]
    assert cost.wall_hours == pytest.approx(cost.amount.trained / rate / 3600)


def test_what_was_measured_without_a_loader_waits_for_one(study, costs):
    """Of ADE20K and COCO the step alone is measured."""
    plan = study(plan={"startup_minutes": 0})
    coco = Step("coco", "mae-vitb", 0, 800)
    preflight(plan, {"mae-vitb": 900.0}, step=coco)
    asked, cost = plan.resources("coco"), costs(plan)[coco]
    read = min(8 * asked.workers, asked.cpus_per_task) * plan.config.plan.images_per_core["coco"]
    assert read < 8 * 900
    assert cost.wall_hours == pytest.approx((cost.amount.trained + cost.amount.evaluated) / read / 3600)


def test_with_a_cache_the_files_that_were_measured_set_no_pace(study, costs):
    plan = study(plan={"startup_minutes": 0}, datasets={"imagenet": {"cache": {"side": 256}}})
    preflight(plan, {"mae-vitb": 3000.0}, alone=3500.0)
    cost = costs(plan)[MAE]
    assert cost.wall_hours == pytest.approx(cost.amount.trained / (8 * 3500) / 3600)
    preflight_file = Path(plan.results, "preflight", "pretrain.json")
    preflight_file.unlink()
    preflight_file.parent.rmdir()
    preflight(plan, {"mae-vitb": 3000.0}, alone=35000.0)  # but the cache does
    known = plan.config.plan
    cached = 1 / (1 / known.images_per_core["mae"] - 1 / known.decoded_per_core)
    assert costs(plan)[MAE].wall_hours == pytest.approx(cost.amount.trained / (88 * cached) / 3600)


def test_a_card_is_known_by_its_devices_name():
    assert is_card("a10", "NVIDIA A10", 1)
    assert not is_card("a10", "NVIDIA A100-SXM4-80GB", 1)
    assert not is_card("l4", "NVIDIA L40S", 1)
    assert not is_card("309", "NVIDIA GeForce RTX 3090", 1)
    assert is_card("RTX 3090", "NVIDIA GeForce RTX 3090", 8)
    assert not is_card("a100", None, 1)
    assert is_card("rtx3090", "NVIDIA GeForce RTX 3090", 8)
    assert is_card("h100", "NVIDIA H100 80GB HBM3", 1)
    assert not is_card("a100", "NVIDIA H100 80GB HBM3", 1)
    assert is_card("cpu", "Intel(R) Xeon(R) Processor", 0)
    assert not is_card("a100", "Intel(R) Xeon(R) Processor", 0)


# -------------------------------------------------------------------------------------------------------------- parts
def test_stages_methods_and_backbones_each_add_up_to_the_whole(study, costs):
    plan = study()
    found = costs(plan)
    rows = [row(part, found, 8, 2.0) for part in parts(plan)]
    whole = rows[-1]
    assert whole["part"] == "the study"
    for kind in ("stage", "method", "backbone"):
        for key in ("jobs", "gpu_hours", "cost", "disk_gb", "read_tb", "evaluation_gpu_hours", "mto_gpu_hours"):
            assert sum(row[key] for row in rows if row["kind"] == kind) == pytest.approx(whole[key])
    assert sum(row["gpu_hours"] for row in rows if row["kind"] == "table") > whole["gpu_hours"]
    assert whole["cost"] == pytest.approx(2 * whole["gpu_hours"])
    assert all(value is not None and value != "" for each in rows for value in each.values())


def test_what_a_table_costs_alone_and_saves_when_it_is_left_out(study, costs):
    plan = study()
    found = costs(plan)
    rows = {part.name: row(part, found, 8, 1.0) for part in parts(plan)}
    assert rows["fig4_epochs"]["gpu_hours_saved_without"] == 0  # Table 1 shows the same
    depths = [cost for step, cost in found.items() if "depth" in step.run or step == ("linear", "mae-vitb-mto", 0, 400)]
    only = sum(cost.gpu_hours for cost in depths if cost.step.run != "mae-vitb-mto")
    assert rows["figS2_decoder_depth"]["gpu_hours_saved_without"] == pytest.approx(only)
    large = sum(cost.gpu_hours for step, cost in found.items() if "vitl" in step.run)
    assert rows["vitl"]["gpu_hours_saved_without"] == pytest.approx(large)
    assert rows["coco"]["gpu_hours_saved_without"] == pytest.approx(rows["coco"]["gpu_hours"])
    assert rows["pretrain"]["gpu_hours_saved_without"] == pytest.approx(rows["the study"]["gpu_hours"])


def test_a_table_needs_the_segments_up_to_its_last_epoch(study):
    plan = study()
    jobs = needed(plan, [FINE])
    assert jobs == {FINE, *(MAE._replace(epoch=epoch) for epoch in (100, 200, 300, 400))}


def test_the_longest_chain_is_a_runs_segments_and_a_measurement(study, costs):
    found = costs(study())
    chain = [found[MAE._replace(epoch=epoch)].wall_hours for epoch in (100, 200, 300, 400)]
    assert longest(found[step] for step in needed(study(), [FINE])) == pytest.approx(
        sum(chain) + found[FINE].wall_hours
    )
    assert longest([]) == 0


def test_checkpoints_of_the_jobs_that_run_at_once(study, costs):
    found = costs(study()).values()
    each = 2 * 4 * 310e6 + 2 * 4 * 100e6
    assert running(found, 8) == each
    assert running(found, 24) == 3 * each
    assert running([], 8) == 0
