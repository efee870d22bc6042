"""What the two dense tasks share: training on an encoder, one validation at the end, and the numbers that it leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from mto.config.job import Ade20kJob, CocoJob
from mto.errors import UserError
from mto.tasks.task import Task
from mto.training.log import HISTORY, read_history

D = TypeVar("D", Ade20kJob, CocoJob)


def run_dense(
    task: Task[D],
    *,
    build_model: Callable[..., Any],
    build_dataset: Callable[[D, str], Any],
    splits: tuple[str, str],
    metric: Any,
    names: Mapping[str, str],
    unit: float = 1.0,
    **decay: Any,
) -> None:
    """Trains, validates, and finishes the task with the last validation's percentages.

    Call it after ``load_mmseg()`` or ``load_mmdet()``.

    Args:
        build_model: of (job, weights).
        build_dataset: of (job, split).
        splits: what to train on, and what to validate on.
        metric: mmengine's ``BaseMetric``.
        names: our metrics' names -> the metric's.
        unit: of the metric's numbers, in percent.
        decay: which parameters have weight decay, for `mto.openmmlab.fit.train_dense`.

    Raises:
        UserError: nothing was measured.
    """
    from mto.openmmlab.fit import train_dense
    from mto.openmmlab.libraries import quiet

    with quiet():
        train_set, val_set = (build_dataset(task.job, split) for split in splits)
    with task.naming_encoder():
        loop = train_dense(
            task,
            weights=task.read_encoder(),
            build_model=build_model,
            train_set=train_set,
            val_set=val_set,
            metric=metric,
            **decay,
        )
    if task.hardware.rank == 0:
        measured = last_validation(task.progress, task.name, next(iter(names.values())))
        metrics = {ours: unit * measured[theirs] for ours, theirs in names.items()}
        task.finish(percentages(task.name, metrics), loop.log.usage)


def last_validation(progress: Path, dataset: str, name: str) -> dict[str, float]:
    """Returns the last row of the history that has a metric of this name.

    Args:
        progress: the folder of the history.
        dataset: what was evaluated on.

    Raises:
        UserError: there is none: COCO's metric says nothing where a network detected nothing in any image.
    """
    rows = [row for row in read_history(progress / HISTORY) if name in row]
    if not rows:
        raise UserError(
            f"{dataset}: the network found nothing in any image, so {name} was not measured; see {progress / HISTORY}"
        )
    return rows[-1]


def percentages(task: str, metrics: dict[str, float]) -> dict[str, float]:
    """Returns the metrics as they are, each of which must be a percentage.

    Where nothing was measured the libraries write NaN, or -1.

    Args:
        task: "ade20k" or "coco".

    Raises:
        UserError: one of them is no percentage.
    """
    for name, value in metrics.items():
        if not 0 <= value <= 100:  # nor is NaN
            raise UserError(
                f"{task}: {name} is {value:g}, so nothing was measured: the validation annotations at "
                f"datasets.{task}.root have no object of its classes; `python -m mto verify {task}` looks at them all"
            )
    return metrics
