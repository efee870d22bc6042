"""What is to leave: a finished pre-training step, read from its folder, and what was measured of it beside."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mto.errors import UserError
from mto.files import read_json
from mto.names import BASELINES, STAGES, Baseline, Step
from mto.training.weights import load_weights

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Encoder:
    """A pre-trained encoder and what is known of it.

    Attributes:
        folder: results/<scale>/pretrain/<run>/seed<k>/epoch<NNNN>.
        job: the pre-training job, as job.json has it.
        record: metrics.json, with the values and their provenance.
        weights: the tensors of encoder.safetensors, under timm's names.
    """

    folder: Path
    job: dict[str, Any]
    record: dict[str, Any]
    weights: dict[str, Tensor]

    @property
    def baseline(self) -> Baseline:
        return BASELINES[self.job["baseline"]]

    @property
    def size(self) -> dict[str, Any]:
        """Returns img_size, patch_size, embed_dim, depth, num_heads and mlp_ratio."""
        method = self.job["method"]
        return {key: method[key] for key in ("img_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio")}

    @property
    def name(self) -> str:
        """Returns `mae-vitb-mto-seed0-epoch0800`."""
        return f"{self.job['run']}-seed{self.job['seed']}-epoch{self.job['epoch']:04d}"

    def measured(self) -> list[tuple[str, str, float]]:
        """Returns (stage, metric, value) of each stage that has measured this very encoder."""
        results, found = self.folder.parents[3], []
        for stage in STAGES:
            if stage == "pretrain":
                continue
            path = results / Step(stage, self.job["run"], self.job["seed"], self.job["epoch"]).folder / "metrics.json"
            for metric, value in ((read_json(path) or {}).get("metrics", {}) if path.exists() else {}).items():
                if isinstance(value, int | float):
                    found.append((stage, metric, float(value)))
        return found


def read(folder: Path) -> Encoder:
    """Reads the encoder of a finished pre-training step.

    Raises:
        UserError: the folder holds none, or one of its files is damaged.
    """
    folder = folder.parent if folder.name == "encoder.safetensors" else folder
    for name in ("encoder.safetensors", "job.json", "metrics.json"):
        if not (folder / name).exists():
            raise UserError(
                f"{folder / name}: no such file; name the folder of a finished pre-training, such as "
                "results/demo/pretrain/mae-vitb/seed0/epoch0008"
            )
    job = (read_json(folder / "job.json") or {}).get("job", {})
    if job.get("task") != "pretrain" or job.get("baseline") not in BASELINES:
        raise UserError(f"{folder / 'job.json'}: not the job of a pre-training, so there is no encoder to export")
    return Encoder(folder, job, read_json(folder / "metrics.json"), load_weights(folder / "encoder.safetensors"))
