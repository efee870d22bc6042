"""Figure 3: where MTO acts in encoder-style (SimMIM, ConMIM) and decoder-style (MAE, BootMAE) methods."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from mto.report.figures import style
from mto.report.metrics import Report

MASKED = (1, 2, 4, 5, 6)  # of eight tokens drawn
TOKENS = 8
LEFT, RIGHT = 0.0, 5.4  # the column of tokens and blocks; MTO's terms stand to its right
PITCH = (RIGHT - LEFT) / TOKENS


def draw(report: Report) -> Figure:
    """Draws where MTO acts in both styles of method; it needs no run."""
    figure = style.new(
        4.7, "H: heterogeneity (Eq. 2) of the masked tokens' affinity to the visible ones; L: number of layers"
    )
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, title in (
        (left, "Encoder-style (SimMIM, ConMIM)"),
        (right, "Decoder-style (MAE, BootMAE's two decoders)"),
    ):
        axes.set_axis_off()
        axes.set_xlim(-0.2, 10.2)
        axes.set_ylim(-2.7, 8.5)
        axes.set_title(title)
    _stack(left, "encoder")
    _arrow(left, -1.1, -0.15)
    _note(left, -1.4, "masked patches → mask token")
    _token(left, LEFT, -2.6, masked=False)
    left.text(LEFT + PITCH + 0.1, -2.34, "visible", va="center", fontsize=7.5)
    _token(left, LEFT + 2.5, -2.6, masked=True)
    left.text(LEFT + 2.5 + PITCH + 0.1, -2.34, "mask token", va="center", fontsize=7.5)
    _stack(right, "decoder")
    _arrow(right, -0.55, -0.15)
    right.text((LEFT + RIGHT) / 2 + 0.2, -0.38, "+ mask tokens", va="center", fontsize=7, color=style.GREY)
    _block(right, -1.3, "encoder: visible patches only", faded=True)
    _arrow(right, -1.95, -1.35)
    _tokens(right, -2.6, visible_only=True)
    return figure


def _stack(axes: Axes, name: str) -> None:
    """Draws layer 0, the blocks, the head, and MTO's terms beside them."""
    rows = {"0": 0.0, "1": 2.3, "L": 5.5}
    _tokens(axes, rows["0"])
    _arrow(axes, 0.62, 0.98)
    _block(axes, 1.0, f"{name} block 1")
    _arrow(axes, 1.62, 2.22)
    _tokens(axes, rows["1"])
    axes.text((LEFT + RIGHT) / 2, 3.45, "⋮", ha="center", va="center", fontsize=13, color=style.GREY)
    _block(axes, 4.2, f"{name} block L")
    _arrow(axes, 4.82, 5.42)
    _tokens(axes, rows["L"])
    _arrow(axes, 6.12, 6.68)
    _block(axes, 6.7, "head: masked patches")
    _arrow(axes, 7.32, 7.8)
    axes.text((LEFT + RIGHT) / 2, 8.15, r"$\mathcal{L}_{ss}$, as in the baseline", ha="center", va="center")
    _terms(axes, rows)


def _terms(axes: Axes, rows: dict[str, float]) -> None:
    """Draws H beside every layer; L_spa and L_e at layer 0, L_r from each layer to the next."""
    x = RIGHT + 0.9
    for layer, y in rows.items():
        axes.plot([RIGHT + 0.1, x - 0.42], [y + 0.3] * 2, color=style.GREY, linewidth=0.7, linestyle=":")
        axes.text(x, y + 0.3, f"$H^{layer}$", ha="center", va="center", fontsize=10, color=style.VERMILION)
    falls = {"arrowstyle": "-|>", "color": style.VERMILION, "linewidth": 1.3}
    axes.annotate("", xy=(x, 2.2), xytext=(x, 0.75), arrowprops=falls)
    axes.annotate("", xy=(x, 5.4), xytext=(x, 3.05), arrowprops={**falls, "linestyle": (0, (3, 2))})
    texts = (
        (3.95, r"$\mathcal{L}_{r}$ (Eq. 5): H falls", style.VERMILION),
        (3.5, "at every layer", style.VERMILION),
        (0.5, r"$\mathcal{L}_{e}$ (Eq. 4): raise $H^0$", style.VERMILION),
        (-0.05, r"$\mathcal{L}_{spa}$ (Eq. 3): sparse", style.BLUE),
        (-0.5, "rows of visible tokens", style.BLUE),
    )
    for y, text, color in texts:
        axes.text(x + 0.55, y, text, ha="left", va="center", fontsize=7.5, color=color)


def _tokens(axes: Axes, y: float, *, visible_only: bool = False) -> None:
    for index in range(TOKENS):
        masked = index in MASKED
        if not (masked and visible_only):
            _token(axes, LEFT + index * PITCH, y, masked=masked)


def _token(axes: Axes, x: float, y: float, *, masked: bool) -> None:
    size = (PITCH - 0.12, 0.55)
    face = Rectangle((x + 0.06, y), *size, linewidth=0, facecolor=style.LIGHT if masked else style.SKY)
    if masked:
        face.set(hatch="////", edgecolor="white")
    axes.add_patch(face)
    axes.add_patch(Rectangle((x + 0.06, y), *size, fill=False, edgecolor=style.GREY, linewidth=0.6))


def _block(axes: Axes, y: float, text: str, *, faded: bool = False) -> None:
    box = FancyBboxPatch(
        *((LEFT, y), RIGHT - LEFT, 0.6),
        boxstyle="round,pad=0,rounding_size=0.15",
        facecolor="#F7F7F7" if faded else "#FFF4DC",
        edgecolor="#BFBFBF" if faded else style.GREY,
        linewidth=0.8,
    )
    axes.add_patch(box)
    axes.text(
        (LEFT + RIGHT) / 2,
        y + 0.29,
        text,
        ha="center",
        va="center",
        fontsize=7.5,
        color=style.GREY if faded else "black",
    )


def _arrow(axes: Axes, start: float, end: float) -> None:
    middle = (LEFT + RIGHT) / 2
    axes.annotate(
        "",
        xy=(middle, end),
        xytext=(middle, start),
        arrowprops={"arrowstyle": "-|>", "color": style.GREY, "linewidth": 0.9},
    )


def _note(axes: Axes, y: float, text: str) -> None:
    axes.text((LEFT + RIGHT) / 2, y, text, ha="center", va="center", fontsize=7.5, color=style.GREY)
