"""What CONTRIBUTING.md says of a new baseline, stage and table is tried: each is added to a copy of the package.

A change is counted by the files that it touches. The copy then plans the addition's jobs and runs them as its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


class Copy:
    """A copy of the package, and which of its files were changed or added."""

    def __init__(self, folder: Path) -> None:
        self.source = folder / "src"
        shutil.copytree(ROOT / "src" / "mto", self.source / "mto", ignore=shutil.ignore_patterns("__pycache__"))
        self.touched: set[str] = set()

    def write(self, path: str, text: str) -> None:
        self.touched.add(path)
        (self.source / "mto" / path).write_text(text)

    def replace(self, path: str, old: str, new: str) -> None:
        text = (self.source / "mto" / path).read_text()
        assert text.count(old) == 1, f"{path}: {old!r}"
        self.write(path, text.replace(old, new))

    def run(self, code: str) -> str:
        """What a Python program on the copy prints."""
        environment = {**os.environ, "PYTHONPATH": str(self.source)}
        command = [sys.executable, "-c", code]
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path)


def test_a_baseline_is_a_declaration_a_method_and_a_recipe(copy: Copy) -> None:
    copy.replace(
        "names.py",
        "#: The two slots for an encoder's size",
        """BASELINES["toy"] = Baseline(
    "Toy", "Toy", masked_in="decoder", loss="loss_reconstruction", encoder="vit", position="fixed", reads_like="mae",
    settings=BASELINES["mae"].settings,
)
#: The two slots for an encoder's size""",
    )
    copy.write("methods/toy.py", "from mto.methods.mae import MAE\n\n\nclass Toy(MAE):\n    pass\n")
    copy.write("config/data/recipes/toy.yaml", (ROOT / "src/mto/config/data/recipes/mae.yaml").read_text())
    printed = copy.run(
        """
from mto.config.reading import load
from mto.study.study import Study
from mto.names import Step
from mto.tasks.build import build_method
from mto.report.labels import run_name
table = {"baselines": ["toy-vitb"], "epochs": [4, 8], "baseline_epoch": None}
sizes = {"method": {"decoder_embed_dim": 24, "decoder_num_heads": 2}}
study = Study(load({"study": {"table2_linear": table}, "baselines": {"toy": sizes}}, scale="demo"))
print(sorted({step.task for step in study.select("toy")}), run_name("toy-vitb-mto"))
job = study.job(Step("pretrain", "toy-vitb-mto", 0, 4))
print(type(build_method(job.method, job.seed)).__name__)
"""
    )
    assert printed.splitlines() == ["['linear', 'pretrain'] Toy ViT-B + MTO", "Toy"]
    assert len(copy.touched) == 3


def test_a_stage_is_a_declaration_its_settings_and_a_task(copy: Copy) -> None:
    copy.replace(
        "names.py",
        "#: The stages that optimise weights.",
        """STAGES["norm"] = Stage("norms of features", "feature_norm", f"Norms of {_AT}", trains=False, like="linear")
#: The stages that optimise weights.""",
    )
    copy.replace(
        "config/models.py",
        "class Config(Model):",
        'class Norm(Model):\n    """Which norm."""\n\n    order: Count = 2\n\n\nclass Config(Model):',
    )
    copy.replace(
        "config/models.py",
        "    knn: Neighbours = Neighbours()\n",
        "    knn: Neighbours = Neighbours()\n    norm: Norm = Norm()\n",
    )
    copy.write("tasks/norm.py", "def run(task):\n    task.finish({'norm': float(task.job.order)})\n")
    printed = copy.run(
        """
from mto.config.reading import load
from mto.study.study import Study
from mto.names import Step
from mto.__main__ import parse
study = Study(load({}, scale="demo"))
job = study.job(Step("norm", "mae-vitb", 0, 8))
print(job.order, job.feature.pool, study.resources("norm").cpus_per_task)
print(parse(["norm", "--job", "{}", "--out", "x"]).task)
"""
    )
    assert printed.splitlines() == ["2 cls 1", "norm"]
    assert len(copy.touched) == 3


def test_a_switch_is_a_declaration_and_what_it_does(copy: Copy) -> None:
    copy.replace(
        "losses/switches.py",
        '    "eps": Switch(',
        """    "toy": Switch(Literal["off", "on"], "off", "A toy", "None is mentioned.", words="nothing", paper="on"),
    "eps": Switch(""",
    )
    copy.replace(
        "losses/mto.py",
        "        eps: float = 1e-6,\n",
        '        toy: str = "off",\n        eps: float = 1e-6,\n',
    )
    printed = copy.run(
        """
from mto.config.reading import load
from mto.losses import switches
from mto.losses.mto import CHOICES, MaskedTokenOptimization
from mto.names import Step
from mto.report.page import choices
from mto.study.cli import schema
from mto.study.study import Study
study = Study(load({}, scale="demo"))
presets = study.config.mto.presets
print({name: preset.toy for name, preset in presets.items()})
print(study.job(Step("pretrain", "mae-vitb-mto", 0, 8)).mto.toy, CHOICES["toy"])
print(MaskedTokenOptimization(**presets["text"].model_dump(exclude={"balance"})).settings["toy"])
print("| `toy` | A toy | off, on; nothing | on | off |" in switches.table())
print("toy" in schema()["$defs"]["Preset"]["properties"])
listed = choices.listed({"default": "text", "presets": {"text": presets["text"].model_dump()}})
print([each.values for each in listed if each.key == "toy"])
"""
    )
    assert printed.splitlines() == [
        "{'text': 'on', 'as_printed': 'on', 'cosine': 'on', 'balanced': 'on'}",
        "on ('off', 'on')",
        "on",
        "True",
        "True",
        "[['on']]",
    ]
    assert len(copy.touched) == 2


def test_a_table_is_its_settings_with_their_cells_and_its_sheet(copy: Copy) -> None:
    copy.replace(
        "config/study_plan.py",
        "    fig1_heterogeneity: Annotated[\n",
        '    table_toy: Annotated[Neighbours | None, About("Toy", "A table", ours=True)] = None\n'
        "    fig1_heterogeneity: Annotated[\n",
    )
    text = (copy.source / "mto/report/tables.py").read_text()
    sheet = 'def table_toy(report: Report) -> Sheet:\n    """A toy."""\n    return table_knn(report)\n\n\nTABLES'
    copy.write(
        "report/tables.py",
        text.replace("\nTABLES", f"\n{sheet}", 1).replace("table_knn, audit", "table_knn, table_toy, audit"),
    )
    printed = copy.run(
        """
from mto.config.reading import load
from mto.study.study import Study
from mto.report.tables import TABLES
from mto.report.page.render import ABOUT
study = Study(load({"study": {"table_toy": {"baselines": ["mae-vitb"], "epochs": [8]}}}, scale="demo"))
print("table_toy" in study.tables, len(study.cells("table_toy")), "table_toy" in TABLES, ABOUT["table_toy"].number)
"""
    )
    assert printed.split() == ["True", "2", "True", "Toy"]
    assert len(copy.touched) == 2
