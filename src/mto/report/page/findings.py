"""What lies under results/<scale>/: the finished steps, what they took, what is missing; and the headline."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mto.names import STAGES, Run, Step
from mto.report import metrics, sources
from mto.report.labels import baseline_name, full_name
from mto.report.rauc import Curve
from mto.report.sheet import UNKNOWN, spread
from mto.report.verdict import Kind, Measured, judge

#: The figure whose fine-tuning curves answer whether MTO saves epochs.
CURVES = "fig4_epochs"


@dataclass(frozen=True)
class Stage:
    """One stage of the study: its steps, and what the finished ones took."""

    name: str
    planned: int
    done: int
    gpu_hours: float
    wall_hours: float
    images_per_second: str
    devices: str


@dataclass(frozen=True)
class Answer:
    """Whether MTO saves epochs for one baseline; texts as shown, "—" where nothing is measured.

    Attributes:
        places: where the steps are listed (`mto.report.sources`) of the two curves, of `plain` and of `mto`.
        share: of the epochs, needed: the mean over seeds; None where one does not reach.
        bound: reached at the first checkpoint already, so that the share is an upper bound.
    """

    baseline: str
    verdict: Kind
    sentence: str
    seeds: int
    final: int
    plain: str
    mto: str
    places: tuple[str, str, str]
    to_match: str
    saved: str
    percent: str
    share: float | None
    bound: bool


class Findings:
    """The study as far as it is done.

    Args:
        job: of the page (`mto.report.page.job`).
        results: results/<scale>.

    Raises:
        UserError: a metrics.json is broken, naming it.
    """

    def __init__(self, job: dict[str, Any], results: Path) -> None:
        self.job = job
        self.results = results
        self.records: dict[Step, dict[str, Any]] = {}
        for path in metrics.finished(results):
            self.records[Step.at(path.parent)] = metrics.read(path)

    # --------------------------------------------------------------------------------------------- planned and done
    def steps(self, name: str) -> list[Step]:
        """Returns the measuring steps of a table or figure, over all seeds."""
        cells = self.job["cells"].get(name, [])
        return [Step(task, run, seed, epoch) for task, run, epoch in cells for seed in self.job["seeds"]]

    @cached_property
    def planned(self) -> list[Step]:
        """Every step of the plan, pre-training first."""
        steps = dict.fromkeys(step for name in self.job["cells"] for step in self.steps(name))
        return [*dict.fromkeys(step._replace(task="pretrain") for step in steps if step.epoch), *steps]

    def missing(self, name: str) -> list[Step]:
        """Returns the steps that a table or figure still needs."""
        return [step for step in self.steps(name) if step not in self.records]

    @cached_property
    def unplanned(self) -> int:
        """Finished steps that the plan does not have: other seeds, epochs or runs."""
        return len(self.records.keys() - set(self.planned))

    @cached_property
    def stages(self) -> list[Stage]:
        return [self._stage(name) for name in STAGES]

    def _stage(self, name: str) -> Stage:
        done = [self._provenance(step) for step in self.records if step.task == name]
        rates = sorted(p["images_per_second"] for p in done if p.get("images_per_second"))
        rate = f"{rates[0]:.0f} to {rates[-1]:.0f}" if len(rates) > 1 else "".join(f"{rate:.0f}" for rate in rates)
        planned = [step for step in self.planned if step.task == name]
        return Stage(
            name=STAGES[name].title,
            planned=len(planned),
            done=sum(step in self.records for step in planned),
            gpu_hours=sum(p.get("gpu_hours") or 0.0 for p in done),
            wall_hours=sum(p.get("wall_seconds") or 0.0 for p in done) / 3600,
            images_per_second=rate,
            devices=", ".join(listed(device_of(p) for p in done)),
        )

    def _provenance(self, step: Step) -> dict[str, Any]:
        return self.records[step].get("provenance") or {}

    @cached_property
    def commits(self) -> Counter[str]:
        return Counter(self._provenance(step).get("commit") or "unknown" for step in self.records)

    @cached_property
    def devices(self) -> list[str]:
        return listed(device_of(self._provenance(step)) for step in self.records)

    @cached_property
    def eager(self) -> list[str]:
        """Folders of steps that trained on some images eagerly, since torch.compile had failed."""
        done = sorted(step for step in self.records if self._provenance(step).get("eager_images"))
        return [step.folder for step in done]

    @cached_property
    def versions(self) -> dict[str, str]:
        """Package to its version; to all of them where steps differ."""
        found: dict[str, list[str]] = {}
        for step in self.records:
            for package, version in (self._provenance(step).get("versions") or {}).items():
                found.setdefault(package, []).append(version)
        return {package: ", ".join(listed(versions)) for package, versions in sorted(found.items())}

    # ----------------------------------------------------------------------------------------------- the headline
    @cached_property
    def answers(self) -> list[Answer]:
        """One for each baseline of Figure 4, in its order."""
        runs = dict.fromkeys(run for task, run, _ in self.job["cells"].get(CURVES, []) if task == "finetune")
        plain = [run for run in runs if not Run.parse(run).terms]
        return [self._answer(run) for run in plain]

    def _answer(self, plain: str) -> Answer:
        run = Run.parse(plain).with_mto.name
        final = max(epoch for _, name, epoch in self.job["cells"][CURVES] if name == plain)
        seeds = self.job["seeds"]
        curves = [Measured(self.curve(plain, s), self.curve(run, s), self._top1(plain, s, 0)) for s in seeds]
        verdict = judge(curves, final)
        ended = [seed.mto[final] for seed in verdict.seeds if final in seed.mto]
        without, with_mto = (sources.of(Step("finetune", name, seeds[0], final)) for name in (plain, run))
        return Answer(
            baseline=baseline_name(plain),
            verdict=verdict.kind,
            sentence=verdict.sentence,
            seeds=len(verdict.seeds),
            final=final,
            plain=spread([seed.base[final] for seed in verdict.seeds]) if verdict.seeds else UNKNOWN,
            mto=spread(ended) if ended and len(ended) == len(verdict.seeds) else UNKNOWN,
            places=(without.curves, without.value, with_mto.value),
            to_match=verdict.to_match,
            saved=verdict.saved,
            percent=verdict.percent,
            share=verdict.share,
            bound=verdict.bound,
        )

    def curve(self, run: str, seed: int) -> Curve:
        """Maps epoch to fine-tuning top-1, over the checkpoints of Figure 4 that are measured."""
        cells = self.job["cells"].get(CURVES, [])
        epochs = [epoch for task, name, epoch in cells if (task, name) == ("finetune", run) and epoch]
        values = {epoch: self._top1(run, seed, epoch) for epoch in epochs}
        return {epoch: value for epoch, value in values.items() if value is not None}

    def _top1(self, run: str, seed: int, epoch: int) -> float | None:
        """Returns a fine-tuning's top-1; None where it is not finished, or measured none."""
        record = self.records.get(Step("finetune", run, seed, epoch))
        value = record["metrics"].get("top1") if record else None
        return value if value is not None and math.isfinite(value) else None

    @cached_property
    def headline(self) -> str:
        """Whether MTO saves epochs here, in one sentence; and one on how sure that is."""
        told = Counter(answer.verdict for answer in self.answers)
        measured = len(self.answers) - told["open"] - told["void"]
        said = []
        if measured and told["no"] == measured:
            said.append(f"With MTO, none of {measured} baselines reaches its own final accuracy in fewer epochs.")
        elif measured:
            text = f"With MTO, {told['yes']} of {measured} baselines reach their own final accuracy in fewer epochs"
            text += self._each + self._extent
            text += f", {told['mixed']} in some seeds only" if told["mixed"] else ""
            text += f", and {told['no']} {'does' if told['no'] == 1 else 'do'} not" if told["no"] else ""
            said.append(f"{text}.")
        elif not told["void"]:
            return "No baseline is fine-tuned at its last epoch both without and with MTO yet, so nothing can be said."
        if told["void"]:
            which = f"{told['void']}{' more' if measured else ''} {'baseline' if told['void'] == 1 else 'baselines'}"
            said.append(
                f"Nothing follows for {which}, whose pre-training without MTO is no better than training from scratch."
            )
        if told["open"]:
            said.append(f"{told['open']} more {'is' if told['open'] == 1 else 'are'} not measured yet.")
        return " ".join(said)

    @property
    def _each(self) -> str:
        """In how many seeds the answer is yes, where these are several."""
        seeds = {answer.seeds for answer in self.answers if answer.verdict == "yes"}
        if max(seeds, default=1) == 1:
            return ""
        return " in every seed" if min(seeds) == len(self.job["seeds"]) else " in every seed that is finished"

    @property
    def _extent(self) -> str:
        """By how much, over the baselines where the answer is yes."""
        winners = [answer for answer in self.answers if answer.verdict == "yes" and answer.share is not None]
        if not winners:
            return ""
        saved = sorted(round(100 * (1 - (answer.share or 0.0))) for answer in winners)
        least = "at least " if any(answer.bound for answer in winners) else ""
        extent = f"{saved[0]} %" if saved[0] == saved[-1] else f"{saved[0]} to {saved[-1]} %"
        return f", saving {least}{extent} of them"

    @property
    def certainty(self) -> str:
        """How sure the headline is, said plainly."""
        seeds = len(self.job["seeds"])
        if seeds == 1:
            return (
                "Each number comes from one seed: nothing here tells how much of it is chance. "
                "Add seeds in config.yaml for an error bar."
            )
        if max((answer.seeds for answer in self.answers), default=0) == 1:
            return f"Behind this is one finished seed of {seeds} planned: nothing tells yet how much of it is chance."
        return f"± is the sample standard deviation over the seeds that are finished, of {seeds} planned."


def device_of(provenance: dict[str, Any]) -> str:
    """Says what a step ran on, in words."""
    gpus, device = provenance.get("gpus") or 0, provenance.get("device") or "unknown"
    return f"{gpus} × {device}" if gpus else f"{device} (no GPU)"


def listed(values: Iterable[str]) -> list[str]:
    """Returns the values without repetition, in order of appearance."""
    return list(dict.fromkeys(values))


def short(commit: str) -> str:
    """Returns the first ten digits of a commit, its -dirty kept."""
    return commit[:10] + ("-dirty" if commit.endswith("-dirty") else "")


def describe(step: Step) -> str:
    """Describes a step: `fine-tuning of MAE ViT-B + MTO at epoch 8, seed 0`."""
    when = f"at epoch {step.epoch}" if step.epoch else "from scratch"
    return f"{STAGES[step.task].title} of {full_name(step.run)} {when}, seed {step.seed}"
