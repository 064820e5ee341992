"""The effect of temperature, top-k, top-p and min-p on a real model's next-token probabilities."""

from typing import Any

import torch
from matplotlib.axes import Axes
from torch import Tensor

from finetune.errors import RecipeError
from finetune.models.sampling import Decoding, filter_logits
from finetune.models.transformer import LanguageModel
from finetune.pictures.drawing import BLUE, GREY, LINES, Drawing, legend_above, new_figure
from finetune.report.attention import visible
from finetune.report.plots import cut
from finetune.tokenizer import Tokenizer

PROMPT = "The bank was closed because the river had"
SHOWN = 20  # tokens shown, the most likely first
TEMPERATURES = (0.5, 1.0, 2.0)
TOP_K, TOP_P, MIN_P = 8, 0.5, 0.1


def prompt_ids(gpt: LanguageModel, tokenizer: Tokenizer, prompt: str, room: int) -> Tensor:
    """The tokens of a prompt after the end-of-text token, as in ``generate``: (1, T).

    room: number of tokens to follow. Raises RecipeError if the prompt is empty or the context too short.
    """
    if not prompt.strip():
        raise RecipeError("the text is empty", got=repr(prompt), do='For example: --text "The bank was"')
    ids = [tokenizer.end_of_text, *tokenizer.encode(prompt)]
    if len(ids) + room > gpt.config.context:
        raise RecipeError(
            "the text is longer than the model's context",
            got=f"{len(ids):,} tokens",
            known=f"{gpt.config.context - room:,} at most",
            do="Shorten it.",
        )
    return torch.tensor([ids])


@torch.no_grad()
def next_logits(gpt: LanguageModel, ids: Tensor) -> Tensor:
    """The logits of the next token: (1, T) -> (1, V)."""
    return gpt(ids)[:, -1]


def kept(logits: Tensor, **rule: Any) -> tuple[Tensor, Tensor]:
    """Which tokens a rule of ``filter_logits`` keeps, and their probabilities after it: (V,), (V,)."""
    filtered = filter_logits(logits, **rule)[0]
    return filtered > -torch.inf, filtered.softmax(dim=-1)


def draw(
    gpt: LanguageModel,
    tokenizer: Tokenizer,
    prompt: str,
    weights: str,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
) -> list[Drawing]:
    """The probabilities at three temperatures, and under each of three rules. Raises RecipeError out of range."""
    Decoding(top_k=top_k, top_p=top_p, min_p=min_p)  # checks the ranges
    logits = next_logits(gpt, prompt_ids(gpt, tokenizer, prompt, room=1))
    order = logits[0].argsort(descending=True)[:SHOWN]
    tokens = [visible(tokenizer.label(token)) for token in order.tolist()]
    rules = (
        ("top-k", "top_k", top_k or TOP_K, "the {} likeliest tokens are kept, however likely they are"),
        (
            "top-p",
            "top_p",
            top_p or TOP_P,
            "the fewest tokens that together reach {:.0%} are kept: few if the model is confident, many if it is not",
        ),
        (
            "min-p",
            "min_p",
            MIN_P if min_p is None else min_p,
            "those at least {:.0%} as likely as the likeliest one are kept",
        ),
    )
    return [
        _temperatures(logits, order, tokens, prompt, weights),
        *(_rule(logits, order, tokens, *rule) for rule in rules),
    ]


def _temperatures(logits: Tensor, order: Tensor, tokens: list[str], prompt: str, weights: str) -> Drawing:
    figure = new_figure(4.6, 4.8)
    axes = figure.subplots()
    for temperature, (colour, dashes) in zip(TEMPERATURES, LINES, strict=False):
        _, probability = kept(logits, temperature=temperature)
        axes.plot(
            (100 * probability[order]).tolist(),
            range(len(order)),
            color=colour,
            linestyle=dashes,
            marker="o",
            markersize=3.5,
            label=f"temperature {temperature:g}",
        )
    _name_tokens(axes, tokens)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    legend_above(figure, axes, columns=1)
    return Drawing(
        "sampling-temperature",
        f"Temperature, on the next token of {weights}",
        f"The {len(order)} likeliest next tokens after: {cut(prompt, 300)} \N{HORIZONTAL ELLIPSIS} "
        "(\N{OPEN BOX} is a space). The logits are divided by the temperature: below 1 the distribution gets sharper, "
        "above 1 flatter; the order of the tokens does not change. The scale is logarithmic.",
        figure,
    )


def _rule(logits: Tensor, order: Tensor, tokens: list[str], title: str, name: str, value: float, words: str) -> Drawing:
    may, after = kept(logits, **{name: value})
    before = logits[0].softmax(dim=-1)
    figure = new_figure(4.6, 4.8)
    axes = figure.subplots()
    stays, had, has = may[order].tolist(), (100 * before[order]).tolist(), (100 * after[order]).tolist()
    stay, cut_off = ([place for place, kept_here in enumerate(stays) if kept_here is kind] for kind in (True, False))
    axes.barh(stay, [has[place] for place in stay], color=BLUE, height=0.7, label=f"kept, under {title} {value:g}")
    if cut_off:
        axes.barh(
            cut_off,
            [had[place] for place in cut_off],
            color="white",
            edgecolor=GREY,
            hatch="////",
            height=0.7,
            label="cut off",
        )
    axes.plot(had, range(len(had)), "|", color="#000000", markersize=9, markeredgewidth=1.6, label="before the rule")
    for place in cut_off:
        axes.text(had[place], place, "  \N{MULTIPLICATION SIGN}", va="center", fontsize=8)
    _name_tokens(axes, tokens)
    legend_above(figure, axes, columns=2)
    return Drawing(
        f"sampling-{title}",
        f"{title.capitalize()} {value:g}",
        f"Of the {len(may):,} tokens {words.format(value)}: here {int(may.sum()):,}, which had "
        f"{float(before[may].sum()):.0%} of the probability and now share all of it. The strokes show each "
        "token's probability before the rule.",
        figure,
    )


def _name_tokens(axes: Axes, tokens: list[str]) -> None:
    axes.set_yticks(range(len(tokens)), tokens, fontsize=8.5, parse_math=False)
    axes.invert_yaxis()
    axes.set_xlabel("Probability, %")
    axes.grid(axis="y", visible=False)
