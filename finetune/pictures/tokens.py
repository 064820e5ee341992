"""How merges build the tokens of a text from its bytes."""

from dataclasses import dataclass
from itertools import accumulate, pairwise

from matplotlib.axes import Axes

from finetune.errors import RecipeError
from finetune.pictures.drawing import BLUE, GREY, LIGHT, Drawing, new_figure
from finetune.report.attention import visible
from finetune.report.plots import cut
from finetune.tokenizer import Tokenizer, split_pieces

TEXT = "The rivers flooded the banks."
MOST_BYTES = 48  # maximum bytes in a picture


@dataclass(frozen=True)
class Joint:
    """A merge of two neighbouring parts of a piece of text."""

    first: int  # position of the first byte
    split: int  # position of the second part's first byte
    last: int  # position after the last byte
    level: int  # height in the tree; bytes have 0
    below: tuple[int, int]  # heights of the two parts
    pair: tuple[bytes, bytes]


def draw(tokenizer: Tokenizer, text: str, weights: str) -> list[Drawing]:
    """The merges of a text's first pieces as a tree over its bytes. Raises RecipeError for an empty text."""
    if not text.strip():
        raise RecipeError("the text is empty", got=repr(text), do='For example: --text "The rivers"')
    pieces = split_pieces(text)
    fit = next((n for n in range(len(pieces), 0, -1) if len("".join(pieces[:n]).encode()) <= MOST_BYTES), 0)
    if not fit:
        raise RecipeError(
            "the first word does not fit a picture",
            got=f"{len(pieces[0].encode())} bytes",
            known=f"at most {MOST_BYTES}",
        )
    trees = [tokenizer.merge_steps(piece) for piece in pieces[:fit]]
    width = sum(len(steps[0]) for steps in trees)
    height = max((joint.level for steps in trees for joint in joints(steps)), default=0)
    figure = new_figure(max(0.24 * width + 0.6, 4.6), 0.52 * (height + 1) + 0.4)
    axes = figure.subplots()
    start = 0
    for steps in trees:
        _tree(axes, tokenizer, steps, start)
        start += len(steps[0])
    axes.set(xlim=(-0.6, width - 0.4), ylim=(-0.6, height + 0.6))
    axes.set_axis_off()
    tokens = sum(len(steps[-1]) for steps in trees)
    rest = "" if fit == len(pieces) else f" The rest of the text, {len(pieces) - fit:,} pieces, is left out."
    return [
        Drawing(
            "tokens",
            f"From bytes to tokens, by the merges of {weights}",
            f"Read from the bottom upwards. The text is first split into words, numbers, signs and spaces (\N{OPEN BOX}), "
            f"then the bytes of each are joined, pair by pair. The small number is the merge's rank: the lower, the more "
            f"frequent the pair was when the vocabulary was learned, and the earlier it is joined. Blue: the {tokens} "
            f"tokens that are left, with their ids.{rest} The text: {cut(text, 300)}",
            figure,
            wide=width > 24,
        )
    ]


def joints(steps: list[list[bytes]]) -> list[Joint]:
    """The merges of a piece, from its parts after each of them (``Tokenizer.merge_steps``)."""
    levels, found = [0] * len(steps[0]), []  # the height of each part
    for before, after in pairwise(steps):
        at = next(place for place, part in enumerate(after) if part != before[place])
        first = sum(map(len, after[:at]))
        below = levels[at], levels[at + 1]
        levels[at : at + 2] = [max(below) + 1]
        found.append(
            Joint(
                first, first + len(before[at]), first + len(after[at]), levels[at], below, (before[at], before[at + 1])
            )
        )
    return found


def _tree(axes: Axes, tokenizer: Tokenizer, steps: list[list[bytes]], start: int) -> None:
    """The boxes of a piece's bytes, merges and tokens, with lines between them. start: the position of its first byte."""
    whole = b"".join(steps[0])
    boxes = {(place, place + 1): 0 for place in range(len(whole))}  # (first byte, after the last) -> height
    for joint in joints(steps):
        boxes[joint.first, joint.last] = joint.level
        x = start + (joint.first + joint.last - 1) / 2
        for low, high, level in ((joint.first, joint.split, joint.below[0]), (joint.split, joint.last, joint.below[1])):
            axes.plot([start + (low + high - 1) / 2, x], [level, joint.level], color=LIGHT, zorder=1)
        rank = tokenizer.merges[joint.pair]
        axes.text(x, joint.level - 0.43, f"{rank + 1:,}", ha="center", va="center", fontsize=6, color=GREY, zorder=4)
    ends = list(accumulate(map(len, steps[-1]), initial=0))
    tokens = dict(zip(pairwise(ends), tokenizer.encode(whole.decode()), strict=True))
    for (first, last), level in boxes.items():
        _box(axes, start + (first + last - 1) / 2, level, whole[first:last], tokens.get((first, last)))


def _box(axes: Axes, x: float, y: float, part: bytes, token: int | None) -> None:
    try:
        label = visible(part.decode("utf-8"))
    except UnicodeDecodeError:
        label = part.hex()
    kept = token is not None
    axes.text(
        x,
        y,
        f"{label}\n{token}" if kept else label,
        ha="center",
        va="center",
        fontsize=7,
        parse_math=False,
        zorder=3,
        color="white" if kept else "#24262a",
        bbox={"boxstyle": "round,pad=0.25", "fc": BLUE if kept else "white", "ec": BLUE if kept else GREY, "lw": 0.8},
    )
