"""What each job of the study costs: finished, measured, or reckoned from counted operations.

A job trains and evaluates so many images. Its rate is that of its slower half: the GPUs (peak x utilisation over the
operations of an image, or what was measured) or the loader's cores. Without workers the two take turns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mto.bench.work import Work, work_key
from mto.config.job import Job, LoggedJob
from mto.config.prices import Card
from mto.cost.amounts import Amount, amount, bytes_trained, loading_rates, size_of, without_mto
from mto.cost.disk import segment_bytes
from mto.cost.measured import Measured, hours_of
from mto.names import Step
from mto.study.study import Study

FINISHED, LIKE, PREFLIGHT, SCALED, COUNTED = "finished", "finished alike", "preflight", "preflight, scaled", "counted"
#: A row of history.jsonl and its TensorBoard events, roughly.
ROW_BYTES = 3000


@dataclass(frozen=True)
class Cost:
    """Holds what one job costs.

    Attributes:
        gpus: those that it holds at once (a job on the CPU: 1, and its GPU-hours are hours).
        wall_hours, gpu_hours: of the whole job.
        evaluation_hours, mto_hours: the parts of gpu_hours that go to evaluation and to MTO's losses.
        disk_bytes: kept when it is done.
        running_bytes: of checkpoints while it runs, on top.
        basis: FINISHED, LIKE, PREFLIGHT, SCALED or COUNTED.
    """

    step: Step
    gpus: int
    amount: Amount
    wall_hours: float
    gpu_hours: float
    evaluation_hours: float
    mto_hours: float
    read_bytes: float
    disk_bytes: float
    running_bytes: float
    basis: str

    @property
    def left(self) -> bool:
        return self.basis != FINISHED


def estimate(study: Study, measured: Measured, count: Callable[[Job], Work]) -> dict[Step, Cost]:
    """Estimates the cost of every job of the study.

    Args:
        count: counts a job's work (`mto.bench.counting.count`, each work once: `once`).
    """
    return Estimates(study, measured, count).all()


def once(count: Callable[[Job], Work]) -> Callable[[Job], Work]:
    """Returns ``count`` made to count each work (`work_key`) a single time."""
    known: dict[str, Work] = {}

    def counted(job: Job) -> Work:
        key = work_key(job)
        if key not in known:
            known[key] = count(job)
        return known[key]

    return counted


class Estimates:
    def __init__(self, study: Study, measured: Measured, count: Callable[[Job], Work]) -> None:
        self.study, self.config, self.measured, self.work = study, study.config, measured, count
        #: The last segment of each run.
        self._last = {step.run: step.epoch for step in sorted(study.segments(), key=lambda step: step.epoch)}

    def all(self) -> dict[Step, Cost]:
        steps = sorted(self.study.segments(), key=lambda step: step.epoch) + self.study.steps()
        jobs = {step: self.study.job(step) for step in steps}
        amounts = {step: self._amount(step, job) for step, job in jobs.items()}
        finished: dict[Step, dict[str, Any]] = {}
        for step, job in jobs.items():
            provenance = self.measured.finished(step, job, self._upstream(step))
            if provenance is not None:
                finished[step] = provenance
                self.measured.learn(work_key(job), provenance, amounts[step])
        return {step: self._cost(step, job, amounts[step], finished.get(step)) for step, job in jobs.items()}

    def _upstream(self, step: Step) -> Step | None:
        """Returns the step whose files a job takes; None for a run's first segment and for a job from scratch."""
        if step.task != "pretrain":
            return step._replace(task="pretrain") if step.epoch else None
        return self.study.previous(step)

    def _amount(self, step: Step, job: Job) -> Amount:
        before = self.study.previous(step) if step.task == "pretrain" else None
        return amount(job, before.epoch if before else 0, size_of(self.config, step.task))

    def _cost(self, step: Step, job: Job, done: Amount, finished: dict[str, Any] | None) -> Cost:
        asked, work, key = self.study.resources(step.task), self.work(job), work_key(job)
        gpus = max(asked.gpu, 1)
        train, evaluate, basis = self._seconds(job)
        train_hours, evaluation_hours = done.trained * train / 3600, done.evaluated * evaluate / 3600
        wall = train_hours + evaluation_hours + self.config.plan.startup_minutes / 60
        mto_hours = train_hours * self._share_of_mto(job)
        hours = wall * gpus
        if finished is not None:
            hours, basis = hours_of(finished), FINISHED
            gpus = max(finished.get("gpus") or asked.gpu, 1)
        elif (alike := self.measured.hours(key, done)) is not None:
            hours, basis = alike, LIKE
        part = hours / wall if wall else 0.0  # the parts keep their shares
        logs = done.steps / (job.log_interval if isinstance(job, LoggedJob) else 1) * ROW_BYTES
        size = size_of(self.config, step.task)
        return Cost(
            step=step,
            gpus=gpus,
            amount=done,
            wall_hours=hours / gpus,
            gpu_hours=hours,
            evaluation_hours=evaluation_hours * part,
            mto_hours=mto_hours * part,
            read_bytes=done.trained * bytes_trained(self.config, job) + done.evaluated * size.bytes_each,
            disk_bytes=(self._kept(step, work) if step.task == "pretrain" else 0) + logs,
            running_bytes=self._held(step, work) if done.steps else 0,
            basis=basis,
        )

    def _kept(self, step: Step, work: Work) -> int:
        """Returns the bytes of a finished segment: of a state that one other continues, the weights alone are kept."""
        whole = step.epoch == self._last[step.run] or self.study.is_continued_twice(step)
        return segment_bytes(work.encoder, work.trained, work.fixed, "kept" if whole else "pruned")

    def _held(self, step: Step, work: Work) -> int:
        """Returns the bytes that a job holds while it runs: its states, and moments of the one that it continues."""
        own = segment_bytes(0, work.trained, work.fixed, "running")
        if step.task != "pretrain" or self._upstream(step) is None:
            return own
        whole = segment_bytes(0, work.trained, work.fixed, "kept")
        return own + whole - segment_bytes(0, work.trained, work.fixed, "pruned")

    def _share_of_mto(self, job: Job) -> float:
        """Returns MTO's share of the training time, by the run without MTO on the same basis."""
        plain = without_mto(job)
        if plain is None:
            return 0.0
        (seconds, _, basis), (without, _, other) = self._seconds(job), self._seconds(plain)
        if basis != other:
            return 1 - self.work(plain).train / self.work(job).train
        return max(0.0, 1 - without / seconds)

    def _seconds(self, job: Job) -> tuple[float, float, str]:
        """Returns the seconds by the clock for an image trained on and for one evaluated, on the job's hardware."""
        asked, work, card = self.study.resources(job.task), self.work(job), self._card(job.task)
        gpus = max(asked.gpu, 1)
        speed = gpus * _speed(card)
        # One process loads for itself; workers are at most as many as there are cores.
        cores = min(gpus * asked.workers, asked.cpus_per_task * asked.nodes) if asked.workers else gpus
        load, look = (1 / (cores * rate) for rate in loading_rates(self.config, job))

        def together(compute: float, load: float) -> float:
            return max(compute, load) if asked.workers else compute + load

        key = work_key(job)
        row = self.measured.row(key, job)
        if row is None:
            return together(self._reckoned(job, card) / gpus, load), together(work.evaluate / speed, look), COUNTED
        alike = work.train / row["train_flops"] / gpus
        compute = step = alike / row["step_images_per_second"]
        if "both_images_per_second" in row and not job.data.cache:  # with its loader, which read files
            compute = alike / row["both_images_per_second"]
            busy = max(min(row["workers"], asked.cpus_per_task), 1)  # cores, of which each gave its share at the least
            load = min(load, busy / row["both_images_per_second"] / cores) if asked.workers else 0.0
        evaluate = together(step * work.evaluate / work.train, look)
        return together(compute, load), evaluate, PREFLIGHT if row["key"] == key else SCALED

    def _reckoned(self, job: Job, card: Card) -> float:
        """Returns the seconds of one GPU for an image trained on, by counted operations.

        MTO's products are float32 without tensor cores, and its other operators are as fast as the memory. Their bytes
        are those of eager operators: a compiled step, which fuses some, moves less.
        """
        work, plain = self.work(job), without_mto(job)
        if plain is None or card.float32_tflops is None or card.memory_tb_per_s is None:
            return work.train / _speed(card)
        without = self.work(plain)
        products = (work.train - without.train) / (1e12 * card.float32_tflops)
        rest = (work.moved - without.moved) / (1e12 * card.memory_tb_per_s)
        return without.train / _speed(card) + (products + rest) / self.config.plan.roofline

    def _card(self, task: str) -> Card:
        plan = self.config.plan
        return plan.cards["cpu" if not self.study.resources(task).gpu and "cpu" in plan.cards else plan.card]


def _speed(card: Card) -> float:
    """Returns the operations a second that training keeps up in the study's precision."""
    return card.tflops * 1e12 * card.utilisation
