"""The nearest neighbours of tokens in a model's embedding, by cosine similarity."""

import torch
from torch.nn import functional as F

from finetune.errors import RecipeError
from finetune.models.heads import Reader
from finetune.pictures.drawing import BLUE, Drawing, new_figure
from finetune.report.attention import visible
from finetune.report.plots import cut
from finetune.tokenizer import Tokenizer

TEXT = " river king seven was London good"
MOST, NEIGHBOURS = 6, 6  # tokens of a text, and neighbours of each


@torch.no_grad()
def nearest(model: Reader, token: int, count: int) -> tuple[list[int], list[float]]:
    """The tokens whose embeddings have the largest cosine with a token's, except the token itself, and the cosines."""
    table = F.normalize(model.token_embedding.weight, dim=-1)
    cosines = table @ table[token]
    cosines[token] = -2.0
    found = cosines.topk(min(count, len(table) - 1))
    return found.indices.tolist(), found.values.tolist()


def draw(model: Reader, tokenizer: Tokenizer, text: str, weights: str) -> list[Drawing]:
    """For each of the first tokens of a text, its nearest tokens. Raises RecipeError for an empty text."""
    if not text.strip():
        raise RecipeError("the text is empty", got=repr(text), do='For example: --text " river king"')
    tokens = list(dict.fromkeys(tokenizer.encode(text)))
    shown = tokens[:MOST]
    rows = -(-len(shown) // 2)
    figure = new_figure(6.4, 1.75 * rows + 0.2)
    grid = figure.subplots(rows, 2, squeeze=False).flatten()
    for axes, token in zip(grid, shown, strict=False):
        near, cosines = nearest(model, token, NEIGHBOURS)
        axes.barh(range(len(near)), cosines, color=BLUE, height=0.65)
        axes.set_yticks(range(len(near)), [visible(tokenizer.label(own)) for own in near], fontsize=8, parse_math=False)
        axes.invert_yaxis()
        axes.set_xlim(min(0.0, *cosines), 1)
        axes.set_title(f"nearest to {visible(tokenizer.label(token))}", parse_math=False)
        axes.grid(axis="y", visible=False)
    for axes in grid[len(shown) :]:
        axes.set_axis_off()
    rest = f" The text has {len(tokens) - len(shown):,} more tokens." if len(tokens) > len(shown) else ""
    return [
        Drawing(
            "embeddings",
            f"Neighbours in the token embedding of {weights}",
            "The bars are cosines between rows of the token embedding, before any attention. The model was never told "
            "what the tokens mean: training moved tokens that occur in similar contexts in the same direction. A token has "
            f"the same row whatever its meaning in a text; the layers above tell its meanings apart.{rest} The "
            f"text: {cut(text, 200)}",
            figure,
        )
    ]
