"""The jobs of the stages, typed: what `mto.study.jobs` resolves of the settings, and what `mto.tasks` computes from.

A job's identity is its JSON, with exactly the keys that it was given (`Job.plain`): a key that has a default may be
left out, so that a job that was finished before there was such a key stays what it was. What is the same in a job as in
the settings is a part that both have (`mto.config.parts`). A task's start reads this: there is no pydantic here.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal, Self

from annotated_types import Ge, Gt, Le, Len, MinLen

from mto.config.fields import Areas, Count, Labels, NonNegative, Positive, Range, Seed, Share, Taps, Unit
from mto.config.parts import (
    Backbone,
    Balance,
    Cache,
    Detector,
    Evaluation,
    FinetuneAugment,
    Make,
    Mask,
    Neighbours,
    Schedule,
    TeacherView,
    TransferSchedule,
    UperHead,
    Variant,
    hint,
)
from mto.config.typed import Part, build, parse
from mto.errors import UserError
from mto.losses.switches import SWITCHES
from mto.names import BASELINES, STAGES

#: The class folders that are looked at, sorted.
Classes = Annotated[list[str], MinLen(2)]


# --------------------------------------------------------------------------------------------------- parts of several
class Network(Backbone):
    """A vision transformer with the sides of its images and patches, in pixels."""

    img_size: Count
    patch_size: Count


class Encoder(Network):
    """The arguments of `mto.methods.encoder.build_encoder`."""

    baseline: str
    init_values: Positive | None
    drop_path: Share


class Method(Network):
    """A method's name and the arguments of its class: the sizes, and the settings that its baseline declares."""

    REST = "settings"

    name: str
    settings: dict[str, Any]

    def check(self) -> None:
        super().check()
        if unknown := sorted(self.settings.keys() - BASELINES[self.name].settings.keys()):
            raise ValueError(f"{self.name} has no setting {', '.join(unknown)}")


#: A run without MTO has no switches.
_SWITCHES: dict[str, Any] = {name: hint(switch) | None for name, switch in SWITCHES.items()}
_Switches: Any = build("_Switches", Part, _SWITCHES, dict.fromkeys(_SWITCHES))


class Mto(_Switches):  # type: ignore[misc]
    """The arguments of `mto.MaskedTokenOptimization`."""

    balance: Balance | None = None
    starts_at: Annotated[int, Ge(0)] | None = None
    terms: list[str]


class Optim(Part):
    """An optimiser; a stage names what its recipe sets."""

    batch_size: Count
    lr: Annotated[float, Gt(0)]  # of base and batch: no setting bounds it
    weight_decay: NonNegative
    kind: Literal["adamw", "lars"] = "adamw"
    betas: Annotated[list[Share], Len(2, 2)] = [0.9, 0.999]  # noqa: RUF012 (frozen)
    eps: Positive = 1e-8
    momentum: Unit = 0.9
    clip_grad: Positive | None = None
    layer_decay: Annotated[float, Gt(0), Le(1)] | None = None
    no_decay: list[str] = []  # noqa: RUF012 (frozen)


#: A number that is written as it was given: these defaults are whole numbers in jobs that are finished.
AsGiven = Annotated[int, Ge(0)] | NonNegative


class Rates(Schedule):
    """The learning rate over training, in epochs."""

    warmup_epochs: AsGiven = 0
    warmup_lr: AsGiven = 0
    min_lr: AsGiven = 0


class Data(Part):
    """The images: how many classes and which, the pixels' mean and deviation; and where they lie, in no identity.

    `cache` is the shorter side of the cached images that are trained on, `decode` where they are decoded, `labels` the
    share of the labels that is used. `listing` and `cache_folder` are of the dataset's job.
    """

    num_classes: Count
    mean: list[float]
    std: list[float]
    classes: Classes | None = None
    cache: Count | None = None
    decode: Literal["workers", "device"] = "workers"
    labels: Labels = 1.0
    root: str = ""
    listing: str = ""
    cache_folder: str | None = None


class CroppedData(Data):
    """Training images under a random resized crop and flip, and the teacher's colours where it has a view."""

    crop_scale: Areas
    interpolation: Literal["bilinear", "bicubic"]
    hflip: Unit
    teacher: TeacherView | None = None


class ProbedData(CroppedData):
    """A linear probe's."""

    crop: Literal["no_retry", "torchvision"]
    eval: Evaluation


class FinetunedData(Data):
    """Fine-tuning's."""

    augment: FinetuneAugment
    eval: Evaluation


class EvaluatedData(Data):
    """Images that are looked at once."""

    eval: Evaluation


# --------------------------------------------------------------------------------------------------------- the stages'
class Job(Part):
    """What the jobs of all stages have: which step it is, and what it reads; an encoder of one's own has no epoch."""

    task: str
    scale: str
    recipe: Literal["paper", "official"]
    run: str
    baseline: str
    backbone: str
    seed: Seed
    epoch: Annotated[int, Ge(0)] | None
    precision: Literal["fp32", "bf16", "fp16"]
    code_version: Count
    data: Data

    @property
    def img_size(self) -> int:
        """Returns the side of what the network sees, in pixels."""
        raise NotImplementedError

    def plain(self) -> dict[str, Any]:
        """Returns what JSON gives back, sorted by key: the job's identity, and in a task the places of its data too."""
        return in_order(self.written())

    def reading(self, **place: Any) -> Self:
        """Returns the same job on data with other values, such as ``root``, ``listing`` or ``cache_folder``."""
        return self.changed(data=self.data.changed(**place))


class LoggedJob(Job):
    """A job that optimises weights."""

    optim: Optim
    log_interval: Count


class PretrainJob(LoggedJob):
    """Pre-training up to `epoch`, of a schedule of `epochs`."""

    epoch: Annotated[int, Ge(0)]
    epochs: Count
    method: Method
    mask: Mask
    mto: Mto
    data: CroppedData
    schedule: Rates

    @property
    def img_size(self) -> int:
        """Returns the side of what the network sees, in pixels."""
        return self.method.img_size


class HeterogeneityJob(Job):
    """The analysis of a pre-trained method."""

    method: Method
    mask: Mask
    data: EvaluatedData
    images: Count
    affinity_images: Count
    variants: list[Variant]

    @property
    def img_size(self) -> int:
        """Returns the side of what the network sees, in pixels."""
        return self.method.img_size


class EncoderJob(Job):
    """What measures an encoder; at epoch 0 `method` is the one whose first weights the encoder has."""

    encoder: Encoder
    method: Method | None = None

    @property
    def img_size(self) -> int:
        """Returns the side of what the network sees, in pixels."""
        return self.encoder.img_size


class TrainedJob(EncoderJob, LoggedJob):
    """What trains on an encoder."""


class ClassifierJob(TrainedJob):
    """What trains on ImageNet's labels."""

    epochs: Count
    schedule: Rates
    eval_interval: Count


class FinetuneJob(ClassifierJob):
    """Fine-tuning."""

    data: FinetunedData
    ema_decay: Share | None


class Probe(Part):
    """Which feature a probe reads: `mto.config.recipe.Probe`, with its layers by number."""

    feature: Literal["cls", "mean", "cls_mean"]
    layer: Count | list[Count]
    norm: bool | Literal["fresh"]
    batch_norm: bool
    head_std: Positive


class LinearJob(ClassifierJob):
    """A linear probe."""

    data: ProbedData
    probe: Probe


class Feature(Part):
    """The feature of an encoder that is compared as it is."""

    pool: Literal["cls", "mean", "cls_mean"]
    layer: Count
    norm: bool | Literal["fresh"]


class EvaluatedJob(EncoderJob):
    """What trains nothing: the probe's feature, and the settings of the stage's own name."""

    data: EvaluatedData
    feature: Feature


class KnnJob(EvaluatedJob, Neighbours):
    """The vote of the nearest neighbours."""


class DenseJob(TrainedJob):
    """What UPerNet and Mask R-CNN share. Sizes in pixels, blocks counted from 0."""

    schedule: TransferSchedule
    resize_ratio: Range
    hflip: Unit
    out_indices: Taps
    layer_scale: Positive | None


class Ade20kJob(DenseJob):
    """UPerNet on ADE20K; see `mto.openmmlab.upernet`."""

    iterations: Count
    crop_size: Count
    slide_stride: Count
    resize: list[Count]
    head: UperHead
    save_interval: Count


class CocoJob(DenseJob):
    """Mask R-CNN on COCO; see `mto.openmmlab.maskrcnn`. Windows in patches."""

    epochs: Count
    image_size: Count
    window_size: Count
    global_blocks: list[Annotated[int, Ge(0)]]
    position: Literal["row_first", "own", "resized"]
    detector: Detector


#: The jobs of the stages; a stage without one here evaluates, and has the settings of its name (`kind_of`).
JOBS: dict[str, type[Job]] = {
    "pretrain": PretrainJob,
    "finetune": FinetuneJob,
    "linear": LinearJob,
    "knn": KnnJob,
    "ade20k": Ade20kJob,
    "coco": CocoJob,
    "heterogeneity": HeterogeneityJob,
}


@cache
def kind_of(stage: str) -> type[Job]:
    """Returns the jobs of a stage; of one that is not named above, what evaluates, with the settings of its name."""
    if stage in JOBS:
        return JOBS[stage]
    from mto.config.models import Config

    settings: Any = Config.model_fields[stage].annotation
    fields = settings.model_fields.items()
    keys = {
        name: Annotated[(key.annotation, *key.metadata)] if key.metadata else key.annotation for name, key in fields
    }
    defaults = {name: key.default for name, key in fields if not key.is_required()}
    return build(f"{stage.capitalize()}Job", EvaluatedJob, keys, defaults)


# -------------------------------------------------------------------------------------------------------- the dataset's
class DataJob(Part):
    """The job of a dataset: makes it where `make` says how, else looks over the one at `root`."""

    task: Literal["data"]
    scale: str
    dataset: Literal["imagenet", "ade20k", "coco"]
    root: str
    num_classes: Count
    classes: Classes | None = None
    cache: Cache | None = None
    convert: str | None = None
    make: Make | None

    def plain(self) -> dict[str, Any]:
        """Returns what JSON gives back."""
        return self.written()


class Photographs(Part):
    """The images that a preflight measures with, or how large it makes some up."""

    root: str
    num_classes: Count
    classes: Classes | None = None
    convert: str | None = None
    side: Annotated[list[Count], Len(2, 2)]


class PreflightJob(Part):
    """The job that measures a stage: its own `jobs`, as JSON has them."""

    task: Literal["preflight"]
    scale: str
    stage: str
    jobs: list[dict[str, Any]]
    images: Photographs

    def plain(self) -> dict[str, Any]:
        """Returns what JSON gives back."""
        return self.written()


# ------------------------------------------------------------------------------------------------------------- reading
def read(job: Mapping[str, Any]) -> Job:
    """Returns the job of a stage.

    Args:
        job: as JSON has it, with its ``task``.

    Raises:
        UserError: it lacks a key, has one that it should not, or a value of another kind.
    """
    task = job.get("task")
    if task not in STAGES:
        raise UserError(f"--job: of no stage: task is {task!r} (known: {', '.join(STAGES)})")
    return parse(kind_of(task), job)


def in_order(node: Any) -> Any:
    """Returns mappings sorted by key, tuples as lists: what JSON gives back, so that a job equals itself in a file."""
    if isinstance(node, dict):
        return {key: in_order(node[key]) for key in sorted(node)}
    return [in_order(item) for item in node] if isinstance(node, list | tuple) else node
