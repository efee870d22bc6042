"""What the rules ask of the study: the files that a step reads, its job as JSON, the hardware that it gets.

Snakemake calls these with the wildcards of a path. Whatever a path asks for that the study does not have ends the start
in one line.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn, Protocol

from mto.errors import UserError
from mto.names import BASELINES, IMPORTED, STAGES, TRAINED, Run, Step
from mto.runtime import attempts
from mto.study.study import Study

#: The stage of each rule that a GPU job has; datasets have resources of their own.
STAGE_OF = {stage.rule: name for name, stage in STAGES.items()} | {"pretrain_pilot": "pretrain", "dataset": "dataset"}


class Wildcards(Protocol):
    """The words of a path that its rule leaves open; each rule has some of them."""

    run: str
    seed: str
    epoch: str
    dataset: str
    stage: str


def canonical(value: Any) -> str:
    """Returns JSON in one fixed order, since Snakemake compares text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def stage_of(rule: str) -> str | None:
    """Returns the stage of a rule, whatever a workflow that has this one as a module puts before its name."""
    return next((name for own, name in STAGE_OF.items() if rule == own or rule.endswith(f"_{own}")), None)


def numbers(wildcards: Wildcards) -> tuple[int, int]:
    """Returns seed and epoch of a path. Another spelling than the study's is a folder that nothing else reads."""
    seed, epoch = wildcards.seed, wildcards.epoch
    if not (seed.isdecimal() and epoch.isdecimal() and (seed, epoch) == (str(int(seed)), f"{int(epoch):04d}")):
        _stop(
            f"{wildcards.run}/seed{seed}/epoch{epoch}: no step is called so; it is spelled as in "
            f"{wildcards.run}/seed0/epoch0100"
        )
    return int(seed), int(epoch)


def targets() -> dict[str, str]:
    """Returns the targets that measure something, each baseline and each stage, with the message of each one's end."""
    baselines = {name: f"All of {baseline.title} is done" for name, baseline in BASELINES.items()}
    return baselines | {stage.target or name: f"Done for every run: {stage.title}" for name, stage in STAGES.items()}


def measuring_encoders() -> list[str]:
    """Returns the stages that take a pre-trained encoder."""
    return [name for name, stage in STAGES.items() if stage.takes == "encoder"]


def made_by(stage: str) -> dict[str, str]:
    """Returns the outputs of a stage that takes an encoder: its metrics, and a history where it trains."""
    files = {"metrics": "metrics.json"} | ({"history": "history.jsonl"} if STAGES[stage].trains else {})
    return {name: f"<results>/{stage}/<step>/{file}" for name, file in files.items()}


class Needs:
    """Answers the rules of one study.

    Args:
        study: the plan.
        logs: gives the folder of Slurm's own logs; None where Slurm runs no job.
    """

    def __init__(self, study: Study, logs: Callable[[], Path | None]) -> None:
        self.study = study
        self.logs = logs
        self.started = time.time()

    # ------------------------------------------------------------------------------------------- jobs, as JSON has them
    def step_of(self, task: str, wildcards: Wildcards) -> Step:
        """Returns the step of a path, which the study has."""
        step = Step(task, wildcards.run, *numbers(wildcards))
        known = {"seed": self.study.config.seeds, "epoch": self.study.epochs(task)}
        try:
            self.study.preset(Run.parse(step.run))
            self.study.require_own(step)
            for name, values in known.items():
                if getattr(step, name) not in values:
                    raise UserError(f"the study has no such {name} (config.yaml: {', '.join(map(str, values))})")
        except UserError as error:
            _stop(f"{self.study.folder(step)}: {error}")
        return step

    def job(self, task: str) -> Callable[[Wildcards], str]:
        """Returns a function of wildcards: all that a task sees."""
        return lambda wildcards: canonical(self.study.job(self.step_of(task, wildcards)).plain())

    def pilot_job(self, wildcards: Wildcards) -> str:
        """Returns the job of a run's pilot."""
        return canonical(self.study.pilot_job(wildcards.run, *numbers(wildcards)).plain())

    def dataset_job(self, wildcards: Wildcards) -> str:
        """Returns the job that makes a dataset, or looks over it."""
        return canonical(self.study.data_job(wildcards.dataset).plain())

    def level_of(self, wildcards: Wildcards) -> str:
        """Returns how closely a dataset is looked at: a resource, so that another look re-queues nothing."""
        return getattr(self.study.config.datasets, wildcards.dataset).verify

    # ----------------------------------------------------------------------------------------------------------- inputs
    def _is_imported(self, wildcards: Wildcards) -> bool:
        """Returns whether a segment is a published checkpoint's, which depends on nothing and is not trained over."""
        return Path(self.study.folder(self.step_of("pretrain", wildcards)), IMPORTED).exists()

    def pretraining_data(self, wildcards: Wildcards) -> str | list[str]:
        """Returns the manifest of the images to pre-train on."""
        return [] if self._is_imported(wildcards) else f"{self.study.results}/data/imagenet/manifest.json"

    def encoder_of(self, wildcards: Wildcards) -> str | list[str]:
        """Returns the pre-trained encoder; nothing from scratch, which is epoch 0."""
        step = Step("pretrain", wildcards.run, *numbers(wildcards))
        return [] if step.epoch == 0 else f"{self.study.folder(step)}/encoder.safetensors"

    def previous_state(self, wildcards: Wildcards) -> str | list[str]:
        """Returns the training state that a segment continues; nothing for the first segment."""
        if self._is_imported(wildcards):
            return []
        before = self.study.previous(self.step_of("pretrain", wildcards))
        return [] if before is None else f"{self.study.folder(before)}/state.pth"

    def pruning(self, wildcards: Wildcards) -> str:
        """Returns whether a segment prunes the state that it continued: not one that another run continues too."""
        before = self.study.previous(self.step_of("pretrain", wildcards))
        return "keep-state" if before and self.study.is_continued_twice(before) else "prune"

    def measured(self, target: str) -> Callable[[Any], list[str]]:
        """Returns the metrics of every step of a stage or of a baseline, worked out when the target is asked for."""
        return lambda wildcards: self.metrics_of(self.study.select(target))

    def metrics_of(self, steps: Iterable[Step]) -> list[str]:
        """Returns the metrics of some steps; the other files of their jobs lie beside them."""
        return [f"{self.study.folder(step)}/metrics.json" for step in steps]

    def cells_of(self, wildcards: Any) -> list[str]:
        """Returns the metrics behind one table or figure."""
        return self.metrics_of(self.study.steps(wildcards.name))

    def preflights(self, wildcards: Any) -> list[str]:
        """Returns what was measured of each stage that the study has."""
        return [f"{self.study.results}/preflight/{stage}.json" for stage in TRAINED if self.study.select(stage)]

    # --------------------------------------------------------------------------------------------------------- hardware
    def hardware(self, stage: str) -> dict[str, Any]:
        """Returns a stage's resources for Snakemake and the task: in no job, so that a change re-queues nothing."""
        resources = self.study.resources(stage)
        asked = resources.model_dump()
        told = {
            "micro_batch": resources.micro_batch or 0,
            "mem_mb": self._memory(resources.mem_mb),
            "compile": "compile" if resources.compile else "no-compile",
            "deterministic": resources.kernels,
        }
        # On several nodes the executor plugin leaves it to the task to start a step on each, which it calls MPI.
        nodes = {} if resources.nodes == 1 else {"mpi": "srun", "tasks": resources.nodes, "tasks_per_gpu": 0}
        return asked | told | nodes

    def hardware_of_stage(self) -> dict[str, Callable[[Wildcards], Any]]:
        """Returns what a job gets of the stage that a wildcard names, on one of its nodes.

        It has two hours, for dozens of compilations.
        """

        def asked(name: str) -> Callable[[Wildcards], Any]:
            def of_stage(wildcards: Wildcards) -> Any:
                each = self.hardware(wildcards.stage)
                one_node = {
                    "gpu": each["gpu"] // each["nodes"],
                    "gpus_in_all": each["gpu"],
                    "runtime": min(each["runtime"], 120),
                    "mem_mb": self.study.resources(wildcards.stage).mem_mb,
                }
                return (each | one_node)[name]

            return of_stage

        names = "gpu gpus_in_all cpus_per_task mem_mb runtime workers micro_batch compile deterministic memory"
        return {name: asked(name) for name in names.split()}

    def watch(self) -> dict[str, int]:
        """Returns how a pre-training with MTO is watched. It alters no result: like the hardware it is in no job."""
        mto = self.study.config.mto
        return {"guard": mto.guard or 0, "gradients": mto.gradient_interval or 0}

    def _memory(self, mem_mb: int) -> Callable[..., int]:
        """Returns the memory of an attempt: more when earlier ones of this start ran out of it."""

        def of_attempt(wildcards: Iterable[str], attempt: int, rulename: str) -> int:
            folder = self.logs()
            if attempt == 1 or folder is None:
                return mem_mb
            # Most attempts end at a time limit, which needs no more memory: Slurm's own logs tell which it was.
            return attempts.memory(mem_mb, attempts.slurm_logs(folder, rulename, wildcards), self.started)

        return of_attempt


def _stop(line: str) -> NoReturn:
    """Ends the start of the workflow with one line."""
    raise SystemExit(line)
