"""Counts on tensors without values are those of real steps, and at the paper's size those that are known."""

import pytest
import torch

from mto.bench import measure
from mto.bench.counting import Moved, count, windows
from mto.bench.work import work_key
from mto.bench.workloads import build, job_of
from mto.config import load
from mto.names import BASELINES, Step
from mto.study.study import Study


@pytest.fixture(scope="module")
def demo() -> Study:
    return Study(load("config.yaml", scale="demo"))


@pytest.fixture(scope="module")
def paper() -> Study:
    return Study(load("config.yaml", scale="paper"))


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("stage", ["pretrain", "pretrain-mto", "finetune", "linear", "ade20k"])
def test_a_count_is_that_of_a_real_step(demo, stage, baseline):
    """With attention as plain products: a fused kernel's backward pass computes the scores once more."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    job = job_of(demo, stage, baseline)
    work = build(job, 4)
    model = work.model

    def step():
        data = model.data_preprocessor(work.batch, True)
        model.parse_losses(model(**data, mode="loss"))[0].backward()

    with sdpa_kernel(SDPBackend.MATH):
        real = measure.flops(step) / 4
    assert count(job).train == pytest.approx(real, rel=1e-9)


@pytest.mark.parametrize("baseline", BASELINES)
def test_what_is_trained_and_kept_is_the_models(demo, baseline):
    job = job_of(demo, "pretrain-mto", baseline)
    model, work = build(job, 2).model, count(job)
    assert work.trained == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert work.trained + work.fixed == sum(value.numel() for value in model.state_dict().values())
    assert work.encoder == sum(value.numel() for value in model.method.encoder_state(model.teacher).values())


#: GFLOP an image: two operations for each multiply-add of the closed forms below, three times the forward pass.
def block(tokens: int, width: int) -> float:
    """Multiply-adds of a ViT block: 12 D² a token, and the two products of attention."""
    return tokens * 12 * width**2 + 2 * tokens**2 * width


def test_mae_at_the_papers_size_is_its_closed_form(paper):
    """50 tokens through ViT-B, 197 through 8 blocks of 512, the patch embedding, the way to the decoder, the pixels."""
    forward = 12 * block(50, 768) + 8 * block(197, 512) + 196 * 768 * 768 + 50 * 768 * 512 + 197 * 512 * 768
    images = 196 * 768 * 768  # the first layer's input wants no gradient
    job = paper.job(Step("pretrain", "mae-vitb", 0, 800))
    assert count(job).train == pytest.approx(2 * (3 * forward - images), rel=1e-3)


def test_fine_tuning_vit_large_at_the_papers_size_is_its_closed_form(paper):
    images = 196 * 768 * 1024
    forward = 24 * block(197, 1024) + images + 1024 * 1000
    work = count(paper.job(Step("finetune", "mae-vitl", 0, 800)))
    assert work.evaluate == pytest.approx(2 * forward, rel=1e-3)
    assert work.train == pytest.approx(2 * (3 * forward - images), rel=1e-3)


def test_a_test_image_of_ade20k_has_two_windows(paper, demo):
    assert windows(paper.job(Step("ade20k", "mae-vitb", 0, 800))) == 2  # 512 x 683, windows of 512
    assert windows(demo.job(Step("ade20k", "mae-vitb", 0, 8))) == 9  # 48 x 64: 3 by 3 windows of 24 every 20


def test_jobs_that_do_the_same_share_a_key(paper):
    first, last = (paper.job(Step("pretrain", "mae-vitb", 0, epoch)) for epoch in (100, 800))
    assert work_key(first) == work_key(last)
    others = [Step("pretrain", run, 0, 800) for run in ("mae-vitb-mto", "mae-vitl", "simmim-vitb")]
    assert len({work_key(paper.job(step)) for step in others} | {work_key(first)}) == 4


def test_what_operators_move_is_each_tensor_once_without_products_and_views():
    x = torch.empty(4, 8, device="meta")
    with Moved() as moved:
        x.T.reshape(2, 16)  # a copy: 128 bytes read, 128 written
        assert moved.bytes == 256
        x @ x.T  # a product
        x[:2].view(16)  # views
        assert moved.bytes == 256
        x + x[:1].expand(4, 8)  # one row, taken four times
        assert moved.bytes == 256 + 3 * 128
