"""The block `plan` of config.yaml: what `snakemake plan` reckons with before anything was measured, and the prices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from pydantic import Field, model_validator

from mto.config.fields import Count, NonNegative, Positive
from mto.config.model import Model
from mto.names import BASELINES, STAGES

#: What a core reads for: each baseline's pre-training, and each stage that has a rate of its own.
RATES = (
    *(name for name, baseline in BASELINES.items() if baseline.reads_like is None),
    *(name for name, stage in STAGES.items() if name != "pretrain" and stage.like is None),
)
if TYPE_CHECKING:
    Rate: TypeAlias = str
else:
    Rate = Literal[RATES]


class Card(Model):
    """A GPU; or `cpu`: one core.

    Attributes:
        tflops: dense, in the study's precision, as the maker says.
        utilisation: the share of it that training keeps up.
        float32_tflops: without tensor cores, for MTO's products.
        memory_tb_per_s: the bandwidth of its memory, for what MTO's other operators move. Without either MTO is
            reckoned as if its operations were like all others, which is far too little.
    """

    tflops: Positive
    utilisation: Annotated[float, Field(gt=0, le=1)]
    price_per_gpu_hour: NonNegative
    float32_tflops: Positive | None = None
    memory_tb_per_s: Positive | None = None


class Plan(Model):
    """Nothing here alters a job.

    Attributes:
        card: the one that is reckoned with.
        gpus: how many work at once.
        startup_minutes: of a job, before its first step.
        roofline: the share of `float32_tflops` and `memory_tb_per_s` that MTO's operators reach.
        images_per_core: read, decoded and augmented by one core in a second.
        decoded_per_core: read and decoded alone, which a cache of images spares the jobs that train on it.
        files_per_core: read and handed over for the device to decode; what that costs the device is not reckoned with.
    """

    card: str
    gpus: Count
    currency: Annotated[str, Field(min_length=1)]
    startup_minutes: NonNegative
    cards: Annotated[dict[str, Card], Field(min_length=1)]
    roofline: Annotated[float, Field(gt=0, le=1)]
    images_per_core: dict[Rate, Positive]
    decoded_per_core: Positive
    files_per_core: Positive

    @model_validator(mode="after")
    def _complete(self) -> Plan:
        if self.card not in self.cards:
            raise ValueError(f"card: no such card: '{self.card}' (plan.cards has: {', '.join(self.cards)})")
        if lacking := [rate for rate in RATES if rate not in self.images_per_core]:
            raise ValueError(f"images_per_core: lacks {', '.join(lacking)}")
        if max(self.images_per_core.values()) >= self.decoded_per_core:
            raise ValueError("decoded_per_core: must be above every rate of images_per_core, which decode too")
        return self
