"""The loader's rate is that of its workers, whatever they had ready; on a clock of the test's own."""

import pytest
import torch

from mto.bench import loading, run
from mto.bench.workloads import job_of
from mto.config import load
from mto.study.study import Study


class Workers:
    """A loader whose workers take ``seconds`` for a batch of theirs and read ahead as far as a `DataLoader`'s."""

    def __init__(self, workers, prefetch, seconds):
        self.num_workers, self.prefetch_factor, self.seconds = workers, prefetch, seconds
        self.now = self.taken = 0

    def clock(self):
        return self.now

    def __iter__(self):
        free, taken_at = [0.0] * self.num_workers, []
        ahead = self.num_workers * self.prefetch_factor
        while True:
            index = len(taken_at)
            asked = taken_at[index - ahead] if index >= ahead else 0.0
            worker = index % self.num_workers
            free[worker] = max(free[worker], asked) + self.seconds
            self.now = max(self.now, free[worker])
            taken_at.append(self.now)
            self.taken += 1
            yield {"image": index}


@pytest.fixture
def workers(monkeypatch):
    def of(*how):
        loader = Workers(*how)
        monkeypatch.setattr(loading.time, "perf_counter", loader.clock)
        return loader

    return of


@pytest.mark.parametrize(("number", "prefetch"), [(1, 4), (6, 4), (8, 4), (11, 4), (11, 1), (40, 4)])
def test_what_was_ready_before_is_not_counted(workers, number, prefetch):
    loader = workers(number, prefetch, 2.0)
    assert loading.rate(loader, images=64, batches=20) == pytest.approx(64 * number / 2.0)


@pytest.mark.parametrize(("step", "rate"), [(0.01, 11 / 2.0), (0.5, 1 / 0.5)])
def test_training_is_as_fast_as_its_slower_half(workers, step, rate):
    """However long the first step takes: the workers fill their queues meanwhile."""
    loader = workers(11, 4, 2.0)

    def train(batch):
        loader.now += 300.0 if batch["image"] == 0 else step

    found = loading.together(loader, iter(loader), train, images=64, batches=20, device=torch.device("cpu"))
    assert found["images_per_second"] == pytest.approx(64 * rate, rel=0.06)
    assert found["waiting_share"] == pytest.approx(max(0, 1 - step * rate), abs=0.06)


def test_without_workers_one_batch_is_passed_over():
    class Loader(list):
        num_workers, prefetch_factor = 0, None

    loader = Loader(range(5))
    source = iter(loader)
    assert loading.steady(loader, source, 3, use=id) == 3
    assert list(source) == [1, 2, 3, 4]


def test_each_row_reads_in_an_order_of_its_own(monkeypatch):
    study, seeds = Study(load("config.yaml", scale="demo")), []
    monkeypatch.setattr(loading, "loader_of", lambda job, *_, **__: seeds.append(job.seed))
    monkeypatch.setattr(loading, "rate", lambda *_: 1.0)
    monkeypatch.setattr(run, "batches", lambda *_: iter(()))
    monkeypatch.setattr(loading, "together", lambda *_: {"images_per_second": 1.0, "waiting_share": 0.0})
    bench = run.Bench(torch.device("cpu"), 1, "fp32", compile=False)
    for stage, baseline in [("pretrain", "mae"), ("pretrain-mto", "mae"), ("pretrain", "simmim"), ("linear", "mae")]:
        bench.loading(bench.prepare(job_of(study, stage, baseline), 2), {}, 0, ("data", "both"))
    assert len(set(seeds)) == len(seeds) == 8
