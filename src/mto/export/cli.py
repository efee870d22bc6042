"""`python -m mto export`: an encoder as Hugging Face or timm load it, or a scale's results as an RO-Crate."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from mto.errors import UserError
from mto.files import replacing, write_json
from mto.names import STAGES

#: What an encoder can become: the module that knows how, and the library that the card names.
FORMS = {"hf": ("mto.export.huggingface", "transformers"), "timm": ("mto.export.timm_folder", "timm")}
CRATE = "ro-crate"


def main(argv: Sequence[str] | None = None) -> None:
    """Exports one encoder, or one scale's results.

    Raises:
        UserError: the folder holds no such thing, or what is there does not fit the form.
    """
    parser = argparse.ArgumentParser(prog="python -m mto export", description=__doc__)
    parser.add_argument(
        "folder",
        type=Path,
        help="results/<scale>/pretrain/<run>/seed<k>/epoch<NNNN>, or for an RO-Crate results/<scale>",
    )
    parser.add_argument(
        "--to",
        required=True,
        choices=[*FORMS, CRATE],
        help="hf: config.json, model.safetensors and a model card for transformers; timm: the same for timm; "
        "ro-crate: a Workflow Run RO-Crate of tables, figures, metrics and logs",
    )
    parser.add_argument("--out", type=Path, help="the new folder (default: exported/<name>-<form>)")
    args = parser.parse_args(argv)
    out = _export_crate(args.folder, args.out) if args.to == CRATE else export(args.folder, args.to, args.out)
    print(out)


def export(folder: Path, form: str, out: Path | None = None) -> Path:
    """Writes a folder with an encoder's config.json, model.safetensors and README.md (the model card).

    Args:
        folder: of a finished pre-training step.
        form: `hf` or `timm`.
        out: the new folder; None: one below `exported/`, named after the run.

    Returns:
        The folder that was written.

    Raises:
        UserError: there is no encoder, the new folder is not empty, or the network fits no class of that library.
    """
    from mto.export.card import card
    from mto.export.encoder import read
    from mto.training.weights import save_weights

    encoder, (name, library) = read(folder), FORMS[form]
    module = import_module(name)
    out = out or Path("exported", f"{encoder.name}-{form}")
    config, tensors = module.config(encoder), module.weights(encoder)
    _require_empty(out)
    out.mkdir(parents=True, exist_ok=True)
    said = {key: str(encoder.job[key]) for key in ("run", "epoch", "seed")}
    save_weights(out / "model.safetensors", tensors, said)
    write_json(out / "config.json", config)
    if form == "hf":
        write_json(out / "preprocessor_config.json", module.processor(encoder))
    load = module.LOAD.replace("{width}", str(encoder.size["embed_dim"]))
    load = load.replace("{model}", config.get("architectures", [""])[0])
    with replacing(out / "README.md") as partial:
        partial.write_text(card(encoder, library, load), encoding="utf-8")
    return out


def _export_crate(results: Path, out: Path | None) -> Path:
    from mto.export.crate import write

    if results.name in STAGES or not (results / "results.csv").exists():
        raise UserError(f"{results / 'results.csv'}: no such file; name results/<scale> of a study that has finished")
    out = out or Path("exported", f"{results.name}-crate")
    _require_empty(out)
    missing = write(results, out)
    if missing:
        print(f"not there, and left out: {', '.join(missing)}", file=sys.stderr)
    return out


def _require_empty(out: Path) -> None:
    """Checks that nothing would be overwritten.

    Raises:
        UserError: something is there.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out}: not an empty folder; name another, or remove it")
