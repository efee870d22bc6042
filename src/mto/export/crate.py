"""A scale's results as a Workflow Run RO-Crate: the workflow, one action for its run, one for each finished step.

The crate follows the profile Workflow Run Crate 0.5 (https://w3id.org/ro/wfrun/workflow/0.5). Each step is a
CreateAction that leads from a measured value to the job that it was computed from, the command, and the log. Weights
and training states are left out: a crate is megabytes, and an encoder leaves by `--to hf` or `--to timm`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mto.errors import UserError
from mto.files import read_json, replacing, write_json
from mto.names import STAGES, Step
from mto.report.metrics import finished

METADATA = "ro-crate-metadata.json"
CONTEXT = "https://w3id.org/ro/crate/1.1/context"
PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": ("Process Run Crate", "0.5"),
    "https://w3id.org/ro/wfrun/workflow/0.5": ("Workflow Run Crate", "0.5"),
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": ("Workflow RO-Crate", "1.0"),
}
PARAMETER = "https://bioschemas.org/profiles/FormalParameter/1.0-RELEASE"
LICENSE = "https://spdx.org/licenses/MIT"
PAPER = "https://arxiv.org/abs/2404.08330"
WORKFLOW, SETTINGS = "Snakefile", "config.yaml"
#: Of the clone: what planned the jobs, and what they were installed from.
SOURCES = (WORKFLOW, SETTINGS, "rules/*.smk", "profiles/default/config.yaml", "envs/requirements.txt", "LICENSE")
#: Of a step's folder.
FILES = {
    "metrics.json": "the measured values, and what measured them",
    "history.jsonl": "the values at each log interval",
    "job.json": "every setting of the job, which can be run again from this file",
}
FORMATS = {
    "json": "application/json",
    "jsonl": "application/jsonl",
    "csv": "text/csv",
    "md": "text/markdown",
    "html": "text/html",
    "pdf": "application/pdf",
    "png": "image/png",
    "tex": "application/x-tex",
    "log": "text/plain",
    "txt": "text/plain",
    "yaml": "application/yaml",
    "smk": "text/x-python",
    "": "text/plain",
}
STATUS = "http://schema.org/CompletedActionStatus"
AUTHORS = "#authors"
README = """\
# Masked Token Optimization: results of the scale {scale}

This folder is a Workflow Run RO-Crate: `ro-crate-metadata.json` describes every file in it and how it was made.

- `results.csv` has every measured value, one a row, with its run, seed, epoch, device and commit.
- `report.html` shows them; `tables/` and `figures/` are the paper's, made from these values.
- `<stage>/<run>/seed<k>/epoch<NNNN>/` belongs to one measurement: `metrics.json` has its values, `job.json` every
  setting, and `history.jsonl` the training. What the job printed is at the same place below `logs/`.
- `Snakefile`, `rules/` and `config.yaml` planned the jobs. The commit of the code is in each `metrics.json`;
  `python -m mto <stage> --job job.json --out DIR` repeats a job at that commit.

Weights and training states are not in it.
"""


def write(results: Path, out: Path, clone: Path = Path()) -> list[str]:
    """Writes the crate as a folder.

    Args:
        results: results/<scale>, finished or not.
        out: the new folder.
        clone: the folder with the Snakefile and config.yaml.

    Returns:
        What a whole crate has and this one lacks, such as a log that was removed.

    Raises:
        UserError: there is no Snakefile, or no step has finished.
    """
    if not (clone / WORKFLOW).exists():
        raise UserError(f"{clone / WORKFLOW}: no such file; run this from the folder of the clone")
    records = finished(results)
    if not records:
        raise UserError(f"{results}: no step has finished, so there is nothing to pack")
    return _Crate(results, out, clone).write(records)


class _Crate:
    def __init__(self, results: Path, out: Path, clone: Path) -> None:
        self.results, self.out, self.clone = results, out, clone
        self.scale = results.name
        self.entities: dict[str, dict[str, Any]] = {}
        self.missing: list[str] = []

    def write(self, records: list[Path]) -> list[str]:
        sources = [self._file(path, path.relative_to(self.clone)) for path in self._sources()]
        products = [self._file(path, path.relative_to(self.results)) for path in self._products()]
        steps = [self._step(path.parent) for path in records]
        for name, value in self._workflow(records, products).items():
            self.entities[WORKFLOW][name] = value
        self._readme()
        files = [name for name, entity in self.entities.items() if "File" in entity["@type"]]
        graph = [
            {
                "@id": METADATA,
                "@type": "CreativeWork",
                "about": {"@id": "./"},
                "conformsTo": [
                    {"@id": "https://w3id.org/ro/crate/1.1"},
                    {"@id": "https://w3id.org/workflowhub/workflow-ro-crate/1.0"},
                ],
            },
            self._root(files, steps),
            *self.entities.values(),
        ]
        write_json(self.out / METADATA, {"@context": CONTEXT, "@graph": graph})
        if not sources:
            self.missing.append("the workflow")
        return self.missing

    def _sources(self) -> Iterator[Path]:
        for pattern in SOURCES:
            yield from sorted(self.clone.glob(pattern))

    def _products(self) -> Iterator[Path]:
        for name in ("results.csv", "report.html"):
            if (self.results / name).exists():
                yield self.results / name
            else:
                self.missing.append(name)
        for kind in ("tables", "figures"):
            yield from sorted(path for path in (self.results / kind).glob("*") if path.suffix[1:] in FORMATS)

    def _root(self, files: list[str], steps: list[str]) -> dict[str, Any]:
        for uri, (name, number) in PROFILES.items():
            self.entities[uri] = {"@id": uri, "@type": "CreativeWork", "name": name, "version": number}
        name = "The authors of this repository"
        self.entities[AUTHORS] = {"@id": AUTHORS, "@type": "Organization", "name": name}
        self.entities[LICENSE] = {"@id": LICENSE, "@type": "CreativeWork", "name": "MIT License"}
        self.entities[PAPER] = {
            "@id": PAPER,
            "@type": "ScholarlyArticle",
            "name": "Emerging Property of Masked Token for Effective Pre-training",
        }
        return {
            "@id": "./",
            "@type": "Dataset",
            "name": f"Masked Token Optimization: results of the scale {self.scale}",
            "description": (
                f"{len(steps)} finished steps of the scale {self.scale}: tables, figures, and for each step its"
                " settings, its measured values and its log. Weights are not in it."
            ),
            "datePublished": datetime.now(UTC).isoformat(timespec="seconds"),
            "license": {"@id": LICENSE},
            "author": {"@id": AUTHORS},
            "publisher": {"@id": AUTHORS},
            "conformsTo": [{"@id": uri} for uri in PROFILES],
            "mainEntity": {"@id": WORKFLOW},
            "citation": {"@id": PAPER},
            "mentions": [{"@id": "#run"}, *({"@id": step} for step in steps)],
            "hasPart": [{"@id": name} for name in files],
        }

    def _workflow(self, records: list[Path], products: list[str]) -> dict[str, Any]:
        """Returns what the Snakefile is besides a file; adds its language, its input and its one run."""
        self.entities["#snakemake"] = {
            "@id": "#snakemake",
            "@type": "ComputerLanguage",
            "name": "Snakemake",
            "alternateName": "Snakemake",
            "identifier": {"@id": "https://doi.org/10.1093/bioinformatics/bts480"},
            "url": {"@id": "https://snakemake.readthedocs.io"},
            "version": version("snakemake"),
        }
        file = {"@type": "FormalParameter", "additionalType": "File", "conformsTo": {"@id": PARAMETER}}
        told = "the settings of the study, with the last word over the package's own"
        of_settings = {"name": "config", "description": told, "valueRequired": False}
        of_tables = {"name": "results", "description": "every measured value, one a row"}
        self.entities["#settings"] = {"@id": "#settings"} | file | of_settings
        self.entities["#tables"] = {"@id": "#tables"} | file | of_tables
        self.entities[PARAMETER] = {
            "@id": PARAMETER,
            "@type": "CreativeWork",
            "name": "FormalParameter",
            "version": "1.0",
        }
        if SETTINGS in self.entities:
            self.entities[SETTINGS]["exampleOfWork"] = {"@id": "#settings"}
        if "results.csv" in self.entities:
            self.entities["results.csv"]["exampleOfWork"] = {"@id": "#tables"}
        self.entities["#run"] = {
            "@id": "#run",
            "@type": "CreateAction",
            "name": f"The study at the scale {self.scale}",
            "description": f"snakemake --cores all --config scale={self.scale}",
            "instrument": {"@id": WORKFLOW},
            "object": _links([SETTINGS] if SETTINGS in self.entities else []),
            "result": _links(products),
            "agent": {"@id": AUTHORS},
            "endTime": max(_time(path) for path in records),
            "actionStatus": STATUS,
        }
        return {
            "@type": ["File", "SoftwareSourceCode", "ComputationalWorkflow"],
            "name": "Masked Token Optimization: the study",
            "description": "Pre-trains, fine-tunes, probes and compares; draws every table and figure of the paper",
            "programmingLanguage": {"@id": "#snakemake"},
            "license": {"@id": LICENSE},
            "version": version("mto"),
            "url": {"@id": PAPER},
            "input": {"@id": "#settings"},
            "output": {"@id": "#tables"},
            "conformsTo": {"@id": "https://bioschemas.org/profiles/ComputationalWorkflow/1.0-RELEASE"},
        }

    def _step(self, folder: Path) -> str:
        """Adds one finished step, and returns the name of its action."""
        place = folder.relative_to(self.results)
        record, noted = read_json(folder / "metrics.json"), read_json(folder / "job.json") or {}
        step = Step(record["task"], record["run"], record["seed"], record["epoch"])
        made = record.get("provenance") or {}
        files = {
            name: self._file(folder / name, place / name, about)
            for name, about in FILES.items()
            if (folder / name).exists()
        }
        log = self.clone / "logs" / self.scale / place.parent / f"{place.name}.log"
        results = [name for file, name in files.items() if file != "job.json"]
        if log.exists():
            results.append(self._file(log, Path("logs") / place.parent / log.name, "what the job printed"))
        else:
            self.missing.append(f"logs/{self.scale}/{place}.log")
        inputs = [str(self._named(path)) for path in noted.get("inputs", {}).values() if self._named(path)]
        name = f"#{place}"
        self.entities[name] = {
            "@id": name,
            "@type": "CreateAction",
            "name": f"{STAGES[step.task].title} of {step.run} at epoch {step.epoch}, seed {step.seed}",
            "description": f"python -m mto {step.task} --job {place / 'job.json'} --out DIR",
            "instrument": {"@id": self._task(step.task, made)},
            "object": _links([*([files["job.json"]] if "job.json" in files else []), *inputs]),
            "result": _links(results),
            "agent": {"@id": AUTHORS},
            "endTime": _time(folder / "metrics.json"),
            "actionStatus": STATUS,
        }
        return name

    def _readme(self) -> None:
        with replacing(self.out / "README.md") as partial:
            partial.write_text(README.format(scale=self.scale), encoding="utf-8")
        self.entities["README.md"] = {
            "@id": "README.md",
            "@type": "File",
            "name": "What is in this folder",
            "encodingFormat": FORMATS["md"],
            "about": {"@id": "./"},
        }

    def _named(self, path: str) -> Path | None:
        """Returns what stands for an input, whose weights are not here: the metrics of the step that made it."""
        folder = Path(path).parent
        if self.scale not in folder.parts or not (folder / "metrics.json").exists():
            return None
        return folder.resolve().relative_to(self.results.resolve()) / "metrics.json"

    def _task(self, stage: str, made: dict[str, Any]) -> str:
        """Adds the program of a stage at the commit that ran it, once, and returns its name."""
        commit = made.get("commit") or "unknown"
        name = f"#mto-{stage}-{commit[:10]}"
        self.entities.setdefault(
            name,
            {
                "@id": name,
                "@type": "SoftwareApplication",
                "name": f"python -m mto {stage}",
                "description": f"{STAGES[stage].title}, at commit {commit}",
                "softwareVersion": commit,
                "url": {"@id": WORKFLOW},
            },
        )
        return name

    def _file(self, path: Path, place: Path, about: str = "") -> str:
        """Copies a file into the crate and describes it; returns its name there."""
        name = place.as_posix()
        target = self.out / place
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        entity = {
            "@id": name,
            "@type": "File",
            "name": name,
            "contentSize": str(target.stat().st_size),
            "dateModified": _time(path),
        }
        if about:
            entity["description"] = about
        if form := FORMATS.get(path.suffix[1:]):
            entity["encodingFormat"] = form
        self.entities[name] = entity
        return name


def _links(names: list[str]) -> list[dict[str, str]] | dict[str, str]:
    """Returns references to entities; a single one by itself, as JSON-LD has it."""
    found = [{"@id": name} for name in names]
    return found[0] if len(found) == 1 else found


def _time(path: Path) -> str:
    """Returns when a file was written, in ISO 8601."""
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")
