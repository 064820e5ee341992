"""The data of the stage ``architectures``: labelled texts, numbers in words and pieces of the bundled text."""

from dataclasses import dataclass

import numpy as np

from finetune.comparisons.architectures.models import CLASSIFY, NUMBERS, TEXT
from finetune.comparisons.architectures.numbers import in_words
from finetune.errors import RecipeError
from finetune.recipe import Recipe
from finetune.run import Run
from finetune.tasks.classify.job import Examples
from finetune.tasks.classify.labelled import run_examples
from finetune.tasks.pretrain.documents import iterate_pieces, locate_text
from finetune.tasks.seq2seq.layout import Pair, pieces
from finetune.tokenizer import Tokenizer

TEXT_NAME = "text-sample"


@dataclass(frozen=True)
class Datasets:
    """The tokenized data: three splits for each task."""

    classify: dict[str, Examples]
    numbers: dict[str, list[Pair]]
    text: dict[str, list[Pair]]
    text_bytes: np.ndarray  # bytes of each test piece's target (n,)

    def rows(self, task: str) -> int:
        """Number of training rows."""
        return len(
            {CLASSIFY: self.classify["train"].ids, NUMBERS: self.numbers["train"], TEXT: self.text["train"]}[task]
        )


def gather(recipe: Recipe, run: Run, tokenizer: Tokenizer) -> Datasets:
    """All training data, tokenized."""
    asked, seed = recipe.architectures, recipe.split.seed
    examples = run_examples(run)
    drawn = np.random.default_rng(seed).permutation(asked.number_limit).tolist()
    most = asked.numbers_steps * recipe.train.batch_size
    ends = (asked.test_numbers, asked.test_numbers + min(50, asked.test_numbers))
    parts = {"test": drawn[: ends[0]], "val": drawn[ends[0] : ends[1]], "train": drawn[ends[1] :][: min(most, 5000)]}
    if not parts["train"]:
        raise RecipeError(
            "no numbers are left for training",
            got=f"architectures.number_limit {asked.number_limit}",
            do="Raise it, or lower architectures.test_numbers.",
        )
    numbers = {
        name: [Pair(tokenizer.encode(f"{n:,}"), tokenizer.encode(in_words(n))) for n in part]
        for name, part in parts.items()
    }
    documents = [text.strip() for text, _ in iterate_pieces(locate_text(TEXT_NAME).path)]
    shuffled = [documents[i] for i in np.random.default_rng(seed).permutation(len(documents))]
    held, val = len(documents) // 4, len(documents) // 10
    cut = {"test": shuffled[:held], "val": shuffled[held : held + val], "train": shuffled[held + val :]}
    text = {
        name: pieces(tokenizer.encode_batch(part), asked.piece_tokens, tokenizer.end_of_text)
        for name, part in cut.items()
    }
    if empty := [name for name, part in text.items() if not part]:
        raise RecipeError(
            f"no piece of text is long enough for {empty[0]}",
            got=f"architectures.piece_tokens {asked.piece_tokens}",
            do="Lower it.",
        )
    lengths = np.array(tokenizer.byte_lengths())
    return Datasets(examples, numbers, text, np.array([lengths[pair.target].sum() for pair in text["test"]]))


def whole(pairs: list[Pair]) -> list[list[int]]:
    """Source and target of running text joined to one row."""
    return [pair.source + pair.target for pair in pairs]
