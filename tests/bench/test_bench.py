"""`python -m mto bench`: what it counts is right, every stage runs, MTO stays a small part of a step's operators."""

import json

import pytest
import torch

from mto.bench import measure, run
from mto.bench.cli import COLUMNS, main
from mto.bench.counting import count
from mto.bench.rows import table
from mto.bench.workloads import build, job_of
from mto.config import load
from mto.names import BASELINES
from mto.study.study import Study
from typed_jobs import typed

#: Operators that MTO adds to a forward and backward pass of ViT-B's depth, as a share of those without it. With raw dot
#: products, its layers taken one by one would add 48 % in SimMIM, 46 % in MAE, 43 % in ConMIM and 33 % in BootMAE.
#: Cosines are normalised twice more, for H and for L_spa, however many the layers.
MOST_ADDED = {
    "text": {"simmim": 0.14, "mae": 0.15, "bootmae": 0.18, "conmim": 0.13},
    "cosine": {"simmim": 0.18, "mae": 0.20, "bootmae": 0.27, "conmim": 0.16},
}


@pytest.fixture(scope="module")
def study() -> Study:
    return Study(load("config.yaml", scale="demo"))


@pytest.mark.parametrize("preset", MOST_ADDED)
@pytest.mark.parametrize("baseline", BASELINES)
def test_mto_adds_few_operators(baseline, preset):
    """Counts do not depend on width or batch, so the paper's depth is counted at a small width."""
    paper = Study(load("config.yaml", scale="paper"))
    counted = {}
    for stage in ("pretrain", "pretrain-mto"):
        job = job_of(paper, stage, baseline).plain()
        job["method"] |= {"embed_dim": 48}
        job["method"] |= {"decoder_embed_dim": 32} if "decoder_embed_dim" in job["method"] else {}
        job["method"] |= {"projector_dim": 32} if baseline == "conmim" else {}
        if job["mto"]["terms"]:
            job["mto"] |= paper.config.mto.presets[preset].model_dump()
        work = build(typed(job), 2)
        batch = work.model.data_preprocessor(work.batch)

        def step(work=work, batch=batch):
            work.model(**batch)["loss"].backward()

        counted[stage] = measure.Operators()
        with counted[stage] as mode:
            step()
        scattered = [name for name in mode.counts if "scatter" in name or "index_put" in name]
        assert not [name for name in scattered if baseline in ("mae", "bootmae")]
    without, with_mto = (mode.total for mode in counted.values())
    assert without < with_mto < (1 + MOST_ADDED[preset][baseline]) * without


def test_operators_are_what_is_launched():
    x = torch.randn(4, 3)
    assert measure.operators(lambda: x.T.reshape(3, 4)[1:].detach()) == 0  # views
    assert measure.operators(lambda: (x @ x.T).relu() + 1) == 3


def test_flops_are_those_of_the_products():
    a, b = torch.randn(5, 7), torch.randn(7, 3, requires_grad=True)
    assert measure.flops(lambda: a @ b) == 2 * 5 * 7 * 3
    assert measure.flops(lambda: (a @ b).sum().backward()) == 2 * 2 * 5 * 7 * 3  # b alone wants a gradient


def test_memory_on_a_cpu_is_what_the_backward_pass_keeps():
    x = torch.randn(64, 64, requires_grad=True)
    assert measure.memory(lambda: (x * 2).exp().sum(), torch.device("cpu")) == 64 * 64 * 4


def prepared(study, stage="pretrain-mto", **keys):
    bench = run.Bench(torch.device("cpu"), 1, "fp32", compile=False)
    return bench, bench.prepare(job_of(study, stage, "mae").changed(**keys), 4)


def test_a_model_that_waits_beside_another_is_not_in_its_memory(study, monkeypatch):
    (_, one), (_, other) = prepared(study), prepared(study, "finetune")
    for each in (one, other):
        each.step()
    trained = sum(4 * p.numel() for p in one.work.model.parameters() if p.requires_grad)
    fixed = sum(4 * p.numel() for p in one.work.model.parameters() if not p.requires_grad)
    steps = 4 * sum(p.requires_grad for p in one.work.model.parameters())
    buffers = sum(b.nbytes for b in one.work.model.buffers())
    assert one.held() == 3 * trained + fixed + buffers + steps  # AdamW's two moments, and its count of steps
    monkeypatch.setattr(run, "memory", lambda step, device: 10**9)
    monkeypatch.setattr(run, "interleaved", lambda steps, device, **_: dict.fromkeys(steps, 1.0))
    rows = run.Bench(torch.device("cuda"), 1, None, compile=False).numbers([one, other], 1.0)
    assert [row["memory_mib"] * 2**20 for row in rows] == [10**9 - other.held(), 10**9 - one.held()]


def test_where_the_eager_step_does_not_fit_its_operations_are_the_plans(study, monkeypatch):
    bench, one = prepared(study)
    counted = one.numbers(bench.device, 1.0, 1.0)
    monkeypatch.setattr(run, "operators", lambda step: (_ for _ in ()).throw(torch.OutOfMemoryError("no")))
    row = one.numbers(bench.device, 1.0, 1.0)
    assert "operators" not in row
    planned = count(one.work.job).train / 1e9  # where attention is plain products, whatever kernel a device takes
    assert row["gflops_per_image"] == planned == pytest.approx(counted["gflops_per_image"], rel=0.05)
    assert {"seconds", "memory_mib", "peak_share", "compiled"} <= row.keys()


def test_a_step_that_fell_back_is_not_called_compiled(study, monkeypatch, capsys):
    def broken(graph, inputs):
        raise RuntimeError("no compiler here")

    found = {}
    for backend in ("eager", broken):
        monkeypatch.setattr("mto.training.compiled.BACKEND", backend)
        torch._dynamo.reset()
        bench = run.Bench(torch.device("cpu"), 1, "fp32", compile=True)
        for stage in ("pretrain", "finetune", "coco"):
            one = bench.prepare(job_of(study, stage, "mae"), 2)
            found[stage, backend] = one.numbers(bench.device, 1.0, 1.0)["compiled"]
    assert {found["coco", backend] for backend in ("eager", broken)} == {"-"}
    assert {found[stage, "eager"] for stage in ("pretrain", "finetune")} == {"yes"}
    assert {found[stage, broken] for stage in ("pretrain", "finetune")} == {"no: fell back"}
    assert capsys.readouterr().out.count("torch.compile failed") == 2


def test_steps_take_turns():
    order = []
    steps = {name: (lambda name=name: order.append(name)) for name in "ab"}
    taken = measure.interleaved(steps, torch.device("cpu"), rounds=2, warmup=1)
    assert order == ["a", "b"] * 3
    assert taken.keys() == {"a", "b"}


def test_a_job_with_fewer_blocks_keeps_its_proportions(study):
    paper = Study(load("config.yaml", scale="paper"))
    assert job_of(paper, "pretrain", "mae", depth=3).method.settings["decoder_depth"] == 2
    probe = job_of(paper, "linear", "conmim", depth=3)
    assert probe.probe.layer == [1, 2, 3]
    coco = job_of(paper, "coco", "mae", depth=6)
    assert len(coco.out_indices) == 4
    assert max(coco.out_indices) <= 5


def test_the_whole_list_on_small_shapes(tmp_path, capsys):
    out = tmp_path / "bench.json"
    main(["--scale", "demo", "--baseline", "mae", "--all", "--images", "2", "--steps", "1", "--json", str(out)])
    found = json.loads(out.read_text())
    rows = {row["stage"]: row for row in found["rows"]}
    assert rows.keys() == {"pretrain", "pretrain-mto", "finetune", "linear", "ade20k", "coco"}
    for stage, row in rows.items():
        assert row["operators"] > 50
        assert row["step_images_per_second"] == pytest.approx(row["images"] / row["seconds"])
        assert 0 < row["peak_share"] < 1
        assert ("waiting_share" in row) == (stage not in ("ade20k", "coco"))
    assert rows["pretrain-mto"]["mto_ratio"] == rows["pretrain-mto"]["seconds"] / rows["pretrain"]["seconds"]
    assert rows["pretrain-mto"]["gflops_per_image"] > rows["pretrain"]["gflops_per_image"]
    printed = capsys.readouterr().out
    assert "| mae | pretrain-mto | 2 |" in printed
    assert found["machine"]["peak_tflops"] > 0


def test_a_stage_that_does_not_fit_is_said_in_its_row_and_nothing_else_is_lost(tmp_path, monkeypatch, capsys):
    def prepare(bench, job, images):
        if job.task == "pretrain" and job.mto.terms:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return real(bench, job, images)

    real = run.Bench.prepare
    monkeypatch.setattr(run.Bench, "prepare", prepare)
    out = tmp_path / "bench.json"
    stages = ["pretrain", "pretrain-mto", "finetune"]
    main(
        [
            "--scale",
            "demo",
            "--baseline",
            "mae",
            "--stage",
            *stages,
            "--images",
            "2",
            "--steps",
            "1",
            "--json",
            str(out),
        ]
    )
    plain, with_mto, finetune = json.loads(out.read_text())["rows"]
    assert plain["seconds"] > 0
    assert finetune["seconds"] > 0
    assert with_mto == {
        "baseline": "mae", "stage": "pretrain-mto", "images": 2, "error": "out of memory at micro-batch 2"
    }  # fmt: skip
    assert "| out of memory at micro-batch 2 |" in capsys.readouterr().out


def test_the_table_leaves_blank_what_was_not_measured():
    rows = [{"baseline": "mae", "stage": "coco", "operators": 7}, {"baseline": "mae", "stage": "linear", "images": 3}]
    assert table(rows, COLUMNS).splitlines()[2:] == ["| mae | coco |  | 7 |", "| mae | linear | 3 |  |"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "scale"], "expected KEY=VALUE"),
        (["--scale", "huge"], "no such scale"),
        (["--device", "cuda"], "no CUDA device visible"),
    ],
)
def test_mistakes_are_one_line(arguments, message):
    from mto.errors import UserError

    if arguments == ["--device", "cuda"] and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(UserError, match=message):
        main(arguments)
