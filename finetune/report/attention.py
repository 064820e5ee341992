"""Attention weights as a map: which key each query reads. No torch here; see report/plots.py."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage
    from numpy.typing import ArrayLike

HIDDEN = "#d9dce1"  # colour of masked keys
_TOKEN_LIMIT = 14  # characters of a token's label
_MOST_LABELS = 72  # labels on one side; of a longer text only every second or third token is labelled
_SHOWN = {" ": "\N{OPEN BOX}", "\n": "\N{RETURN SYMBOL}", "\t": "\N{RIGHTWARDS ARROW}"}


def visible(token: str) -> str:
    """A token's text, shortened, with its spaces and line breaks made visible."""
    shown = (
        "".join(
            _SHOWN.get(character, character if character.isprintable() else "\N{REPLACEMENT CHARACTER}")
            for character in token
        )
        or "\N{EMPTY SET}"
    )
    return shown if len(shown) <= _TOKEN_LIMIT else shown[: _TOKEN_LIMIT - 1] + "\N{HORIZONTAL ELLIPSIS}"


def map_size(queries: list[str], keys: list[str]) -> tuple[float, float]:
    """Width and height in inches at which the labels of these tokens are readable."""
    beside, below = (0.09 * max(map(len, map(visible, tokens)), default=0) for tokens in (queries, keys))
    return 1.0 + beside + 0.24 * max(len(keys), 8), 0.8 + below + 0.2 * max(len(queries), 5)


def draw_attention(axes: "Axes", weights: "ArrayLike", queries: list[str], keys: list[str]) -> "AxesImage":
    """Draw weights (T, S) as shades, one row per query and one column per key, and return the image.

    Grey cells are exactly zero: the query may not attend to that key. Shades follow the square root of the weight, since
    on a linear scale one weight near 1 would leave the others white. Token texts are never parsed as mathematics.
    """
    import matplotlib
    import numpy as np
    from matplotlib.colors import PowerNorm

    values = np.asarray(weights, dtype=float)
    shades = matplotlib.colormaps["Blues"].with_extremes(bad=HIDDEN)
    image = axes.imshow(
        np.ma.masked_equal(values, 0.0), cmap=shades, norm=PowerNorm(0.5, 0, 1), aspect="auto", interpolation="nearest"
    )
    size = 9 if max(values.shape) <= 16 else 7.5 if max(values.shape) <= 32 else 6
    turned = 90 if max(map(len, map(visible, keys)), default=0) > 2 else 0
    for ticks, tokens, rotation in ((axes.set_xticks, keys, turned), (axes.set_yticks, queries, 0)):
        shown = range(0, len(tokens), -(-len(tokens) // _MOST_LABELS) or 1)
        ticks(shown, [visible(tokens[place]) for place in shown], rotation=rotation, fontsize=size, parse_math=False)
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    return image
