"""Which token may attend to which: the masks of the three architectures, made by the models' own code."""

import torch
from matplotlib.colors import ListedColormap
from torch import Tensor

from finetune.errors import RecipeError
from finetune.models.encoder import bidirectional_mask
from finetune.models.encoder_decoder import causal
from finetune.pictures.drawing import BLUE, LIGHT, Drawing, new_figure
from finetune.report.attention import visible

TEXT = "The bank was closed today"
WORDS, PADS = 20, 2  # maximum words of the text in a picture, and padding tokens after them
CAPTIONS = {
    "padding": (
        "Padding mask",
        "An encoder is bidirectional: each token attends to every token of the text. The texts of "
        "a batch are padded to the same length, and the mask hides the padding from every token.",
    ),
    "causal": (
        "Causal mask",
        "A decoder predicts the next token, so no token may attend to later ones: everything "
        "above the diagonal is masked. The first token attends only to itself.",
    ),
    "both": (
        "Causal and padding mask",
        "A decoder with padding: later tokens and padding are masked. A padding token attends to itself, because the "
        "softmax of a fully masked row is undefined. With padding on the right, the causal mask alone would be enough "
        "for the tokens of the text.",
    ),
}


def masks(tokens: int, pads: int) -> dict[str, Tensor]:
    """Each mask as its model makes it for one text padded on the right: (T, T), true if row may attend to column."""
    attention_mask = torch.arange(tokens + pads)[None] < tokens  # (1, T)
    T = tokens + pads
    ids = torch.zeros_like(attention_mask, dtype=torch.long)
    alone, padded = (
        causal(*rows)[0] for rows in ((ids[:, :tokens], attention_mask[:, :tokens]), (ids, attention_mask))
    )
    assert alone is not None and padded is not None, "with padding there is always a mask"
    return {
        "padding": bidirectional_mask(ids, attention_mask)[0][0, 0].expand(T, T),
        "causal": alone[0, 0],
        "both": padded[0, 0],
    }


def draw(text: str) -> list[Drawing]:
    """The masks for the first words of a text. Raises RecipeError for an empty text."""
    words = text.split()
    if not words:
        raise RecipeError("the text is empty", got=repr(text), do='For example: --text "The bank was closed"')
    note = "Each word stands for one token here."
    if len(words) > WORDS:
        note += f" Of the {len(words):,} words, the first {WORDS} are drawn."
    shown = words[:WORDS]
    names = shown + ["<pad>"] * PADS
    return [_draw(kind, mask, names[: len(mask)], note) for kind, mask in masks(len(shown), PADS).items()]


def _draw(kind: str, mask: Tensor, names: list[str], note: str) -> Drawing:
    title, caption = CAPTIONS[kind]
    side = max(4.2, 0.3 * len(names) + 1.5)
    figure = new_figure(side + 0.2, side)
    axes = figure.subplots()
    axes.imshow(mask.numpy(), cmap=ListedColormap([LIGHT, BLUE]), vmin=0, vmax=1)
    rows, columns = mask.nonzero(as_tuple=True)
    axes.scatter(columns.tolist(), rows.tolist(), s=14, color="white")
    labels = [visible(name) for name in names]
    axes.set_xticks(range(len(names)), labels, rotation=90, parse_math=False)
    axes.set_yticks(range(len(names)), labels, parse_math=False)
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.set(xlabel="keys (a dot: may attend to)", ylabel="queries")
    axes.set_xticks([place - 0.5 for place in range(1, len(names))], minor=True)
    axes.set_yticks([place - 0.5 for place in range(1, len(names))], minor=True)
    axes.grid(False)
    axes.grid(True, which="minor", color="white", linewidth=2)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    return Drawing(f"masks-{kind}", title, f"{caption} {note}", figure)
