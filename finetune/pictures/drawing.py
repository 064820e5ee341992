"""The type of a picture, and its colours: blue, orange and grey, which the colour-blind can distinguish."""

from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from finetune.report.plots import BASELINE, GREY, LIGHT, MODEL

BLUE, ORANGE = MODEL, BASELINE
LINES = ((BLUE, "-"), (ORANGE, "--"), (GREY, ":"), ("#00896b", "-."))  # also distinguished by their dashes
__all__ = ["BLUE", "GREY", "LIGHT", "LINES", "ORANGE", "Drawing", "legend_above", "new_figure"]


@dataclass(frozen=True)
class Drawing:
    """A picture with the name of its files (without extension) and a caption."""

    name: str
    title: str
    caption: str
    figure: Figure
    wide: bool = False  # too wide for a phone, which scrolls it


def new_figure(width: float, height: float) -> Figure:
    """An empty figure; sizes in inches."""
    return Figure(figsize=(width, height), layout="constrained")


def legend_above(figure: Figure, axes: Axes, columns: int = 2) -> None:
    """Put the legend above the axes, where it covers nothing."""
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=columns)
