"""How a model encodes token positions: sinusoids, learned vectors, rotation, ALiBi's biases.

Sources: Vaswani et al. 2017, arXiv:1706.03762, section 3.5; Radford et al. 2019; Su et al. 2021, arXiv:2104.09864;
Press et al. 2021, arXiv:2108.12409.
Shape letters as in models/gpt.py.
"""

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from finetune.models.gpt import GPT
from finetune.models.transformer import alibi_bias, angles, rotate, sinusoids
from finetune.pictures.drawing import LINES, Drawing, legend_above, new_figure

SHOWN = 128  # positions of the sinusoids and the rotation


def draw(gpt: GPT, weights: str) -> list[Drawing]:
    """The four encodings; all but the learned vectors for the model's width and heads."""
    return [
        _sinusoidal(gpt.config.width),
        *_learned(learned(gpt), weights),
        *_rotary(gpt.config.width // gpt.config.heads),
        _alibi(gpt.config.heads),
    ]


def sinusoidal(width: int) -> Tensor:
    """The sinusoids (SHOWN, C) that a Transformer adds."""
    return sinusoids(torch.arange(SHOWN), width)


def learned(gpt: GPT) -> Tensor:
    """The checkpoint's position embedding (context, C)."""
    return gpt.position_embedding.weight.detach()


def similarity(vectors: Tensor) -> Tensor:
    """The cosine between every two rows: (T, C) -> (T, T)."""
    unit = F.normalize(vectors, dim=-1)
    return unit @ unit.T


def rotated_product(head_width: int, query_position: int) -> Tensor:
    """q . k / D for keys at distances 0 to SHOWN - 1 before the query, where q and k are all ones: (SHOWN,)."""
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
        "Each row is the vector that is added to a token at this position. Sine and cosine alternate from "
        "channel to channel. The first channels change fast and distinguish neighbours; the last hardly change over "
        "the whole text. Together they encode a position as the hands of a clock encode the time of day. Nothing here "
        f"is learned. The width is {width:,}.",
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
            f"The checkpoint's position embedding, {context:,} positions by {width:,} channels. Each row was learned "
            "for its position, as a token embedding is for its token. Vertical stripes are channels with nearly the "
            "same value at many positions. The number of rows limits the context of the model.",
            figure,
        ),
        Drawing(
            "positions-similarity",
            f"Similarity of the positions of {weights}",
            "The cosine similarity of every two position vectors: purple if they are alike, orange if they are "
            "opposite. The order of positions was never given to the model. Where the picture is purple near the "
            "diagonal and changes away from it, the model has learned that order.",
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
            "Nothing is added to a token. In each head, the channels of queries and keys form pairs, and each pair is "
            "rotated by an angle that grows with the position, the first pair fastest. The head has "
            f"{head_width} channels; the vertical scale is logarithmic.",
            figure,
        ),
        Drawing(
            "positions-rotary-distance",
            "Rotary positions: their effect on attention",
            "The product of a query and a key, both all ones before the rotation, by the distance between "
            "them. The two lines coincide: only the distance matters, not where the tokens are in the text. "
            "At a large distance the rotated pairs cancel out and the product falls.",
            product,
        ),
    ]


def alibi(heads: int) -> Tensor:
    """The bias on the score of a key by its distance before the query, from 0 on: (H, SHOWN)."""
    return alibi_bias(torch.arange(SHOWN)[None], heads, None)[0, :, -1].flip(-1)


def _alibi(heads: int) -> Drawing:
    biases = alibi(heads)
    figure = new_figure(4.6, 3.6)
    axes = figure.subplots()
    for head, (colour, dashes) in zip(sorted({0, heads // 3, 2 * heads // 3, heads - 1}), LINES, strict=False):
        axes.plot(biases[head].tolist(), color=colour, linestyle=dashes, label=f"head {head}")
    axes.set(xlabel="Distance from the query to the key", ylabel="Added to the score")
    legend_above(figure, axes, columns=4)
    return Drawing(
        "positions-alibi",
        "ALiBi: distance as a cost",
        "There is no position embedding. Instead each head lowers the score of a key in proportion to its distance before the "
        "query, the first head most: it attends almost only to its neighbours, while the last one reaches far. Nothing here "
        "is learned, and there is no longest position, so a model can read texts longer than those it was trained on.",
        figure,
    )


def _shades(figure: Figure, axes: Axes, values: Tensor, label: str, limit: float) -> None:
    """Orange below zero, purple above: the colour-blind can distinguish the two."""
    image = axes.imshow(values.numpy(), cmap="PuOr", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
    axes.grid(False)
    figure.colorbar(image, ax=axes, label=label, shrink=0.9)
