"""What every task shares: its job, its inputs, its folder, the progress in it, and how it ends."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from mto.config.job import DataJob, EncoderJob, Job, parse
from mto.data import bad_files
from mto.data.cache import folder_of
from mto.data.listing import NAME as LISTING
from mto.errors import UserError
from mto.files import digest, json_object, link_or_copy, read_json, replacing, write_json
from mto.names import RESTART
from mto.runtime.lock import NAME as LOCK
from mto.runtime.lock import Lock
from mto.tasks.provenance import Attempts, provenance
from mto.tasks.prune import FINISHED, prune
from mto.training.hardware import Hardware

if TYPE_CHECKING:
    from torch import Tensor

IDENTITY = ("task", "scale", "run", "baseline", "backbone", "seed", "epoch")

#: What stays of the progress when a job is done.
KEPT = (FINISHED, "tensorboard", "attempts", "origin.json")


J = TypeVar("J", bound=Job)


@dataclass
class Task(Generic[J]):
    """One job and where it works.

    Attributes:
        job: all that the task computes from (`mto.config.job`).
        inputs: files of earlier jobs, by name.
        out: folder of the declared outputs.
        hardware: devices and workers, never part of the job.
        began: when its first process started, in seconds since 1970.
        guard: log intervals of a collapse after which pre-training with MTO is stopped; 0: it never is.
        gradient_interval: log intervals from one comparison of MTO's gradients with the method's to the next; 0: never.
            Like the guard it alters no result: it is in no job.
        prune: once done, reduce the input ``state`` to its weights: nothing else continues it.
        replay: the record of a failed step, which is taken again in the place of training (`mto.tasks.replay`).
    """

    name: str
    job: J
    inputs: dict[str, Path]
    out: Path
    hardware: Hardware = field(default_factory=Hardware)
    began: float = field(default_factory=time.time)
    guard: int = 10
    gradient_interval: int = 10
    prune: bool = False
    replay: Path | None = None

    def __post_init__(self) -> None:
        self.attempts = Attempts(self.progress / "attempts", self.hardware.gpus, self.began)
        self.lock = Lock(self.out, on_beat=self._on_beat)

    def _on_beat(self) -> None:
        if self.progress.exists():
            self.attempts.note()

    @property
    def progress(self) -> Path:
        """State, history and curves: survives a failed attempt, since Snakemake does not know of it."""
        return self.out / "progress"

    def start(self) -> None:
        """Makes the folder, writes ``job.json``, and learns where the dataset lies.

        By ``job.json`` the job can be run again. The dataset's place comes from its manifest (the input ``data``), not
        from the job.

        Raises:
            UserError: an input is not there.
        """
        for name, path in self.inputs.items():
            if not path.exists():
                raise UserError(f"--inputs {name}={path}: no such file; it is an output of an earlier job")
        if not self.hardware.rank:
            self._record()
        bad_files.policy.record = self.progress / bad_files.RECORD
        if "data" in self.inputs:
            manifest = read_json(self.inputs["data"]) or {}
            if "root" not in manifest.get("job", {}):
                raise UserError(f"{self.inputs['data']}: damaged, names no dataset; remove it and run again")
            made = parse(DataJob, manifest["job"])
            root = manifest.get("root", made.root)  # a copy, where its job made one
            place = {"root": root, "listing": str(self.inputs["data"].with_name(LISTING))}
            if made.cache is not None:
                place["cache_folder"] = str(folder_of(made.scale, made.cache, self.inputs["data"].parent))
            self.job = self.job.reading(**place)

    def _record(self) -> None:
        paths = {name: str(path) for name, path in self.inputs.items()}
        inputs = {name: _identity(path) for name, path in self.inputs.items() if name != "data"}
        # Progress of another job, or on other inputs, must not be continued.
        origin = {"task": self.name, "job": self.job.plain(), "inputs": inputs}
        restart = (self.progress / RESTART).exists()
        if self.progress.exists() and (restart or self._read_origin() != origin):
            shutil.rmtree(self.progress)
        write_json(self.progress / "origin.json", origin)
        write_json(self.out / "job.json", {"task": self.name, "job": self.job.plain(), "inputs": paths})
        self.attempts.note()

    def _read_origin(self) -> Any:
        try:
            return read_json(self.progress / "origin.json")
        except UserError as error:
            raise UserError(f"{self.progress}/origin.json: damaged; remove {self.progress} to start over") from error

    def input(self, name: str) -> Path:
        """Returns the path of an input.

        Raises:
            UserError: it was not given.
        """
        if name not in self.inputs:
            raise UserError(f"{self.name} needs --inputs {name}=PATH")
        return self.inputs[name]

    def read_encoder(self) -> dict[str, Tensor]:
        """Returns the tensors of the input ``encoder``, under timm's names.

        At epoch 0 they are those that pre-training starts from.
        """
        if self.job.epoch == 0:
            from mto.tasks.build import build_method

            assert isinstance(self.job, EncoderJob)
            assert self.job.method is not None
            method = build_method(self.job.method, self.job.seed)
            return method.encoder_state(method.make_teacher())
        from mto.training.weights import load_weights, metadata

        path = self.input("encoder")
        weights, said = load_weights(path), metadata(path)
        for key in ("run", "epoch", "seed"):  # as pre-training wrote it; of an encoder from elsewhere nothing is known
            if key in said and said[key] != str(getattr(self.job, key)):
                raise UserError(
                    f"{path}: of {key} {said[key]}, but this job is of {key} {getattr(self.job, key)}; give the "
                    f"encoder of {self.job.run}, seed {self.job.seed}, epoch {self.job.epoch}"
                )
        return weights

    @contextmanager
    def naming_encoder(self) -> Iterator[None]:
        """Turns an encoder that does not fit the model into a mistake that names its file."""
        from mto.methods.encoder import DoesNotFit

        try:
            yield
        except DoesNotFit as error:
            raise UserError(f"{self.inputs.get('encoder', self.out)}: {error}") from error

    def finish(self, metrics: dict[str, float], usage: dict[str, float] | None = None) -> None:
        """Writes ``history.jsonl`` (if there is one) and ``metrics.json``; keeps of the progress what a rerun needs.

        Args:
            usage: of the log (`mto.training.log.Log`), which counts earlier attempts too.

        Raises:
            UserError: a metric is no number, and nothing was written.
        """
        if self.hardware.rank:
            return
        if wrong := [f"{name} is {value}" for name, value in metrics.items() if not math.isfinite(value)]:
            raise UserError(f"{self.out}: {', '.join(wrong)}: no result; see {self.progress}")
        self.lock.check()
        history = self.progress / "history.jsonl"
        if history.exists():
            with replacing(self.out / "history.jsonl") as temporary:
                shutil.copyfile(history, temporary)
        if passed := bad_files.policy.passed():
            metrics = {**metrics, "bad_files": len(passed)}
        write_json(
            self.out / "metrics.json",
            {key: getattr(self.job, key) for key in IDENTITY}
            | {
                "task": self.name,
                "metrics": metrics,
                "provenance": provenance(self.hardware, self.attempts, usage or {}),
            },
        )
        draft = self.progress / f"{FINISHED}.tmp"
        shutil.rmtree(draft, ignore_errors=True)
        for path in self.out.iterdir():
            if path.is_file() and path.name not in ("job.json", LOCK) and not path.name.startswith("."):
                link_or_copy(path, draft / path.name)
        shutil.rmtree(self.progress / FINISHED, ignore_errors=True)
        draft.rename(self.progress / FINISHED)
        for path in self.progress.iterdir():
            if path.name not in KEPT:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        self._prune()

    def _prune(self) -> None:
        if self.prune and (state := self.inputs.get("state")):
            prune(state, self._read_origin()["inputs"]["state"])

    def publish_again(self) -> bool:
        """Puts the outputs of this very job in their places once more, if an earlier attempt had finished it.

        A scheduler that lost sight of a job reports it failed, and Snakemake deletes what the job had made. The names
        in the progress folder hold it; nothing is computed twice. ``snakemake --forcerun`` still computes anew.
        """
        finished = self.progress / FINISHED
        if not finished.is_dir():
            return False
        for path in sorted(finished.iterdir()):
            link_or_copy(path, self.out / path.name)
            os.utime(self.out / path.name)  # newer than the inputs, or Snakemake would come again
        print(f"mto: {self.out}: this job had finished; its outputs are in their places again", flush=True)
        self._prune()
        return True


def _identity(path: Path) -> str:
    """Returns an input's fingerprint, else the digest of its content.

    A training state carries the fingerprint, which stays when the optimiser's moments are dropped.
    """
    if path.suffix == ".pth":
        from mto.training.checkpoint import Damaged, read_record

        with suppress(Damaged):  # whoever loads it says so
            if fingerprint := read_record(path).get("fingerprint"):
                return fingerprint
    return digest(path)


def read_job(text: str) -> tuple[dict[str, Any], dict[str, Path]]:
    """Returns a job as JSON has it, and its inputs: from JSON text, or a file with either a job or a ``job.json``.

    Raises:
        UserError: no such file, or no JSON object.
    """
    job = json_object(text, "--job")
    if isinstance(job.get("job"), dict):
        return job["job"], {name: Path(path) for name, path in job.get("inputs", {}).items()}
    return job, {}
