"""What the study is made of, each declared once and without torch: baselines, stages, runs, steps and cells.

Everything else iterates over these tables: the targets and rules of the workflow, the command line, the models of the
settings, the plan and the bench, the report. CONTRIBUTING.md says what else a new baseline or stage needs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Literal, NamedTuple

from mto.errors import UserError

#: How much a network keeps for its backward pass (`mto.methods.memory`), most first.
Memory = Literal["fast", "lean", "least"]
#: And what that costs.
MEMORIES: dict[Memory, str] = {
    "fast": "nothing",
    "lean": "a tenth more memory traffic",
    "least": "a third more arithmetic",
}
#: Stages whose backward pass goes through the network's blocks, so that less may be kept for it.
SPARED = ("pretrain", "finetune", "ade20k", "coco")


# ----------------------------------------------------------------------------------------------------------- baselines
@dataclass(frozen=True)
class Baseline:
    """A method of masked image modeling that the study trains without and with MTO.

    Attributes:
        title: its name in tables and figures.
        method: the class of `mto.methods` that pre-trains it, in the module of the baseline's own name.
        masked_in: where masked tokens are processed, and so where MTO acts: in the encoder, or in a decoder.
        loss: the term of the method's own loss that the table of presets shows.
        settings: the keys of `baselines.<name>.method` and their kinds (`mto.config.recipe.KINDS`).
        encoder: timm's class of its encoder, VisionTransformer or Beit.
        position: ``fixed`` sine-cosine tables, or ``relative`` biases shared by all blocks.
        row_first: whether its fixed positions list the row's half before the column's.
        streams: the stream whose diagnostics stand for it, where its decoder has several.
        reads_like: the baseline whose measured loading rate the plan takes; None: its own, in ``plan.images_per_core``.
    """

    title: str
    method: str
    masked_in: Literal["encoder", "decoder"]
    loss: str
    settings: Mapping[str, str]
    encoder: Literal["vit", "beit"]
    position: Literal["fixed", "relative"]
    row_first: bool = False
    stream: str | None = None
    reads_like: str | None = None


BASELINES: dict[str, Baseline] = {
    "simmim": Baseline(
        "SimMIM",
        "SimMIM",
        masked_in="encoder",
        loss="loss_reconstruction",
        settings={"drop_path": "share", "init_values": "positive"},
        encoder="beit",
        position="relative",
    ),
    "mae": Baseline(
        "MAE",
        "MAE",
        masked_in="decoder",
        loss="loss_reconstruction",
        settings={
            "decoder_embed_dim": "count",
            "decoder_depth": "count",
            "decoder_num_heads": "count",
            "norm_pix": "bool",
        },
        encoder="vit",
        position="fixed",
    ),
    "bootmae": Baseline(
        "BootMAE",
        "BootMAE",
        masked_in="decoder",
        loss="loss_pixel",
        settings={"decoder_embed_dim": "fourfold", "decoder_depth": "count"},
        encoder="beit",
        position="fixed",
        row_first=True,
        stream="pixel",
    ),
    "conmim": Baseline(
        "ConMIM",
        "ConMIM",
        masked_in="encoder",
        loss="loss_contrastive",
        settings={
            "init_values": "positive",
            "projector_dim": "count",
            "output_dim": "count",
            "temperature": "positive",
        },
        encoder="beit",
        position="relative",
    ),
}
#: The two slots for an encoder's size, and what the paper has in them. A smaller scale puts other networks there.
BACKBONES = {"vitb": "ViT-B", "vitl": "ViT-L"}


# -------------------------------------------------------------------------------------------------------------- stages
#: The datasets, and what the paper has in these slots. A smaller scale puts other images there.
DATASETS = {"imagenet": "ImageNet-1K", "ade20k": "ADE20K", "coco": "COCO"}


@dataclass(frozen=True)
class Stage:
    """A kind of job on a GPU. Its name is that of the task (`python -m mto NAME`), the folder and the target.

    Attributes:
        title: what it does, in a table of the report.
        rule: the rule that runs it.
        does: the rule's message, with the wildcards run, epoch and seed.
        dataset: what it reads.
        takes: what it needs of a pre-training step: the ``encoder``, the whole ``method``, or nothing (pre-training).
        trains: whether it optimises weights; the others evaluate once. What trains is measured by the preflight.
        compiles: whether its training step is compiled on a GPU.
        kernels: on a GPU: ``strict``, deterministic ones or an error; ``warn``, where torch has them.
        target: the target that asks for it, where it is not the name.
        like: the stage whose resources and loading rate it has where the settings name none.
    """

    title: str
    rule: str
    does: str
    dataset: Literal["imagenet", "ade20k", "coco"] = "imagenet"
    takes: Literal["encoder", "method", "nothing"] = "encoder"
    trains: bool = True
    compiles: bool = False
    kernels: Literal["strict", "warn"] = "strict"
    target: str | None = None
    like: str | None = None

    @property
    def from_scratch(self) -> bool:
        """Whether it can measure a network that was not pre-trained, which is epoch 0."""
        return self.takes == "encoder"


_AT = "{wildcards.run} at epoch {wildcards.epoch}, seed {wildcards.seed}"
STAGES: dict[str, Stage] = {
    "pretrain": Stage(
        "pre-training",
        "pretrain_segment",
        "Pre-training {wildcards.run} up to epoch {wildcards.epoch}, seed {wildcards.seed}",
        takes="nothing",
        compiles=True,
    ),
    "finetune": Stage(
        "fine-tuning",
        "finetune_encoder",
        "Fine-tuning {wildcards.run} from epoch {wildcards.epoch}, seed {wildcards.seed}",
        compiles=True,
    ),
    "linear": Stage("linear probe", "linear_probe", f"Linear probe of {_AT}", compiles=True),
    "knn": Stage("k nearest neighbours", "knn_vote", f"Nearest neighbours of {_AT}", trains=False, like="linear"),
    # UPerNet's pooling and loss, and Mask R-CNN's region features, have no deterministic form on a GPU.
    "ade20k": Stage(
        "UPerNet on ADE20K", "ade20k_upernet", f"UPerNet on ADE20K with {_AT}", dataset="ade20k", kernels="warn"
    ),
    "coco": Stage(
        "Mask R-CNN on COCO", "coco_maskrcnn", f"Mask R-CNN on COCO with {_AT}", dataset="coco", kernels="warn"
    ),
    "heterogeneity": Stage(
        "heterogeneity",
        "heterogeneity",
        f"Heterogeneity of {_AT}",
        takes="method",
        trains=False,
        target="analysis",
        like="linear",
    ),
}
#: The stages that optimise weights.
TRAINED = tuple(name for name, stage in STAGES.items() if stage.trains)


# ---------------------------------------------------------------------------------------------------------------- runs
TERMS = ("spa", "e", "r")
#: What a preset of MTO may be called: no hyphen, which ends a part of a run's name.
PRESET = "[a-z0-9_]+"
#: Where a training's curves may go, beside its history.jsonl (`log` in config.yaml).
TRACKERS = ("tensorboard", "trackio", "wandb")
#: Beside the files of a pre-training step that was not trained here but taken from a published checkpoint.
IMPORTED = "imported.json"
#: The file in a job's progress folder that asks it to start over (`snakemake --forcerun`).
RESTART = "restart"

_RUN = re.compile(
    rf"(?P<baseline>[a-z]+)-(?P<backbone>{'|'.join(BACKBONES)})"
    rf"(?P<mto>-mto(_(?P<terms>[a-z_]+))?(@(?P<preset>{PRESET}))?)?(-depth(?P<depth>[1-9]\d*))?"
)


@dataclass(frozen=True)
class Run:
    """What is pre-trained.

    `terms` are MTO's, empty for the plain baseline; `preset` names their switches, None for the config's default, so
    that a run has one name; `decoder_depth` is given only where it is varied.
    """

    baseline: str
    backbone: str
    terms: tuple[str, ...] = ()
    decoder_depth: int | None = None
    preset: str | None = None

    @property
    def name(self) -> str:
        """`mae-vitb`, `mae-vitb-mto`, `simmim-vitb-mto_spa_e@text`, `mae-vitb-mto-depth2`."""
        mto = "" if not self.terms else "-mto" if self.terms == TERMS else f"-mto_{'_'.join(self.terms)}"
        preset = "" if self.preset is None else f"@{self.preset}"
        depth = "" if self.decoder_depth is None else f"-depth{self.decoder_depth}"
        return f"{self.baseline}-{self.backbone}{mto}{preset}{depth}"

    @property
    def with_mto(self) -> Run:
        """The same with MTO's three terms and the default preset."""
        return replace(self, terms=TERMS, preset=None)

    @property
    def plain(self) -> Run:
        """The same without MTO, and with its own decoder: what it is compared with, and named after from scratch."""
        return Run(self.baseline, self.backbone)

    @property
    def without_mto(self) -> Run:
        """The same network without MTO: what a run with a warm start has in common with it until MTO starts."""
        return replace(self, terms=(), preset=None)

    @classmethod
    def parse(cls, name: str) -> Run:
        """Returns the run of that name.

        Raises:
            UserError: there is no such run.
        """
        match = _RUN.fullmatch(name)
        if not match:
            raise UserError(
                f"no such run: '{name}' (as in mae-vitb, mae-vitb-mto, mae-vitb-mto@text, simmim-vitb-mto_spa, "
                "mae-vitb-mto-depth2)"
            )
        given = set(match["terms"].split("_")) if match["terms"] else set(TERMS) if match["mto"] else set()
        run = cls(
            match["baseline"],
            match["backbone"],
            tuple(term for term in TERMS if term in given),
            int(match["depth"]) if match["depth"] else None,
            match["preset"],
        )
        if run.name != name or run.baseline not in BASELINES:
            raise UserError(f"no such run: '{name}'; did you mean '{run.name}'? (baselines: {', '.join(BASELINES)})")
        return run


# ------------------------------------------------------------------------------------------------------ steps and cells
class Step(NamedTuple):
    """One cached GPU job: a stage's task on a run, with a seed, at a number of completed pre-training epochs."""

    task: str
    run: str
    seed: int
    epoch: int

    @property
    def folder(self) -> str:
        """Where its files are below results/<scale>: identity only, never a hyper-parameter."""
        return f"{self.task}/{self.run}/seed{self.seed}/epoch{self.epoch:04d}"

    @classmethod
    def at(cls, folder: PurePath) -> Step:
        """Returns the step whose folder it is.

        Raises:
            ValueError: it is not spelled as a step's folder.
        """
        *_, task, run, seed, epoch = folder.parts
        step = cls(task, run, int(seed.removeprefix("seed")), int(epoch.removeprefix("epoch")))
        if PurePath(*folder.parts[-4:]) != PurePath(step.folder):
            raise ValueError(f"{folder}: not a step's folder, such as {step.folder}")
        return step


class Cell(NamedTuple):
    """One measured value of a table or figure: `metric` of `task` on `run` after `epoch` epochs, over all seeds."""

    task: str
    run: str
    epoch: int
    metric: str
