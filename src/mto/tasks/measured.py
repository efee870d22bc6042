"""A number that nothing was measured for is no number: the libraries write NaN, or -1, where no annotation was seen."""

from __future__ import annotations

from mto.errors import UserError


def percentages(task: str, metrics: dict[str, float]) -> dict[str, float]:
    """The metrics, as they are.

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
