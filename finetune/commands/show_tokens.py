"""``finetune tokenizer show``: the tokens of a text, and the merges that lead to them."""

from itertools import pairwise

from finetune.checkpoints.sources import locate_weights
from finetune.console import aligned
from finetune.errors import RecipeError
from finetune.report.attention import visible
from finetune.tokenizer import Tokenizer, split_pieces

MOST_PIECES = 12  # pieces of text whose merges are listed


def show_tokens(text: str, weights: str) -> list[str]:
    """The tokens of a text under a checkpoint's tokenizer, with ids and bytes, then its pieces merge by merge."""
    if not text:
        raise RecipeError("the text is empty", do='For example: finetune tokenizer show "The rivers"')
    tokenizer = Tokenizer.from_directory(locate_weights(weights, fetch=True).directory)
    ids = tokenizer.encode(text)
    size = len(text.encode("utf-8", "replace"))
    lines = [
        f"{len(ids):,} tokens of {size:,} bytes, {size / len(ids):.2f} bytes per token; the vocabulary of "
        f"{weights} has {tokenizer.vocab_size:,} tokens",
        "",
    ]
    rows = [["token", "id", "bytes", "text"]]
    rows += [
        [str(place), str(token), tokenizer.decode_bytes([token]).hex(" "), visible(tokenizer.label(token))]
        for place, token in enumerate(ids)
    ]
    lines += [*aligned(rows), ""]
    pieces = list(dict.fromkeys(split_pieces(text)))
    for piece in pieces[:MOST_PIECES]:
        lines += [*_merges(tokenizer, piece), ""]
    if len(pieces) > MOST_PIECES:
        lines.append(f"The merges of {len(pieces) - MOST_PIECES:,} more pieces of text are not listed.")
    return lines


def _merges(tokenizer: Tokenizer, piece: str) -> list[str]:
    """The steps from the bytes of a piece to its tokens, with the rank of each merge."""
    steps = tokenizer.merge_steps(piece)
    rows = [["bytes", " ".join(map(shown, steps[0]))]]
    for before, after in pairwise(steps):
        at = next(place for place, part in enumerate(after) if part != before[place])
        rank = tokenizer.merges[before[at], before[at + 1]]
        rows.append([f"merge {rank + 1:,}", " ".join(map(shown, after))])
    return [f"{visible(piece)}", *(f"  {line}" for line in aligned(rows))]


def shown(part: bytes) -> str:
    """The text of some bytes, or the bytes themselves if they are part of a character."""
    try:
        return visible(part.decode("utf-8"))
    except UnicodeDecodeError:
        return "".join(f"\\x{byte:02x}" for byte in part)
