"""The report: one HTML file of everything that lies under results/<scale>/, finished or not.

findings.py    what is finished, what it took, and the headline: does MTO save epochs here
histories.py   the training curves of every run, thinned; charts.py draws them as inline SVG
measured.py    the paper's claims that these runs can answer, each with a verdict and its steps
steps.py       every finished step with its files, log and command: where a table's number leads to
choices.py     what is chosen where the paper is silent, and why
render.py      all of it, with the tables and figures, into page.html (style.css, equations.html)

Only what the plan says is needed to know what is missing; `job` is that plan, small enough for a command line.
"""

from __future__ import annotations

from typing import Any

from mto.config.study_plan import REPORTS
from mto.names import Step
from mto.study.study import Study


def job(study: Study) -> dict[str, Any]:
    """Returns what the page is to show: the plan's identity, its presets of MTO, the steps of every table and figure.

    ``cells`` maps a table's or figure's name to its [task, run, epoch], without seeds.
    """
    mto = study.config.mto
    presets = mto.presets.keys() & {"text", mto.default, *(run.preset for run in study.runs() if run.preset)}
    cells = {name: [*study.cells(name), *study.scratch(name)] for name in REPORTS}
    steps = {
        name: [study.shared(Step(c.task, c.run, study.config.seeds[0], c.epoch)) for c in found]
        for name, found in cells.items()
    }
    return {
        "scale": study.config.scale,
        "images": study.config.datasets.imagenet.title,
        "recipe": study.config.recipe,
        "seeds": study.config.seeds,
        "pretrain_epochs": study.config.study.pretrain_epochs,
        "mto": {"default": mto.default, "presets": {name: mto.presets[name].model_dump() for name in sorted(presets)}},
        "tables": list(study.tables),
        "figures": list(study.figures),
        "cells": {name: [[s.task, s.run, s.epoch] for s in dict.fromkeys(steps[name])] for name in REPORTS},
    }
