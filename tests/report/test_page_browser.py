"""The report page in a real browser: no complaint, no request, nothing wider than the window, light and dark."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import Chromium, executable

from mto.report import page
from mto.report.page import render
from mto.study.study import FIGURES, TABLES

pytestmark = pytest.mark.skipif(executable() is None, reason="no Chromium on the PATH (Debian's package: chromium)")

# Luminance of the page's ground and of its text, 0 to 1.
CONTRAST = """
(() => {
    const light = color => {
        const context = new OffscreenCanvas(1, 1).getContext("2d");
        context.fillStyle = color;
        context.fillRect(0, 0, 1, 1);
        const [r, g, b] = [...context.getImageData(0, 0, 1, 1).data].map(
            v => v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ground = light(getComputedStyle(document.body).backgroundColor);
    const worst = {};
    for (const element of document.querySelectorAll("p, li, td, th, h1, h2, h3, h4, a, dt, dd, summary, text, code")) {
        if (!element.checkVisibility() || !element.textContent.trim()) continue;
        const style = getComputedStyle(element);
        const ink = light(element instanceof SVGElement ? style.fill : style.color);
        const ratio = (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
        const kind = element.tagName + "." + element.getAttribute("class");
        worst[kind] = Math.min(worst[kind] ?? 21, ratio);
    }
    return {ground, worst};
})()
"""
# What sticks out of the window to the right, and does not lie in a box of its own that scrolls.
OUTSIDE = """
[...document.body.querySelectorAll("*")].filter(e =>
    e.checkVisibility() && !e.closest(".scroll, .equation")
    && e.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5
).map(e => e.outerHTML.slice(0, 120))
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with Chromium(str(executable())) as chromium:
        yield chromium


@pytest.fixture(scope="module", params=["complete", "partial"])
def report(request, complete, tmp_path_factory) -> Path:
    """A complete report, and one of MAE alone."""
    study, results = complete
    if request.param == "complete":
        return results / "report.html"
    some = tmp_path_factory.mktemp("partial") / "demo"
    for path in results.glob("*/mae-*"):
        shutil.copytree(path, some / path.relative_to(results))
    render.write(page.job(study), some, some / "report.html")
    return some / "report.html"


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_quietly_and_fits(browser, report, width, scheme):
    browser.open(report, width=width, scheme=scheme)
    assert browser.complaints == []
    assert browser.requests == [report.resolve().as_uri()]
    assert browser.evaluate("[innerWidth, document.documentElement.scrollWidth]") == [width, width]
    browser.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
    assert browser.evaluate(OUTSIDE) == []
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    seen = browser.evaluate(CONTRAST)
    assert (seen["ground"] > 0.8) == (scheme == "light")
    assert (seen["ground"] < 0.05) == (scheme == "dark")
    assert len(seen["worst"]) > 10
    assert not {kind: ratio for kind, ratio in seen["worst"].items() if ratio < 4.5}


def test_tables_and_figures_are_seen(browser, complete):
    report = complete[1] / "report.html"
    browser.open(report, width=1280)
    for name in TABLES:
        assert browser.evaluate(f"document.querySelector('#{name} table').getBoundingClientRect().height") > 60
    for name in FIGURES:
        size = browser.evaluate(
            f"(e => [e.complete, e.naturalWidth, e.clientWidth])(document.querySelector('#{name} img'))"
        )
        assert size[0]
        assert size[1] > 1000
        assert size[2] > 600
    charts = "[...document.querySelectorAll('.chart')].filter(e => e.checkVisibility())"
    assert browser.evaluate(f"{charts}.length") >= 20
    drawn = f"{charts}.every(e => [...e.querySelectorAll('path:not(.grid)')].every(p => p.getTotalLength() > 100))"
    assert browser.evaluate(drawn)


def test_links_of_the_contents_lead_somewhere(browser, complete):
    browser.open(complete[1] / "report.html", width=1280)
    targets = browser.evaluate("[...document.querySelectorAll('nav a')].map(a => a.getAttribute('href'))")
    assert len(targets) > len(TABLES) + len(FIGURES)
    for target in targets:
        assert browser.evaluate(f"document.querySelector('{target}').checkVisibility()")


def test_wide_tables_scroll_in_their_own_box_on_a_telephone(browser, complete):
    browser.open(complete[1] / "report.html", width=400)
    wide = "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth)"
    assert browser.evaluate(f"{wide}.length") >= 3
    moved = f"(e => (e.scrollLeft = 40, e.scrollLeft))({wide}[0])"
    assert browser.evaluate(moved) == 40


def test_print_shows_what_is_folded_and_no_contents(browser, complete):
    browser.open(complete[1] / "report.html", width=1280)
    browser.print_look()
    assert not browser.evaluate("document.querySelector('nav').checkVisibility()")
    folded = "[...document.querySelectorAll('details:not([open]) .run')]"
    assert browser.evaluate(f"{folded}.length") > 0
    assert browser.evaluate(f"{folded}.every(e => e.checkVisibility({{contentVisibilityAuto: true}}))")
