"""What a task sees of config.yaml: resolved and plain, one method a stage. `mto.study.study` adds which step it is."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from mto.config.models import Config, Dataset, Preset
from mto.names import Run


class Jobs:
    """Builds the jobs of one config.

    Args:
        preset: gives the switches of a run with MTO (`Study.preset`).
        starts_at: gives the epoch at which a run's MTO is switched on (`Study.starts_at`).
    """

    def __init__(self, config: Config, preset: Callable[[Run], Preset], starts_at: Callable[[Run], int]) -> None:
        self.config = config
        self.preset = preset
        self.starts_at = starts_at
        self._parts: dict[tuple[str, str], dict[str, Any]] = {}

    def of(self, task: str, run: Run) -> dict[str, Any]:
        """Returns what the jobs of a task on a run have in common, over seeds and epochs."""
        if (task, run.name) not in self._parts:
            build = getattr(self, f"_{task}", partial(self._evaluated, task))
            self._parts[task, run.name] = build(run)
        return self._parts[task, run.name]

    def recipe(self, run: Run) -> Any:
        """Returns the recipe of the run's baseline, with its backbone's overrides."""
        return self.config.of(run.baseline, run.backbone)

    def _size(self, run: Run) -> dict[str, Any]:
        backbone = self.config.backbones[run.backbone].model_dump()  # type: ignore[index]
        return {"img_size": self.config.img_size, "patch_size": self.config.patch_size, **backbone}

    def _data(self, run: Run, dataset: str, augment: Any = None) -> dict[str, Any]:
        source = getattr(self.config.datasets, dataset)
        shared = {"num_classes": source.num_classes, **classes_of(source), **self.recipe(run).pixels.model_dump()}
        return shared if augment is None else {**shared, **augment}

    def _train_data(self, run: Run, augment: dict[str, Any], *, on_device: bool = False) -> dict[str, Any]:
        """Returns ImageNet's settings, with what alters the training pixels: the cache's side, a device's decoder.

        Args:
            on_device: this stage's images may be decoded on the device.
        """
        source = self.config.datasets.imagenet
        data = self._data(run, "imagenet", augment)
        if source.cache is not None:
            data["cache"] = source.cache.side
        if on_device and source.decode == "device":
            data["decode"] = "device"
        return data

    def method(self, run: Run) -> dict[str, Any]:
        """Returns the network that is pre-trained, with its decoder."""
        method = {"name": run.baseline, **self._size(run), **self.recipe(run).method.model_dump()}
        return method if run.decoder_depth is None else {**method, "decoder_depth": run.decoder_depth}

    def _encoder(self, run: Run, drop_path: float) -> dict[str, Any]:
        init_values = getattr(self.recipe(run).method, "init_values", None)
        return {"baseline": run.baseline, **self._size(run), "init_values": init_values, "drop_path": drop_path}

    def _pretrain(self, run: Run) -> dict[str, Any]:
        recipe = self.recipe(run)
        stage = recipe.pretrain
        optim = stage.model_dump(include={"batch_size", "betas", "weight_decay", "clip_grad", "no_decay"})
        mto = {**self.preset(run).model_dump(), "terms": list(run.terms)} if run.terms else {"terms": []}
        mto.pop("starts_at", None)
        if starts_at := self.starts_at(run):
            mto["starts_at"] = starts_at
        return {
            "epochs": stage.schedule.total_epochs or self.config.study.pretrain_epochs,
            "method": self.method(run),
            "mask": recipe.mask.model_dump(exclude_none=True),
            "mto": mto,
            "data": self._train_data(run, stage.augment.model_dump(exclude_none=True), on_device=True),
            "optim": {**optim, "lr": stage.lr.peak(stage.batch_size), "eps": 1e-8},
            "schedule": stage.schedule.model_dump(exclude={"total_epochs"}),
            "log_interval": self.config.log_interval,
        }

    def _finetune(self, run: Run) -> dict[str, Any]:
        stage = self.recipe(run).finetune
        optim = stage.model_dump(include={"batch_size", "betas", "weight_decay", "clip_grad", "layer_decay"})
        augment = {"augment": stage.augment.model_dump(), "eval": self.config.evaluation.model_dump()}
        return {
            "epochs": stage.epochs,
            "encoder": self._encoder(run, stage.drop_path),
            "data": self._train_data(run, augment) | share_of(stage.labels),
            "optim": {
                **optim,
                "lr": stage.lr.peak(stage.batch_size),
                "eps": 1e-8,
                "no_decay": ["pos_embed", "cls_token"],
            },
            "schedule": stage.schedule.model_dump(exclude={"total_epochs"}),
            "ema_decay": stage.ema_decay,
            "eval_interval": self.config.eval_interval,
            "log_interval": self.config.log_interval,
        }

    def _linear(self, run: Run) -> dict[str, Any]:
        stage = self.recipe(run).linear
        depth = self.config.backbones[run.backbone].depth  # type: ignore[index]
        layer = {"last": depth, "all": list(range(1, depth + 1))}.get(stage.probe.layer, stage.probe.layer)  # type: ignore[call-overload]
        optim = stage.model_dump(include={"batch_size", "weight_decay", "momentum"})
        augment = {**stage.augment.model_dump(), "eval": self.config.evaluation.model_dump()}
        return {
            "epochs": stage.epochs,
            "encoder": self._encoder(run, drop_path=0.0),
            "probe": {**stage.probe.model_dump(), "layer": layer},
            "data": self._train_data(run, augment, on_device=True) | share_of(stage.labels),
            "optim": {**optim, "kind": stage.optimizer, "lr": stage.lr.peak(stage.batch_size)},
            "schedule": stage.schedule.model_dump(exclude={"total_epochs"}),
            "eval_interval": self.config.eval_interval,
            "log_interval": self.config.log_interval,
        }

    def _evaluated(self, task: str, run: Run) -> dict[str, Any]:
        """Builds the job of a stage that trains nothing: the probe's feature, and the settings under its name."""
        stage = self.recipe(run).linear
        probe = stage.probe
        depth = self.config.backbones[run.backbone].depth
        return {
            "encoder": self._encoder(run, drop_path=0.0),
            "feature": {
                "pool": probe.feature,
                "layer": probe.layer if isinstance(probe.layer, int) else depth,
                "norm": probe.norm,
            },
            "data": {
                **self._data(run, "imagenet"),
                "eval": self.config.evaluation.model_dump(),
                **share_of(stage.labels),
            },
            **getattr(self.config, task).model_dump(),
        }

    def _heterogeneity(self, run: Run) -> dict[str, Any]:
        recipe = self.recipe(run)
        data = {**self._data(run, "imagenet"), "eval": self.config.evaluation.model_dump()}
        return {
            "method": self.method(run),
            "mask": recipe.mask.model_dump(exclude_none=True),
            "data": data,
            **self.config.analysis.model_dump(exclude_none=True),
        }

    def _ade20k(self, run: Run) -> dict[str, Any]:
        return self._transfer(run, "ade20k")

    def _coco(self, run: Run) -> dict[str, Any]:
        return self._transfer(run, "coco")

    def _transfer(self, run: Run, task: str) -> dict[str, Any]:
        stage = getattr(self.recipe(run), task)
        optim = stage.model_dump(include={"batch_size", "betas", "weight_decay", "clip_grad", "layer_decay"})
        rest = stage.model_dump(exclude={*optim, "lr", "drop_path"})
        return {
            "encoder": self._encoder(run, stage.drop_path),
            "data": self._data(run, task),
            "optim": {**optim, "lr": stage.lr.peak(stage.batch_size)},
            "log_interval": self.config.log_interval,
            **rest,
        }


def share_of(labels: float) -> dict[str, float]:
    """Returns the share of the labels that is used; nothing for all of them, as in jobs before there was a share."""
    return {} if labels == 1 else {"labels": labels}


def cache_of(source: Dataset) -> dict[str, Any]:
    """Returns the settings of the cache of training images, where there is one."""
    cache = getattr(source, "cache", None)
    return {} if cache is None else {"cache": cache.model_dump()}


def convert_of(source: Dataset) -> dict[str, Any]:
    """Returns the folder of a copy that is read faster, where one is wanted."""
    folder = getattr(source, "convert", None) if source.make is None else None
    return {} if folder is None else {"convert": folder}


def classes_of(source: Dataset) -> dict[str, list[str]]:
    """Returns the class folders that are looked at, where it is not all of them."""
    chosen = getattr(source, "classes", None)
    return {} if chosen is None else {"classes": chosen}
