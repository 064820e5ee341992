"""How a model encodes token positions: sinusoids, learned vectors, rotation.

Sources: Vaswani et al. 2017, arXiv:1706.03762, section 3.5; Radford et al. 2019; Su et al. 2021, arXiv:2104.09864.
Shape letters as in models/gpt.py.
"""

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from finetune.models.gpt import GPT
from finetune.models.variants import angles, rotate, sinusoids
from finetune.pictures.drawing import LINES, Drawing, legend_above, new_figure

SHOWN = 128  # positions of the sinusoids and the rotation


def draw(gpt: GPT, weights: str) -> list[Drawing]:
    """The three ways, the first and the last at the model's own width."""
    return [
        _sinusoidal(gpt.config.width),
        *_learned(learned(gpt), weights),
        *_rotary(gpt.config.width // gpt.config.heads),
    ]


def sinusoidal(width: int) -> Tensor:
    """(SHOWN, C), as a Variant adds them."""
    return sinusoids(torch.arange(SHOWN), width)


def learned(gpt: GPT) -> Tensor:
    """The checkpoint's own tensor (context, C)."""
    return gpt.position_embedding.weight.detach()


def similarity(vectors: Tensor) -> Tensor:
    """The cosine between every two rows: (T, C) -> (T, T)."""
    unit = F.normalize(vectors, dim=-1)
    return unit @ unit.T


def rotated_product(head_width: int, query_position: int) -> Tensor:
    """q . k / D over the distances 0 to SHOWN - 1, q and k all ones, the key so far before the query: (SHOWN,)."""
    ones = torch.ones(1, 1, SHOWN, head_width)
    key_positions = query_position - torch.arange(SHOWN)
    q = rotate(ones[:, :, :1], angles(torch.tensor([[query_position]]), head_width))
    k = rotate(ones, angles(key_positions[None], head_width))
    return (q * k).mean(dim=-1)[0, 0]


def _sinusoidal(width: int) -> Drawing:
    values = sinusoidal(width)
    figure = new_figure(4.6, 5.4)
    upper, lower = figure.subplots(2, 1, height_ratios=(3, 2))
    _shades(figure, upper, values, "value added", limit=1)
    upper.set(xlabel="Channel", ylabel="Position")
    for channel, (colour, dashes) in zip(sorted({0, width // 8 // 2 * 2, width // 3 // 2 * 2}), LINES, strict=False):
        lower.plot(values[:, channel].tolist(), color=colour, linestyle=dashes, label=f"channel {channel}")
    lower.set(xlabel="Position", ylabel="Value")
    legend_above(figure, lower, columns=3)
    return Drawing(
        "positions-sinusoidal",
        "Sinusoidal positions",
        "Each row is the vector that is added to a token at this position. Sine and cosine take turns from "
        "channel to channel: the first channels tell neighbours apart, the last hardly change over the "
        "whole text, so that together they say a position as the hands of a clock say the time. None of it "
        f"is learnt. Here for a width of {width:,}.",
        figure,
    )


def _learned(vectors: Tensor, weights: str) -> list[Drawing]:
    context, width = vectors.shape
    figure = new_figure(4.6, 3.9)
    axes = figure.subplots()
    _shades(
        figure,
        axes,
        vectors,
        "value added",
        limit=float(vectors.abs().flatten().quantile(0.99)) if vectors.numel() < 1e7 else float(vectors.std() * 3),
    )
    axes.set(xlabel="Channel", ylabel="Position")
    alike = new_figure(4.6, 4.0)
    axes = alike.subplots()
    _shades(alike, axes, similarity(vectors), "cosine", limit=1)
    axes.set(xlabel="Position", ylabel="Position")
    return [
        Drawing(
            "positions-learned",
            f"Learned positions of {weights}",
            f"The checkpoint's own tensor, {context:,} positions by {width:,} channels: each row was learnt "
            "for its position like the vector of a token. Vertical stripes are channels that hold one value "
            "over many positions. Past the last row the model has no positions, hence its context.",
            figure,
        ),
        Drawing(
            "positions-similarity",
            f"How alike the positions of {weights} are",
            "The cosine between the vectors of every two positions: purple where they are alike, orange where "
            "they are opposite. The model was never given the order of positions; where the picture is "
            "purple near its diagonal and changes away from it, training has discovered it.",
            alike,
        ),
    ]


def _rotary(head_width: int) -> list[Drawing]:
    figure = new_figure(4.6, 3.6)
    axes = figure.subplots()
    places = torch.arange(1, SHOWN)
    turns = angles(places, head_width) / (2 * torch.pi)  # (SHOWN - 1, D / 2)
    pairs = sorted({0, head_width // 16, head_width // 8, head_width // 4})
    for pair, (colour, dashes) in zip(pairs, LINES, strict=False):
        axes.plot(places.tolist(), turns[:, pair].tolist(), color=colour, linestyle=dashes, label=f"pair {pair}")
    axes.set(xlabel="Position", ylabel="Turns since position 0", yscale="log")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    legend_above(figure, axes, columns=4)
    product = new_figure(4.6, 3.6)
    axes = product.subplots()
    for query, (colour, dashes), width in ((0, LINES[0], 3.0), (1000, LINES[1], 1.4)):
        axes.plot(
            rotated_product(head_width, query).tolist(),
            color=colour,
            linestyle=dashes,
            linewidth=width,
            label=f"query at {query:,}",
        )
    axes.set(xlabel="Distance from the query to the key", ylabel="q \N{DOT OPERATOR} k / D")
    legend_above(product, axes)
    return [
        Drawing(
            "positions-rotary",
            "Rotary positions: the angle",
            "Nothing is added to a token: in each head the channels of queries and keys are taken in pairs, "
            "and each pair is turned by an angle that grows with the position, the first pair fastest. Here "
            f"for a head of {head_width} channels; the scale of the turns is logarithmic.",
            figure,
        ),
        Drawing(
            "positions-rotary-distance",
            "Rotary positions: what attention sees of them",
            "The product of one query and one key, all ones before they are turned, over the distance between "
            "them. The two lines lie on each other: wherever the two stand in the text, only their distance "
            "counts. Far away the turned pairs cancel and the product falls.",
            product,
        ),
    ]


def _shades(figure: Figure, axes: Axes, values: Tensor, label: str, limit: float) -> None:
    """Orange below zero, purple above: the two ends differ in hue for every kind of eye."""
    image = axes.imshow(values.numpy(), cmap="PuOr", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
    axes.grid(False)
    figure.colorbar(image, ax=axes, label=label, shrink=0.9)
