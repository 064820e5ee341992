"""Boxes and arrows for the architecture diagrams, drawn from the bottom upwards. Units are inches."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch

from finetune.pictures.drawing import GREY, new_figure

INK, FRAME = "#24262a", "#8a8e95"
ROUND = "round,pad=0,rounding_size=0.08"
FILLS = {"table": "#dbe8f4", "attention": "#f7d9c4", "mlp": "#d8ece4", "norm": "#f1f1ee", "mask": "#ffffff"}


def new_diagram(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure and its empty axes, one inch per unit."""
    figure = new_figure(width, height)
    axes = figure.subplots()
    axes.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    axes.set_axis_off()
    return figure, axes


def box(axes: Axes, x: float, y: float, text: str, kind: str, width: float = 1.9, height: float = 0.42) -> None:
    """A box with its middle at x, y."""
    axes.add_patch(
        FancyBboxPatch(
            (x - width / 2, y - height / 2),
            width,
            height,
            boxstyle=ROUND,
            facecolor=FILLS[kind],
            edgecolor=INK,
            linewidth=0.9,
            linestyle="--" if kind == "mask" else "-",
            zorder=3,
        )
    )
    axes.text(x, y, text, ha="center", va="center", fontsize=8, zorder=4, linespacing=1.25)


def frame(axes: Axes, x: float, low: float, high: float, text: str, width: float) -> None:
    """A frame from low to high around a repeated part, with text in the upper right corner."""
    axes.add_patch(
        FancyBboxPatch(
            (x - width / 2, low),
            width,
            high - low,
            boxstyle=ROUND,
            facecolor="#fafafa",
            edgecolor=FRAME,
            linewidth=1.2,
            zorder=1,
        )
    )
    axes.text(x + width / 2 - 0.09, high - 0.08, text, ha="right", va="top", fontsize=9, fontweight="bold", zorder=4)


def arrow(axes: Axes, start: tuple, end: tuple, text: str = "", dashed: bool = False) -> None:
    """An arrow, with text to its right."""
    axes.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle="-|>",
            mutation_scale=9,
            color=INK,
            linewidth=1,
            shrinkA=0,
            shrinkB=0,
            linestyle="--" if dashed else "-",
            zorder=2,
        )
    )
    if text:
        axes.text(
            (start[0] + end[0]) / 2 + 0.07,
            (start[1] + end[1]) / 2,
            text,
            ha="left",
            va="center",
            fontsize=7.5,
            color=INK,
            zorder=4,
        )


def plus(axes: Axes, x: float, y: float) -> None:
    """A plus sign where two tensors are added."""
    axes.add_patch(Circle((x, y), 0.1, facecolor="white", edgecolor=INK, linewidth=0.9, zorder=3))
    axes.text(x, y, "+", ha="center", va="center", fontsize=9, zorder=4)


def around(axes: Axes, x: float, low: float, high: float, left: float) -> None:
    """The residual connection around a part: from (x, low) via `left` to the plus at (x, high)."""
    axes.plot(
        [x, left, left, x - 0.18], [low, low, high, high], color=GREY, linewidth=1, zorder=2, solid_joinstyle="round"
    )
    arrow(axes, (x - 0.2, high), (x - 0.1, high))
