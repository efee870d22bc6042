"""Imports point down: the order of the rooms, and no circle among modules.

The order is that of the package's design. A room may import from the rooms of its own floor's list that stand below it,
and from itself. `runtime`, `names`, `files`, `storage` and `errors` are the ground.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
#: From the top to the ground. What a room imports stands in a later line, or in its own.
FLOORS = [
    {"__main__"},
    {"export"},
    {"cost"},
    {"bench"},
    {"tasks", "report"},
    {"study"},
    {"openmmlab"},
    {"training"},
    {"data"},
    {"methods"},
    {"config"},
    {"losses"},
    {"runtime"},
    {"emulate"},
    {"names", "files"},
    {"storage"},
    {"errors"},
]
MODULES = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((SOURCE / "mto").rglob("*.py"))
}


def imported(module: str) -> set[str]:
    """The modules of the package that one imports, anywhere in its text."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "mto":
            for name in node.names:
                whole = f"{node.module}.{name.name}"
                found.add(whole if whole in MODULES else str(node.module))
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names if name.name.split(".")[0] == "mto"}
    return found & MODULES.keys() - {module}


def room(module: str) -> str:
    return module.split(".")[1]


def test_every_room_has_a_floor() -> None:
    assert {room(module) for module in MODULES if "." in module} == set().union(*FLOORS)


@pytest.mark.parametrize("module", [module for module in MODULES if "." in module])
def test_imports_point_down(module: str) -> None:
    level = {name: number for number, floor in enumerate(FLOORS) for name in floor}
    upward = [
        other
        for other in imported(module)
        if "." in other and room(other) != room(module) and level[room(other)] <= level[room(module)]
    ]
    assert not upward, f"{module} imports from above, or from beside: {upward}"


def test_no_circle_among_modules() -> None:
    """Take away what imports nothing that is left, again and again: what stays is a circle."""
    left = {module: imported(module) for module in MODULES}
    while free := [module for module, others in left.items() if not others & left.keys()]:
        for module in free:
            del left[module]
    assert not left


def test_the_packages_root_is_small() -> None:
    assert len([path for path in (SOURCE / "mto").iterdir() if path.is_file()]) <= 8
