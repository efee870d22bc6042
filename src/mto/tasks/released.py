"""``python -m mto released``: take a baseline's published checkpoint as a pre-trained run of the study.

Its files come to lie where pre-training would have put them, so that fine-tuning, probes, transfer and the
heterogeneity analysis treat it as any run: our downstream stages can be held against published numbers without 800
epochs first.
"""

import argparse
import hashlib
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from mto.config import load
from mto.config.job import PretrainJob
from mto.errors import UserError
from mto.files import replacing, write_json
from mto.names import IMPORTED, Step
from mto.storage import again
from mto.study.study import Study


def main(argv: Sequence[str] | None = None) -> None:
    """Imports one checkpoint; see ``--help``."""
    parser = argparse.ArgumentParser(
        prog="python -m mto released",
        description="Take an official pre-training checkpoint, or its encoder alone, as a run of the study.",
    )
    parser.add_argument("checkpoint", type=Path, help="the official file, for example mae_pretrain_vit_base_full.pth")
    parser.add_argument("--run", required=True, help="the run it stands for, for example mae-vitb")
    parser.add_argument("--epoch", type=int, help="the measured epoch it stands for (default: the last)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", default="paper", help="default: paper")
    args = parser.parse_args(argv)
    config = load("config.yaml", scale=args.scale)
    study = Study(config)
    epoch = config.study.pretrain_epochs if args.epoch is None else args.epoch
    step = Step("pretrain", args.run, args.seed, epoch)
    if step not in study.select("pretrain"):
        known = ", ".join(sorted({s.run for s in study.select("pretrain")}))
        raise UserError(
            f"--run {args.run} --seed {args.seed} --epoch {epoch}: the study has no such step; its runs are {known}, "
            f"its seeds {config.seeds}, its epochs {config.study.measured_epochs}"
        )
    import_checkpoint(args.checkpoint, cast(PretrainJob, study.job(step)), Path(study.folder(step)))


def import_checkpoint(checkpoint: Path, job: PretrainJob, out: Path) -> None:
    """Writes encoder.safetensors, state.pth, metrics.json and history.jsonl for an official checkpoint.

    A file of the encoder alone (MAE's usual release) serves every stage but the heterogeneity analysis, which refuses
    the state.pth made of it.

    Args:
        job: the pre-training job of the run that the checkpoint stands for.

    Raises:
        UserError: the run exists; the file is missing, would run code, or holds another network.
    """
    from mto.losses.mto import MaskedTokenOptimization
    from mto.tasks.build import build_method
    from mto.tasks.pretrain import save_encoder
    from mto.tasks.task import Task
    from mto.training.checkpoint import save_state
    from mto.training.mim import MaskedImageModel

    if (out / "metrics.json").exists():
        raise UserError(f"{out}: this run exists; remove the folder to import another in its place")
    method, weights = build_method(job.method, job.seed), read(checkpoint)
    encoder_only = all((method.official_key(key) or "encoder.").startswith("encoder.") for key in weights)
    try:
        unused = method.load_official(weights, encoder_only=encoder_only)
    except ValueError as error:
        raise UserError(f"{checkpoint}: {error}; is it a pre-training checkpoint of {job.run}?") from None
    model = MaskedImageModel(method, MaskedTokenOptimization(terms=[]))
    task = Task("pretrain", job, {"checkpoint": checkpoint}, out)
    task.start()
    save_encoder(task, model)
    save_state(out / "state.pth", {"state_dict": {} if encoder_only else model.state_dict()}, {})
    with replacing(out / "history.jsonl") as temporary:
        temporary.touch()  # nothing was trained here
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    record = {"checkpoint": checkpoint.name, "sha256": digest, "encoder_only": encoder_only, "unused": unused}
    write_json(out / IMPORTED, record)
    task.finish({})
    print(f"{job.run}: {checkpoint.name} is now {out}; not needed of it: {', '.join(unused) or 'nothing'}")
    if encoder_only:
        print("It is an encoder alone: fine-tuning, probes and transfer can use it, the heterogeneity analysis cannot.")


def read(checkpoint: Path) -> dict[str, Any]:
    """Returns the weights in an official file, without running any code in it.

    Raises:
        UserError: there is no such file, or it holds more than weights and plain values.
    """
    import torch

    from mto.training.checkpoint import guard_size
    from mto.training.weights import load_weights

    if not checkpoint.exists():
        raise UserError(f"{checkpoint}: no such file")
    if checkpoint.suffix == ".safetensors" and checkpoint.is_file():
        return load_weights(checkpoint)
    _refuse_what_is_none(checkpoint)
    try:
        guard_size(checkpoint)
        # The repositories save their settings beside the weights, SimMIM's as a mapping of yacs; both are data.
        with torch.serialization.safe_globals([argparse.Namespace, (OrderedDict, "yacs.config.CfgNode")]):
            saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{checkpoint}: {str(error.strerror).lower()}") from None
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
    ) as error:
        # torch's own words advise to load it with weights_only=False.
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        held = f"; it holds a {named[1]}: save its weights alone, as a dict of tensors" if named else ""
        raise UserError(
            f"{checkpoint}: not a checkpoint of weights and plain values alone; nothing of it was run{held}"
        ) from None
    weights = saved.get("model", saved) if isinstance(saved, dict) else saved
    if not isinstance(weights, dict) or not all(isinstance(v, torch.Tensor) for v in weights.values()):
        raise UserError(f"{checkpoint}: no state dict of tensors, neither itself nor its entry 'model'")
    if wrong := [name for name, value in weights.items() if not value.isfinite().all()]:
        raise UserError(
            f"{checkpoint}: {len(wrong)} of its {len(weights)} tensors have values that are no finite numbers, e.g. "
            f"{wrong[0]}: this training had failed"
        )
    return weights


def _refuse_what_is_none(file: Path) -> None:
    """Refuses a file whose first bytes show that it is no checkpoint, and says what it is.

    Raises:
        UserError: it is empty, broken off, a web page, or a pointer of git-lfs; or it cannot be read.
    """

    def read() -> tuple[bytes, bool]:
        with file.open("rb") as opened:
            return opened.read(64), zipfile.is_zipfile(opened)

    try:
        head, whole = again(read, file)
    except OSError as error:
        raise UserError(f"{file}: {str(error.strerror).lower()}") from None
    what = None
    if not head:
        what = "empty"
    elif head.startswith(b"version https://git-lfs"):
        what = "the pointer of a file that git-lfs keeps, and not the file (git lfs pull)"
    elif head.lstrip().startswith(b"<"):
        what = "a web page"
    elif head.startswith(b"PK") and not whole:
        what = "broken off"
    if what:
        raise UserError(f"{file}: not a checkpoint: {what}; download it again")
