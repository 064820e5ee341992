"""Split, tokenize and count pairs."""

from itertools import chain

from finetune.errors import counted
from finetune.evaluation.leakage import overlap
from finetune.recipe import Recipe
from finetune.records import DataOrigin
from finetune.tables.card import token_spread
from finetune.tables.splits import SPLITS, fold_text
from finetune.tasks.seq2seq.examples import Examples, make_examples, tokenize, writing_room
from finetune.tasks.seq2seq.pairs import Pairs, PairsCard, PairTokens, TextPair
from finetune.tasks.writing import count_different, divide, overlap_notes, split_sizes, tokenize_splits
from finetune.tokenizer import Tokenizer

END = "<|endoftext|>"
Records = dict[str, list[TextPair]]  # of each split


def divide_pairs(
    recipe: Recipe, source: Pairs, given: dict[str, Pairs], tokenizer: Tokenizer, max_length: int
) -> tuple[Records, dict[str, Examples]]:
    """Split and tokenize the pairs. Except in file order, pairs with the same source stay in one split.

    given: val or test from separate files, which are used as they are.
    """
    sources = [record.source for record in source.records]
    shares = [
        0.0 if side in given else share
        for side, share in (("val", recipe.split.val_fraction), ("test", recipe.split.test_fraction))
    ]
    parts = divide(sources, recipe.split, *shares)
    records = {name: [source.records[i] for i in parts[name]] for name in SPLITS}
    records |= {side: table.records for side, table in given.items()}
    family = recipe.seq2seq.family
    return records, tokenize_splits(
        records,
        lambda part: make_examples(part, tokenize(part, tokenizer), max_length, family),
        max_length,
        "pair",
        f"{count_different(sources)} different sources",
    )


def prepare(
    recipe: Recipe, source: Pairs, given: dict[str, Pairs], tokenizer: Tokenizer, context: int, origin: DataOrigin
) -> tuple[Records, dict[str, Examples], PairsCard]:
    """The pairs of each split, their tokens and the data card. context: maximum input tokens of the model."""
    family = recipe.seq2seq.family
    max_length = min(recipe.max_length or context, context)
    records, found = divide_pairs(recipe, source, given, tokenizer, max_length)
    dropped: dict[str, list[int]] = {}
    for table in (source, *given.values()):
        for reason, rows in table.dropped_rows.items():
            dropped[reason] = dropped.get(reason, []) + rows
    cut, left_out = (
        sorted(row for part in found.values() for row in getattr(part, name)) for name in ("cut", "left_out")
    )
    both = overlap({name: [record.source for record in part] for name, part in records.items()}, fold_text)
    notes = [f"{counted(len(rows), 'row')} left out: {reason}" for reason, rows in dropped.items()]
    if cut:
        notes.append(f"{counted(len(cut), 'source')} truncated at the end to fit into {max_length} tokens")
    room = writing_room(family, max_length, context, recipe.seq2seq.max_new_tokens)
    if shortened := sum(length > room for length in found["test"].tokens.source.lengths()):
        notes.append(
            f"{counted(shortened, 'test source')} truncated at the end for generation, to leave room for the target"
        )
    if left_out:
        notes.append(f"{counted(len(left_out), 'pair')} left out: the target alone is longer than {max_length} tokens")
    sides = zip(*(part.sides() for part in found.values()), strict=True)
    source_tokens, target_tokens = (token_spread([*chain.from_iterable(side)]) for side in sides)
    card = PairsCard(
        **vars(origin),
        records=sum(map(len, records.values())),
        given=sorted(given),
        dropped={reason: len(rows) for reason, rows in dropped.items()},
        dropped_rows=dropped,
        columns=list(source.columns),
        family=family,
        example=_as_read(records["train"][0], family),
        protocol=recipe.split.protocol,
        seed=recipe.split.seed,
        different_sources=count_different([record.source for record in source.records]),
        splits=split_sizes(records, found),
        tokens=PairTokens(source_tokens, target_tokens, max_length, len(cut), len(left_out)),
        cut_rows=cut,
        left_out_rows=left_out,
        overlap=both,
        notes=notes + overlap_notes(both, "source"),
    )
    return records, found, card


def _as_read(record: TextPair, family: str) -> str:
    """The pair as the model sees it, with separator and end token."""
    if family == "decoder":
        return f"{record.source}{END}{record.target}{END}"
    return f"encoder: {record.source}\ndecoder: {END}{record.target}{END}"
