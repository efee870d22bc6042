"""The crate of a scale's results: what Workflow Run Crate 0.5 asks for, and that each number leads to its job and log.

`make crate` gives the same crate to roc-validator, which needs the network for the contexts.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from export.made_crate import STEPS, clone_below, results_below
from mto.errors import UserError
from mto.export.crate import write

Graph = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def crate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    clone, out = clone_below(tmp_path_factory.mktemp("clone")), tmp_path_factory.mktemp("crate")
    assert write(results_below(clone), out, clone) == [f"logs/demo/{STEPS[2].folder}.log"]
    return out


@pytest.fixture(scope="module")
def graph(crate: Path) -> Graph:
    entities = json.loads((crate / "ro-crate-metadata.json").read_text())["@graph"]
    assert len({entity["@id"] for entity in entities}) == len(entities)
    return {entity["@id"]: entity for entity in entities}


def linked(value: Any) -> list[str]:
    """The identifiers that a property refers to."""
    values = value if isinstance(value, list) else [value]
    return [each["@id"] for each in values if isinstance(each, dict)]


def test_the_descriptor_and_the_root_are_the_profiles(graph: Graph) -> None:
    descriptor, root = graph["ro-crate-metadata.json"], graph["./"]
    assert linked(descriptor["about"]) == ["./"]
    assert "https://w3id.org/ro/crate/1.1" in linked(descriptor["conformsTo"])
    assert {"name", "description", "datePublished", "license"} <= root.keys()
    assert "https://w3id.org/ro/wfrun/workflow/0.5" in linked(root["conformsTo"])
    (workflow,) = linked(root["mainEntity"])
    assert set(graph[workflow]["@type"]) == {"File", "SoftwareSourceCode", "ComputationalWorkflow"}
    assert graph[linked(graph[workflow]["programmingLanguage"])[0]]["@type"] == "ComputerLanguage"


def test_the_run_is_an_action_of_the_workflow_on_the_settings(graph: Graph) -> None:
    run = graph["#run"]
    assert run["@type"] == "CreateAction"
    assert linked(run["instrument"]) == linked(graph["./"]["mainEntity"])
    assert linked(run["object"]) == ["config.yaml"]
    assert {"results.csv", "report.html", "tables/table1_rauc.md"} <= set(linked(run["result"]))
    assert linked(graph["config.yaml"]["exampleOfWork"]) == linked(graph["Snakefile"]["input"])


def test_every_reference_is_described_or_an_address(graph: Graph) -> None:
    for entity in graph.values():
        for value in entity.values():
            for name in linked(value):
                assert name in graph or name.startswith("http"), name


def test_every_file_is_there_and_is_described(crate: Path, graph: Graph) -> None:
    parts = set(linked(graph["./"]["hasPart"]))
    assert parts == {name for name, entity in graph.items() if "File" in entity["@type"]}
    there = {path.relative_to(crate).as_posix() for path in crate.rglob("*") if path.is_file()}
    assert there == parts | {"ro-crate-metadata.json"}
    assert not [name for name in there if name.endswith(".safetensors")]


@pytest.mark.parametrize("step", STEPS)
def test_a_number_leads_to_its_job_command_and_log(graph: Graph, step: Any) -> None:
    (action,) = (e for e in graph.values() if f"{step.folder}/metrics.json" in linked(e.get("result", [])))
    assert action["@type"] == "CreateAction"
    assert action["description"].startswith(f"python -m mto {step.task} --job {step.folder}/job.json")
    assert f"{step.folder}/job.json" in linked(action["object"])
    assert graph[linked(action["instrument"])[0]]["softwareVersion"] == "0123456789abcdef"
    assert (f"logs/{step.folder}.log" in linked(action["result"])) == (step.task == "pretrain")
    if step.task == "finetune":
        assert f"{STEPS[1].folder}/metrics.json" in linked(action["object"])


def test_what_is_no_study_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Snakefile: no such file; run this from the folder of the clone"):
        write(tmp_path / "results/demo", tmp_path / "out", tmp_path)
    with pytest.raises(UserError, match="no step has finished"):
        write(tmp_path / "results/demo", tmp_path / "out", clone_below(tmp_path))
