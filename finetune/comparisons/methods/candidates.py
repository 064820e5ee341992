"""The adaptation methods that a comparison covers: which weights are trained, and which token the head reads."""

from dataclasses import dataclass

import numpy as np

from finetune.recipe import Train
from finetune.training.token_rows import TokenRows

LAST, FIRST, PADDED = "last", "first", "padded"  # the token whose hidden state the head reads


@dataclass(frozen=True)
class Candidate:
    """One method. reads: the last real token, the first one, or the last pad of a text padded to a common length."""

    label: str
    method: str
    last_blocks: int = 2
    pretrained: bool = True
    reads: str = LAST

    def settings(self, asked: Train, seed: int) -> Train:
        """The recipe's settings with this method applied; learning rate and epochs stay open if they were."""
        unread = [] if self.method == "lora" else [name for name in Train.model_fields if name.startswith("lora_")]
        return asked.model_copy(
            update={"method": self.method, "last_blocks": self.last_blocks, "seed": seed}
            | {name: Train.model_fields[name].default for name in unread}
        )


CANDIDATES = {
    "head": Candidate("head alone", "head"),
    "last-block": Candidate("last block", "last-blocks", 1),
    "last-two-blocks": Candidate("last two blocks", "last-blocks", 2),
    "full": Candidate("all weights", "full"),
    "lora": Candidate("LoRA", "lora"),
    "full-random": Candidate("all weights, random start", "full", pretrained=False),
    "first-token": Candidate("last block, read at the first token", "last-blocks", 1, reads=FIRST),
    "padded": Candidate("last block, padded, read at the last pad", "last-blocks", 1, reads=PADDED),
}


def read_out(ids: TokenRows, reads: str, length: int, pad: int) -> TokenRows:
    """The rows changed so that the head, at the last token, reads what `reads` says.

    Attention is causal: the first token's state depends on that token alone, so a text cut to it is the same and
    costs less. Padded rows are filled with `pad`, which attention sees, to `length`, and cut there.
    """
    if reads == LAST:
        return ids
    width = 1 if reads == FIRST else length
    filled = np.full((len(ids), width), pad, dtype=ids.ids.dtype)
    for row, own in zip(filled, ids, strict=True):
        row[: len(own)] = own[:width]
    return TokenRows(filled.ravel(), np.arange(1, len(ids) + 1) * width)
