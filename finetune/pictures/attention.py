"""The attention weights of a real model's heads on a real text."""

import torch
from torch import Tensor

from finetune.errors import RecipeError
from finetune.models.encoder_decoder import EncoderDecoder
from finetune.models.heads import Reader
from finetune.models.plain_attention import attention_maps
from finetune.pictures.drawing import Drawing, new_figure
from finetune.report.attention import draw_attention
from finetune.report.plots import cut
from finetune.tokenizer import Tokenizer

NEW_TOKENS = 24  # maximum tokens of a target
TEXT = "The bank was closed because the river had flooded its basement, so nobody could reach the bank."


def maps_of(model: Reader, tokenizer: Tokenizer, text: str, bare: bool = False) -> tuple[Tensor, list[str]]:
    """The attention weights of every layer and head (L, H, T, T), and the text of each token.

    The end-of-text token comes first, as in ``generate``; bare: without it, as a classifier reads a text.
    Raises RecipeError if the text is empty or longer than the context.
    """
    ids = tokenizer.encode(text) if bare else [tokenizer.end_of_text, *tokenizer.encode(text)]
    if not text.strip():
        raise RecipeError("the text is empty", got=repr(text), do='For example: --text "The bank was closed"')
    if len(ids) > model.config.context:
        raise RecipeError(
            "the text is longer than the model's context",
            got=f"{len(ids):,} tokens",
            known=f"{model.config.context:,} at most",
            do="Shorten it.",
        )
    [maps] = attention_maps(model, torch.tensor([ids])).values()
    return maps[:, 0], [tokenizer.label(token) for token in ids]


def shares(weights: Tensor) -> tuple[float, float, float]:
    """The fractions of a head's attention (T, T) to the first token, the previous token and the token itself.

    Averaged over the tokens from the third on, for which the three are different tokens.
    """
    own = weights.diagonal()
    first, before, itself = (
        float(part[2:].mean()) for part in (weights[:, 0], torch.cat([own[:1], weights.diagonal(-1)]), own)
    )
    return first, before, itself


def draw(
    model: Reader, tokenizer: Tokenizer, text: str, layer: int | None, weights: str, bare: bool = False
) -> list[Drawing]:
    """All heads of all layers, small, and the heads of one layer, large.

    layer: by default the middle one. bare: as for ``maps_of``.
    """
    layer = chosen_layer(layer, model.config.layers)
    maps, tokens = maps_of(model, tokenizer, text, bare)
    return [
        _overview(maps, weights, text),
        *(_head(maps[layer, head], tokens, tokens, layer, head, weights) for head in range(model.config.heads)),
    ]


def draw_both(model: EncoderDecoder, tokenizer: Tokenizer, text: str, layer: int | None, weights: str) -> list[Drawing]:
    """The maps of an encoder-decoder: the encoder's, the decoder's, and the cross-attention between them.

    text: the source; the target is what the model writes. layer: as for ``draw``, of the cross-attention.
    """
    layer = chosen_layer(layer, model.config.layers)
    source = tokenizer.encode(text)
    if not text.strip():
        raise RecipeError(
            "the text is empty", got=repr(text), do="Give a source of the kind that the model was trained on."
        )
    if len(source) > model.config.context:
        raise RecipeError(
            "the text is longer than the model's context", got=f"{len(source):,} tokens", do="Shorten it."
        )
    start = torch.tensor([[tokenizer.end_of_text]])
    target = model.generate(torch.tensor([source]), start, NEW_TOKENS, temperature=0.0, end=tokenizer.end_of_text)
    maps = attention_maps(model, torch.tensor([source]), target)
    read, written = ([tokenizer.label(token) for token in ids] for ids in (source, target[0].tolist()))
    said = f"{text} \N{RIGHTWARDS ARROW} {tokenizer.decode(target[0, 1:].tolist())}"
    kinds = {
        "encoder": "In the encoder every token attends to the whole source, on both sides.",
        "decoder": "In the decoder a token of the target attends to those before it.",
        "cross": "Cross-attention: each row is a token of the target, each column one of the source.",
    }
    return [
        *(
            _overview(
                maps[kind][:, 0], weights, said, f"attention-{kind}", f"{kind.capitalize()} heads of {weights}", what
            )
            for kind, what in kinds.items()
        ),
        *(
            _head(maps["cross"][layer, 0, head], written, read, layer, head, f"{weights}, cross-attention", "cross-")
            for head in range(model.config.heads)
        ),
    ]


def chosen_layer(layer: int | None, layers: int) -> int:
    """The layer to draw large, by default the middle one. Raises RecipeError if there is no such layer."""
    layer = layers // 2 if layer is None else layer
    if not 0 <= layer < layers:
        raise RecipeError(
            "no such layer", got=str(layer), known=f"0 to {layers - 1}", do="Layers are counted from 0, as in blocks.0"
        )
    return layer


def _overview(
    maps: Tensor,
    weights: str,
    text: str,
    name: str = "attention-overview",
    title: str = "",
    what: str = "Each row shows what one token attends to.",
) -> Drawing:
    layers, heads = maps.shape[:2]
    cell = min(1.0, 7.0 / heads)
    figure = new_figure(cell * heads + 0.4, cell * layers + 0.4)
    grid = figure.subplots(layers, heads, squeeze=False)
    for layer, row in enumerate(grid):
        for head, axes in enumerate(row):
            draw_attention(axes, maps[layer, head].tolist(), [], [])
            axes.set_aspect("equal")
            if layer == 0:
                axes.set_title(f"head {head}", fontsize=8.5 if heads <= 8 else 6)
        row[0].set_ylabel(f"layer {layer}", fontsize=8.5 if heads <= 8 else 6)
    return Drawing(
        name,
        title or f"Every head of {weights}",
        f"{what} A darker cell means a larger weight. A dark first column is a head "
        "that attends mostly to the first token; a dark diagonal is a head that attends to the token itself or the "
        f"previous one. The text: {cut(text, 300)}",
        figure,
        wide=heads > 6,
    )


def _head(
    weights: Tensor, queries: list[str], keys: list[str], layer: int, head: int, name: str, kind: str = ""
) -> Drawing:
    across, down = (min(max(2.4, 0.155 * len(tokens)), 14) for tokens in (keys, queries))
    figure = new_figure(across + 1.6, down + 1.3)
    axes = figure.subplots()
    image = draw_attention(axes, weights.tolist(), queries, keys)
    axes.set_aspect("equal")
    axes.xaxis.tick_top()
    bar = figure.colorbar(image, ax=axes, shrink=0.7, ticks=[0, 0.05, 0.25, 0.5, 1])
    bar.ax.set_yticklabels(["0", "0.05", "0.25", "0.5", "1"], fontsize=8)
    caption = "Each row sums to 1; grey cells are masked."
    if kind:
        caption = "Each row, a token of the target, sums to 1 over the tokens of the source."
    elif len(keys) > 2:
        first, before, own = shares(weights)
        caption = (
            f"On average {first:.0%} of a token's attention goes to the first token, {before:.0%} to the "
            f"previous token and {own:.0%} to itself. {caption}"
        )
    return Drawing(
        f"attention-{kind}layer-{layer}-head-{head}",
        f"{name}, layer {layer}, head {head}",
        caption,
        figure,
        wide=len(keys) > 40,
    )
