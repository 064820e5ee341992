"""Draw a beam search as a tree. Shape letters as in models/gpt.py; K beams."""

from dataclasses import dataclass

import torch
from matplotlib.axes import Axes

from finetune.errors import RecipeError
from finetune.models.transformer import LanguageModel
from finetune.pictures.drawing import BLUE, GREY, ORANGE, Drawing, new_figure
from finetune.pictures.sampling import next_logits, prompt_ids
from finetune.report.attention import visible
from finetune.report.plots import cut
from finetune.tokenizer import Tokenizer

BEAMS, STEPS, MOST = 3, 5, 5  # MOST: the maximum number of beams in a picture


@dataclass(frozen=True)
class Branch:
    """A continuation of the prompt, one token longer than its parent."""

    tokens: tuple[int, ...]  # all tokens after the prompt
    score: float  # log probability of these tokens
    kept: bool

    @property
    def parent(self) -> tuple[int, ...]:
        """The tokens of the branch that this one extends."""
        return self.tokens[:-1]


def search(gpt: LanguageModel, ids: torch.Tensor, beams: int, steps: int) -> list[list[Branch]]:
    """The 2 K best branches of each step, best first; the best K are extended. No token ends a beam.

    ids: (1, T). The same search as in ``finetune.models.generate``, without a cache.
    """
    open_beams, tree = [Branch((), 0.0, True)], []
    for _ in range(steps):
        rows = torch.tensor([[*ids[0].tolist(), *branch.tokens] for branch in open_beams])
        scores = torch.tensor([branch.score for branch in open_beams])
        totals = scores[:, None] + next_logits(gpt, rows).log_softmax(dim=-1)  # (K, V)
        best, index = totals.flatten().topk(2 * beams)
        V = totals.shape[1]
        tree.append(
            [
                Branch((*open_beams[place // V].tokens, place % V), score, rank < beams)
                for rank, (score, place) in enumerate(zip(best.tolist(), index.tolist(), strict=True))
            ]
        )
        open_beams = [branch for branch in tree[-1] if branch.kept]
    return tree


def draw(
    gpt: LanguageModel, tokenizer: Tokenizer, prompt: str, weights: str, beams: int | None = None
) -> list[Drawing]:
    """The tree of continuations of a prompt. Raises RecipeError for fewer than 2 beams or too many to draw."""
    beams = BEAMS if beams is None else beams
    if not 2 <= beams <= MOST:
        raise RecipeError("beams is out of range", got=str(beams), known=f"2 to {MOST} in a picture")
    tree = search(gpt, prompt_ids(gpt, tokenizer, prompt, room=STEPS), beams, STEPS)
    figure = new_figure(7.6, 0.62 * 2 * beams + 0.8)
    axes = figure.subplots()
    rows: dict[tuple[int, ...], float] = {(): beams - 0.5}  # the vertical position of each kept branch
    for step, branches in enumerate(tree, 1):
        order = sorted(branches, key=lambda branch: (rows[branch.parent], -branch.score))
        places: dict[tuple[int, ...], float] = {branch.tokens: row for row, branch in enumerate(order)}
        for branch in branches:
            start, end = (step - 1, rows[branch.parent]), (step, places[branch.tokens])
            _branch(axes, tokenizer, branch, start, end, best=branch.tokens == tree[-1][0].tokens)
        rows = places
    axes.text(
        0,
        beams - 0.5,
        f"\N{HORIZONTAL ELLIPSIS} {cut(prompt.split()[-1], 14)}",
        ha="center",
        va="center",
        fontsize=8,
        parse_math=False,
        bbox={"boxstyle": "round", "fc": "white", "ec": BLUE},
    )
    axes.set(xlim=(-0.4, STEPS + 0.5), ylim=(2 * beams - 0.4, -0.7))
    axes.set_xticks(range(1, STEPS + 1), [f"token {step}" for step in range(1, STEPS + 1)])
    axes.set_yticks([])
    axes.grid(False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    last = [branch for branch in tree[-1] if branch.kept]
    found = "; ".join(
        f"{number}. {tokenizer.decode(list(branch.tokens)).strip()} ({branch.score:.2f})"
        for number, branch in enumerate(last, 1)
    )
    return [
        Drawing(
            "beams",
            f"Beam search of {weights} with {beams} beams",
            f"Prompt: {cut(prompt, 300)} \N{HORIZONTAL ELLIPSIS} At each step every kept beam is extended by every "
            f"token, and the {beams} highest sums of log probabilities are kept (filled, solid); the next {beams} are "
            "shown outlined and dashed. The box on the left is the prompt's last word; the best end is "
            "orange. The end-of-text token counts like any other here. The likeliest first token "
            f"does not always lead to the likeliest text. Results, best first: {found}",
            figure,
            wide=True,
        )
    ]


def _branch(
    axes: Axes, tokenizer: Tokenizer, branch: Branch, start: tuple[float, float], end: tuple[float, float], best: bool
) -> None:
    colour, dashes = (ORANGE if best else BLUE, "-") if branch.kept else (GREY, "--")
    axes.plot(
        [start[0], end[0]],
        [start[1], end[1]],
        color=colour,
        linestyle=dashes,
        zorder=1,
        linewidth=1.6 if branch.kept else 0.9,
    )
    label = f"{visible(tokenizer.label(branch.tokens[-1]))}\n{branch.score:.2f}"
    axes.text(
        *end,
        label,
        ha="center",
        va="center",
        fontsize=8,
        parse_math=False,
        zorder=2,
        color="white" if branch.kept else GREY,
        bbox={"boxstyle": "round,pad=0.25", "fc": colour if branch.kept else "white", "ec": colour, "ls": dashes},
    )
