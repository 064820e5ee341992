"""The savings of a KV cache: the tokens computed in each step, recorded while a model generates."""

from dataclasses import dataclass

import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from finetune.models.transformer import LanguageModel
from finetune.pictures.drawing import BLUE, LIGHT, Drawing, new_figure
from finetune.pictures.sampling import prompt_ids
from finetune.report.attention import visible
from finetune.report.plots import cut
from finetune.tokenizer import Tokenizer

STEPS = 8  # new tokens
MOST = 40  # maximum tokens of prompt and continuation


@dataclass(frozen=True)
class Step:
    """A forward pass: its tokens, and those whose keys and values were already in the cache."""

    computed: int
    cached: int


@torch.no_grad()
def write(gpt: LanguageModel, ids: torch.Tensor, steps: int, cached: bool) -> tuple[list[int], list[Step]]:
    """Continue ids (1, T) greedily, with or without a cache: all tokens, and the tokens computed in each step."""
    tokens, taken, cache = ids[0].tolist(), [], gpt.new_cache(ids.shape[1] + steps)
    for _ in range(steps):
        if not cached:
            cache = gpt.new_cache(len(tokens))
        before = cache.length
        logits = gpt.next_logits(torch.tensor([tokens[before:]]), cache)
        taken.append(Step(cache.length - before, before))
        tokens.append(int(logits[0].argmax()))
    return tokens, taken


def draw(gpt: LanguageModel, tokenizer: Tokenizer, prompt: str, weights: str) -> list[Drawing]:
    """Two grids, a row for each step: without a cache, and with one."""
    ids = prompt_ids(gpt, tokenizer, prompt, room=STEPS)[:, -(MOST - STEPS) :]
    tokens, without = write(gpt, ids, STEPS, cached=False)
    same, with_cache = write(gpt, ids, STEPS, cached=True)
    assert tokens == same, "a cache changes no token"
    labels = [visible(tokenizer.label(token)) for token in tokens[:-1]]
    figure = new_figure(max(0.2 * len(labels) + 1.6, 4.6), 5.6)
    for axes, taken, title in zip(
        figure.subplots(2, 1, sharex=True), (without, with_cache), ("without a cache", "with a cache"), strict=True
    ):
        _grid(axes, taken, len(labels), f"{title}: {sum(step.computed for step in taken):,} tokens computed")
    axes.set_xticks([place + 0.5 for place in range(len(labels))], labels, rotation=90, fontsize=7.5, parse_math=False)
    return [
        Drawing(
            "cache",
            f"The KV cache of {weights}",
            f"{STEPS} new tokens after: {cut(prompt, 300)} Each row is a step, each column a token of the text. Dark: the "
            "whole model is computed for this token. Light: its keys and values come from the cache. White: not written "
            "yet. Keys and values of earlier tokens do not change, because no token attends to later ones. Both ways give "
            "the same text.",
            figure,
            wide=len(labels) > 24,
        )
    ]


def _grid(axes: Axes, taken: list[Step], width: int, title: str) -> None:
    for row, step in enumerate(taken):
        parts = ((0, step.cached, LIGHT), (step.cached, step.computed, BLUE))
        for start, count, colour in parts:
            for place in range(start, start + count):
                axes.add_patch(_cell(place, row, colour))
    axes.set(xlim=(0, width), ylim=(len(taken), 0), ylabel="Step", title=title)
    axes.set_yticks([row + 0.5 for row in range(len(taken))], [str(row + 1) for row in range(len(taken))])
    axes.grid(False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _cell(column: int, row: int, colour: str) -> Rectangle:
    return Rectangle((column + 0.06, row + 0.06), 0.88, 0.88, facecolor=colour, edgecolor="none")
