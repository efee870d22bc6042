"""A run's identity, and its name: what is pre-trained, never with which hyper-parameters."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mto.errors import UserError

TERMS = ("spa", "e", "r")
BASELINES = ("simmim", "mae", "bootmae", "conmim")
#: The methods with masked tokens in the encoder; the others have them in a decoder.
ENCODER_STYLE = ("simmim", "conmim")
#: What a preset of MTO may be called: no hyphen, which ends a part of a run's name.
PRESET = "[a-z0-9_]+"
#: Beside the files of a pre-training step that was not trained here but taken from a published checkpoint.
IMPORTED = "imported.json"
#: The file in a job's progress folder that asks it to start over (`snakemake --forcerun`).
RESTART = "restart"

_RUN = re.compile(
    r"(?P<baseline>[a-z]+)-(?P<backbone>vit[bl])"
    rf"(?P<mto>-mto(_(?P<terms>[a-z_]+))?(@(?P<preset>{PRESET}))?)?(-depth(?P<depth>[1-9]\d*))?"
)


@dataclass(frozen=True)
class Run:
    """What is pre-trained.

    `terms` are MTO's, empty for the plain baseline; `preset` is the reading of them, None for the config's default, so
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
    def plain(self) -> Run:
        """The same without MTO, and with its own decoder: what it is compared with, and named after from scratch."""
        return Run(self.baseline, self.backbone)

    @classmethod
    def parse(cls, name: str) -> Run:
        """The run of that name.

        Raises:
            UserError: if the name is not one.
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
