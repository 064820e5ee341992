"""What a picture is, and its colours: blue, orange and grey, which every kind of eye tells apart."""

from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from finetune.report.plots import BASELINE, GREY, LIGHT, MODEL

BLUE, ORANGE = MODEL, BASELINE
LINES = ((BLUE, "-"), (ORANGE, "--"), (GREY, ":"), ("#00896b", "-."))  # told apart by their dashes, too
__all__ = ["BLUE", "GREY", "LIGHT", "LINES", "ORANGE", "Drawing", "legend_above", "new_figure"]


@dataclass(frozen=True)
class Drawing:
    """A picture with the name of its files (without an ending), and what to see in it."""

    name: str
    title: str
    caption: str
    figure: Figure
    wide: bool = False  # too wide for a telephone: there it is scrolled


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches."""
    return Figure(figsize=(width, height), layout="constrained")


def legend_above(figure: Figure, axes: Axes, columns: int = 2) -> None:
    """The legend where it covers nothing."""
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=columns)
