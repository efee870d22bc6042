"""The plan's tables on the pages are today's: `python tools/plan_tables.py` writes them."""

import importlib.util
import re
from pathlib import Path

import pytest

from mto.bench import counting
from mto.cost.estimate import once
from mto.cost.parts import parts

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("plan_tables", ROOT / "tools" / "plan_tables.py")
plan_tables = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(plan_tables)


def jobs(scale: str) -> dict[str, int]:
    """Of a page's marked table: each part's jobs."""
    text = (ROOT / plan_tables.TABLES[scale][0]).read_text()
    (marked,) = (match[0] for match in plan_tables.MARKED.finditer(text))
    return {part: int(count) for part, count in re.findall(r"^\| ([^|*]+) \| (\d+) \|", marked, flags=re.M)}


def test_the_pages_have_the_parts_and_jobs_of_today():
    paper, small = plan_tables.study("paper"), plan_tables.study("small")
    assert jobs("paper") == {part.name: len(part.jobs) for part in parts(paper)}, "run `python tools/plan_tables.py`"
    divided = plan_tables.by_part([*small.segments(), *small.steps()])
    assert jobs("small") == {part: len(steps) for part, steps in divided.items()}, "run `python tools/plan_tables.py`"


@pytest.mark.slow
def test_the_pages_have_the_hours_of_today():
    for page, text in plan_tables.pages(once(counting.count)).items():
        assert page.read_text() == text, "run `python tools/plan_tables.py`"
