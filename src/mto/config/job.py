"""The jobs of the stages, typed: what `mto.study.jobs` resolves of the settings, and what `mto.tasks` computes from.

A job's identity is its JSON, with exactly the keys that it was given (`Job.plain`): a key that has a default may be
left out, so that a job that was finished before there was such a key stays what it was. What is the same in a job as in
the settings has the settings' own model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import ConfigDict, Field, ValidationError, create_model, model_validator

from mto.config.classes import Classes
from mto.config.fields import Areas, Count, Model, NonNegative, Positive, Range, Seed, Share, Taps, Unit
from mto.config.models import Cache, Config, Evaluation, Make, Neighbours, Preset, Variant
from mto.config.recipe import (
    Backbone,
    Detector,
    FinetuneAugment,
    Labels,
    Mask,
    Schedule,
    TeacherView,
    TransferSchedule,
    UperHead,
)
from mto.errors import UserError
from mto.names import BASELINES, STAGES


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

    model_config = ConfigDict(extra="allow")

    name: str

    @model_validator(mode="after")
    def _has_its_settings(self) -> Self:
        given, known = set(self.model_extra or ()), set(BASELINES[self.name].settings)
        if given - known:
            raise ValueError(f"{self.name} has no setting {', '.join(sorted(given - known))}")
        return self


#: A run without MTO has no switches.
_SWITCHES: dict[str, Any] = {name: (field.annotation | None, None) for name, field in Preset.model_fields.items()}  # type: ignore[operator]
_Switches: Any = create_model("_Switches", __base__=Model, **_SWITCHES)


class Mto(_Switches):  # type: ignore[misc]
    """The arguments of `mto.MaskedTokenOptimization`."""

    terms: list[str]


class Optim(Model):
    """An optimiser; a stage names what its recipe sets."""

    batch_size: Count
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)]  # of base and batch: no setting bounds it
    weight_decay: NonNegative
    kind: Literal["adamw", "lars"] = "adamw"
    betas: Annotated[list[Share], Field(min_length=2, max_length=2)] = Field(default=[0.9, 0.999])
    eps: Positive = 1e-8
    momentum: Unit = 0.9
    clip_grad: Positive | None = None
    layer_decay: Annotated[float, Field(gt=0, le=1)] | None = None
    no_decay: list[str] = Field(default=[])


#: A number that is written as it was given: these defaults are whole numbers in jobs that are finished.
AsGiven = Annotated[int, Field(ge=0)] | NonNegative


class Rates(Schedule):
    """The learning rate over training, in epochs."""

    warmup_epochs: AsGiven = 0
    warmup_lr: AsGiven = 0
    min_lr: AsGiven = 0


class Data(Model):
    """The images: how many classes and which, the pixels' mean and deviation; and where they lie, in no identity.

    `cache` is the shorter side of the cached images that are trained on, `decode` where they are decoded, `labels` the
    share of the labels that is used. `listing` and `cache_folder` are of the dataset's job.
    """

    num_classes: Annotated[int, Field(ge=1)]
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
class Job(Model):
    """What the jobs of all stages have: which step it is, and what it reads; an encoder of one's own has no epoch."""

    task: str
    scale: str
    recipe: Literal["paper", "official"]
    run: str
    baseline: str
    backbone: str
    seed: Seed
    epoch: Annotated[int, Field(ge=0)] | None
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
        return self.model_copy(update={"data": self.data.model_copy(update=place)})


class LoggedJob(Job):
    """A job that optimises weights."""

    optim: Optim
    log_interval: Count


class PretrainJob(LoggedJob):
    """Pre-training up to `epoch`, of a schedule of `epochs`."""

    epoch: Annotated[int, Field(ge=0)]
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


class Probe(Model):
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


class Feature(Model):
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
    global_blocks: list[Annotated[int, Field(ge=0)]]
    position: Literal["row_first", "own", "resized"]
    detector: Detector


#: The jobs of the stages; a stage without a model here evaluates, and has the settings of its name (`_evaluated`).
JOBS: dict[str, type[Job]] = {
    "pretrain": PretrainJob,
    "finetune": FinetuneJob,
    "linear": LinearJob,
    "knn": KnnJob,
    "ade20k": Ade20kJob,
    "coco": CocoJob,
    "heterogeneity": HeterogeneityJob,
}


def _evaluated(stage: str) -> type[Job]:
    """Returns the model of the jobs of a stage that trains nothing."""
    settings: Any = Config.model_fields[stage].annotation
    return create_model(f"{stage.capitalize()}Job", __base__=(EvaluatedJob, settings))


JOBS |= {stage: _evaluated(stage) for stage in STAGES if stage not in JOBS}


# -------------------------------------------------------------------------------------------------------- the dataset's
class DataJob(Model):
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


class Photographs(Model):
    """The images that a preflight measures with, or how large it makes some up."""

    root: str
    num_classes: Count
    classes: Classes | None = None
    convert: str | None = None
    side: Annotated[list[Count], Field(min_length=2, max_length=2)]


class PreflightJob(Model):
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
J = TypeVar("J", bound=Model)


def read(job: Mapping[str, Any]) -> Job:
    """Returns the job of a stage.

    Args:
        job: as JSON has it, with its ``task``.

    Raises:
        UserError: it lacks a key, has one that it should not, or a value of another kind.
    """
    task = job.get("task")
    if task not in JOBS:
        raise UserError(f"--job: of no stage: task is {task!r} (known: {', '.join(JOBS)})")
    return parse(JOBS[task], job)


def parse(kind: type[J], job: Mapping[str, Any]) -> J:
    """Returns a job of that kind.

    Raises:
        UserError: as of `read`.
    """
    try:
        return kind.model_validate(dict(job))
    except ValidationError as error:
        found = error.errors()
    lacking = [_place(each) for each in found if each["type"] == "missing"]
    if lacking:
        raise UserError(f"--job: lacks {', '.join(lacking)}; a job.json beside a task's outputs is whole")
    if unknown := [_place(each) for each in found if each["type"] == "extra_forbidden"]:
        raise UserError(f"--job: unknown: {', '.join(unknown)}; is it a job of another version?")
    first = found[0]
    raise UserError(f"--job: {_place(first)}: {first['msg'].removeprefix('Value error, ')}, not {first['input']!r}")


def _place(problem: Any) -> str:
    return ".".join(map(str, problem["loc"]))


def in_order(node: Any) -> Any:
    """Mappings sorted by key, tuples as lists: what JSON gives back, so that a job equals itself read from a file."""
    if isinstance(node, dict):
        return {key: in_order(node[key]) for key in sorted(node)}
    return [in_order(item) for item in node] if isinstance(node, list | tuple) else node
