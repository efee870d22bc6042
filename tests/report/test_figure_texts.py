"""No text of a figure lies on another or leaves the drawing, by the boxes that matplotlib itself draws them in."""

import importlib
from itertools import combinations

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from mto.report.metrics import Report
from mto.study.study import FIGURES

#: Pixels by which boxes may touch: a box has the room of letters that the text does not have.
TOUCH = 1.0


def drawn_texts(figure, monkeypatch):
    """The texts that are really drawn, each with its box: an axis keeps labels of ticks outside it, and draws none."""
    found = {}
    usual = Text.draw

    def draw(self, renderer, *args, **kwargs):
        if self.get_visible() and self.get_text().strip():
            found[self] = self.get_window_extent(renderer)
        return usual(self, renderer, *args, **kwargs)

    canvas = FigureCanvasAgg(figure)
    with monkeypatch.context() as patch:
        patch.setattr(Text, "draw", draw)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # as `style.save` does
        found.clear()
        canvas.draw()
    return [(text.get_text(), box) for text, box in found.items()]


def faults(figure, monkeypatch):
    """What lies on what, and what leaves the drawing."""
    boxes = drawn_texts(figure, monkeypatch)
    assert boxes
    for (one, box), (other, place) in combinations(boxes, 2):
        common = Bbox.intersection(box, place)
        if common is not None and min(common.width, common.height) > TOUCH:
            yield f"{one!r} lies on {other!r}, by {common.width:.0f} × {common.height:.0f} pixels"
    for text, box in boxes:
        if min(box.x0, box.y0) < -TOUCH or box.x1 > figure.bbox.width + TOUCH or box.y1 > figure.bbox.height + TOUCH:
            yield f"{text!r} leaves the drawing"


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("scale", ["demo", "paper"])
def test_every_text_has_its_own_place(scale, name, request, monkeypatch):
    study, results = request.getfixturevalue(scale)
    figure = importlib.import_module(f"mto.report.figures.{name}").draw(Report(study.report_job(name), results))
    assert list(faults(figure, monkeypatch)) == []


@pytest.mark.parametrize("name", FIGURES)
def test_of_what_is_not_measured_yet_too(demo, name, monkeypatch, tmp_path):
    study, _ = demo
    figure = importlib.import_module(f"mto.report.figures.{name}").draw(Report(study.report_job(name), tmp_path))
    assert list(faults(figure, monkeypatch)) == []
