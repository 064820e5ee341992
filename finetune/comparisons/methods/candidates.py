"""The adaptation methods that a comparison covers: which weights are trained, and which token the head reads."""

from dataclasses import dataclass

import numpy as np

from finetune.recipe import FEATURES, Train, features_unread
from finetune.training.token_rows import TokenRows

LAST, FIRST, PADDED = "last", "first", "padded"  # the token whose hidden state the head reads


@dataclass(frozen=True)
class Candidate:
    """One method. reads: the last token of the text, the first one, or the last padding token at a common length."""

    label: str
    method: str
    last_blocks: int = 2
    pretrained: bool = True
    reads: str = LAST

    def settings(self, asked: Train, seed: int) -> Train:
        """The recipe's settings with this method; learning rate and epochs are chosen later unless set."""
        unread = [] if self.method == "lora" else [name for name in Train.model_fields if name.startswith("lora_")]
        unread += features_unread() if self.method == FEATURES else []
        return asked.model_copy(
            update={"last_blocks": self.last_blocks}
            | {name: Train.model_fields[name].default for name in unread}
            | {"method": self.method, "seed": seed}
        )

    @property
    def seeded(self) -> bool:
        """Whether the seed changes anything; one training then stands for all."""
        return self.method != FEATURES


CANDIDATES = {
    "head": Candidate("head only", "head"),
    "features": Candidate("logistic regression on the states", FEATURES),
    "last-block": Candidate("last block", "last-blocks", 1),
    "last-two-blocks": Candidate("last two blocks", "last-blocks", 2),
    "full": Candidate("all weights", "full"),
    "lora": Candidate("LoRA", "lora"),
    "full-random": Candidate("all weights, random start", "full", pretrained=False),
    "first-token": Candidate("last block, read at the first token", "last-blocks", 1, reads=FIRST),
    "padded": Candidate("last block, padded, read at the last padding token", "last-blocks", 1, reads=PADDED),
}


def read_out(ids: TokenRows, reads: str, length: int, pad: int) -> TokenRows:
    """Change the rows so that the head, which reads the last token, reads the token of `reads`.

    With causal attention the first token's state depends only on that token, so truncating the text to it gives the
    same at less cost. Padded rows are filled with `pad` to `length`, without masking it, and truncated there.
    """
    if reads == LAST:
        return ids
    width = 1 if reads == FIRST else length
    filled = np.full((len(ids), width), pad, dtype=ids.ids.dtype)
    for row, own in zip(filled, ids, strict=True):
        row[: len(own)] = own[:width]
    return TokenRows(filled.ravel(), np.arange(1, len(ids) + 1) * width)
