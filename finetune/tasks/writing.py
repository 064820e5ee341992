"""What the tasks with written answers share: rows divided and tokenized, answers written in batches, dry runs."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import numpy as np
from torch import Tensor

from finetune.console import progress
from finetune.errors import DataError, RecipeError
from finetune.evaluation.baseline import nearest_answers
from finetune.evaluation.leakage import OverlapCounts, clean_rows
from finetune.evaluation.written import WrittenTexts
from finetune.files import atomic_write
from finetune.recipe import Recipe, Split, Train
from finetune.records import PreparedRow, R
from finetune.run import Run
from finetune.tables.card import SplitSize
from finetune.tables.cells import escape_formula, table_writer
from finetune.tables.splits import SPLITS, fold_text, grouped_split, ordered_split, text_keys
from finetune.tasks.base import Prepared
from finetune.tokenizer import Tokenizer
from finetune.training.batching import micro_batches
from finetune.training.loop import Job
from finetune.training.token_rows import TokenRows
from finetune.training.trial import Probe, choose, second_time

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

TOKENS = 8192  # of prompts and answers that are written together
SAMPLES = 10  # test rows that the report shows
TRIED = 8  # tokens that a dry run lets a batch of answers have


@dataclass(frozen=True)
class WrittenPrepared(Prepared):
    """The result of ``prepare``; ``splits`` counts the records that fit."""

    records: int
    max_length: int  # tokens that a model reads
    end: int  # the id of the end-of-text token


def refuse_balanced(recipe: Recipe) -> None:
    """Raise RecipeError where rows are to be drawn by their labels, which these have not."""
    if recipe.split.protocol in ("balanced", "time"):
        raise RecipeError(f"split.protocol={recipe.split.protocol} is for labelled tables", known="grouped, ordered")


@dataclass(frozen=True)
class Examples(ABC):
    """The rows of a split that fit into a model: a view of the tokens that ``prepare`` left, as each task reads them.

    tokens: of every row of the split, whole, in a dataclass of ``TokenRows``.
    """

    at: list[int]  # places among the split's rows of those that fit
    rows: list[int]  # their numbers in the file
    cut: list[int]  # of those that lose a part
    left_out: list[int]  # of those that do not fit
    max_length: int  # tokens that a model reads
    tokens: Any

    @classmethod
    def of(cls, records: Sequence[PreparedRow], fits: np.ndarray, long: np.ndarray, **own: Any) -> Self:
        """Those of a split's records that fit; the long ones among them are cut. own: the other fields."""
        rows = np.array([record.row for record in records])
        at, used, cut, left_out = (
            numbers.tolist() for numbers in (np.flatnonzero(fits), rows[fits], rows[fits & long], rows[~fits])
        )
        return cls(at, used, cut, left_out, **own)

    @abstractmethod
    def lengths(self) -> list[int]:
        """Tokens of each row."""

    @abstractmethod
    def learnt(self) -> list[int]:
        """Supervised tokens of each row."""

    def take(self, positions: list[int]) -> Self:
        """Some of the rows."""
        return replace(
            self, at=[self.at[i] for i in positions], rows=[self.rows[i] for i in positions], cut=[], left_out=[]
        )


AnyExamples = TypeVar("AnyExamples", bound=Examples)
AnyTokens = TypeVar("AnyTokens", bound="DataclassInstance")
Row = TypeVar("Row")


def divide(texts: list[str], split: Split, val_fraction: float, test_fraction: float) -> dict[str, list[int]]:
    """The positions of each split's rows: by the file's order, or at random with equal texts on one side.

    Texts count as equal if they are after folding case and white space: digits are content here.
    """
    if split.protocol == "ordered":
        return ordered_split(len(texts), val_fraction, test_fraction)
    return grouped_split(
        texts, [""] * len(texts), val_fraction, test_fraction, split.seed, keys=text_keys(texts, fold_text)
    )


def count_different(texts: list[str]) -> int:
    """How many of the texts are different ones, as ``divide`` sees them."""
    return len(set(map(fold_text, texts)))


def tokenize_splits(
    records: dict[str, list[R]], tokenize: Callable[[list[R]], AnyExamples], max_length: int, row: str, different: str
) -> dict[str, AnyExamples]:
    """The examples of each split. Raises DataError where one has none.

    row: what a row is called. different: how many different ones there are, in words.
    """
    if empty := [name for name in SPLITS if not records[name]]:
        raise DataError(f"too few {row}s: none for the {empty[0]} split", got=different, do="Add some.")
    found = {name: tokenize(part) for name, part in records.items()}
    if empty := [name for name, part in found.items() if not part.rows]:
        raise DataError(
            f"no {row} of the {empty[0]} split fits into {max_length} tokens",
            do="Give a larger max_length, or a model with a longer context.",
        )
    return found


def save_tokens(run: Run, found: dict[str, AnyExamples]) -> None:
    """data/SPLIT.FIELD for each field of the tokens of each split."""
    for name, part in found.items():
        for field in fields(part.tokens):
            getattr(part.tokens, field.name).save(run.path("data", f"{name}.{field.name}"))


def load_tokens(run: Run, split: str, kind: type[AnyTokens]) -> AnyTokens:
    """The tokens that ``prepare`` left for a split, mapped into memory. kind: a dataclass of ``TokenRows``."""
    return kind(*(TokenRows.load(run.path("data", f"{split}.{field.name}")) for field in fields(kind)))


def split_sizes(records: Mapping[str, Sequence[PreparedRow]], found: dict[str, AnyExamples]) -> dict[str, SplitSize]:
    """Rows and tokens of each split, for the data card."""
    return {
        name: SplitSize(len(records[name]), len(part.rows), sum(part.lengths()), sum(part.learnt()))
        for name, part in found.items()
    }


def overlap_notes(overlap: dict[str, OverlapCounts], asked: str) -> list[str]:
    """A sentence for each pair of splits that share rows. asked: the part of a row that was looked at."""
    return [
        f"{counts.normalised} of {counts.n} {name.replace('_in_', f' {asked}s also occur in ')} too, after normalising"
        for name, counts in overlap.items()
        if counts.normalised
    ]


@dataclass(frozen=True)
class Answer:
    """What a model wrote, and whether it came to an end by itself."""

    text: str
    tokens: int
    ended: bool


def answer_groups(lengths: list[int], max_new_tokens: int, beams: int = 1) -> list[list[int]]:
    """Which prompts, of so many tokens each, are answered together."""
    return micro_batches(list(range(len(lengths))), [length + max_new_tokens for length in lengths], TOKENS // beams)


def write_answers(
    lengths: list[int],
    tokenizer: Tokenizer,
    max_new_tokens: int,
    write: Callable[[list[int]], Tensor],
    show: str,
    beams: int = 1,
) -> list[Answer]:
    """An answer to each prompt, in their order.

    lengths: tokens of each prompt. write: numbers of prompts -> the new tokens (B, T) of each.
    """
    answers: dict[int, Answer] = {}
    with progress(show, len(lengths), unit="prompts") as advance:
        for rows in answer_groups(lengths, max_new_tokens, beams):
            for row, new in zip(rows, write(rows).tolist(), strict=True):
                answers[row] = _answer(new, tokenizer)
            advance(len(rows))
    return [answers[row] for row in range(len(lengths))]


def _answer(new: list[int], tokenizer: Tokenizer) -> Answer:
    ended = tokenizer.end_of_text in new
    own = new[: new.index(tokenizer.end_of_text)] if ended else new
    return Answer(tokenizer.decode_bytes(own).decode("utf-8", "replace").strip(), len(own), ended)


@dataclass(frozen=True)
class TestRows(Generic[R]):
    """The test's rows that fit into the model, and what else is known of them."""

    records: list[R]
    asked: list[str]  # questions or sources
    wanted: list[str]  # the right answers
    nearest: list[str]  # the answer to the training row that is asked most alike
    clean: np.ndarray  # bool (n,), whether a row is asked in no other split


def gather_test_rows(
    records: dict[str, list[R]], used: list[int], asked: Callable[[R], str], wanted: Callable[[R], str]
) -> TestRows[R]:
    """The test's rows of these numbers. asked, wanted: the parts of a record."""
    keep = set(used)
    test = [record for record in records["test"] if record.row in keep]
    questions = {name: [asked(record) for record in part] for name, part in (records | {"test": test}).items()}
    nearest = nearest_answers(questions["train"], [wanted(record) for record in records["train"]], questions["test"])
    clean = clean_rows(questions["train"] + questions["val"], questions["test"], fold_text)
    return TestRows(test, questions["test"], [wanted(record) for record in test], nearest, clean)


def result_rows(kind: type[Row], test: TestRows[Any], written: dict[str, WrittenTexts]) -> list[Row]:
    """A row of the results for each test row: its number, what is asked and wanted, and what was written.

    kind: a dataclass with six fields in that order, the answers being those after and before training and the nearest.
    """
    return [
        kind(*values)
        for values in zip(
            [record.row for record in test.records],
            test.asked,
            test.wanted,
            written["after"].texts,
            written["before"].texts,
            test.nearest,
            strict=True,
        )
    ]


def written_texts(answers: list[Answer], nats: np.ndarray, right: np.ndarray | None = None) -> WrittenTexts:
    """Answers as they are scored; nats, right: as ``WrittenTexts`` has them."""
    return WrittenTexts([own.text for own in answers], [own.ended for own in answers], nats, right)


def spread_rows(rows: Sequence[Row], most: int = SAMPLES) -> list[Row]:
    """Some rows at even distances, not chosen by how they came out."""
    shown = min(most, len(rows))
    return [rows[len(rows) * (2 * i + 1) // (2 * shown)] for i in range(shown)]


def write_rows(path: Path, rows: Sequence["DataclassInstance"]) -> None:
    """A table of records, a column for each field, that a spreadsheet takes for text."""
    with atomic_write(path) as file:
        writer = table_writer(file)
        writer.writerow(field.name for field in fields(rows[0]))
        writer.writerows([escape_formula(str(value)) for value in astuple(row)] for row in rows)


def probe_training(
    train: AnyExamples, val: AnyExamples, settings: Train, build: Callable[[AnyExamples, AnyExamples], Job]
) -> Probe:
    """The steps that a dry run tries, with a validation of one forward pass: the largest."""
    whole, lengths = build(train, val), val.lengths()
    largest = max(
        micro_batches(list(range(len(lengths))), lengths, settings.micro_batch_tokens),
        key=lambda rows: len(rows) * lengths[rows[-1]],
    )
    return Probe(build(train, val.take(largest)), choose(whole.lengths, settings), whole)


def writing_seconds(
    lengths: list[int], max_new_tokens: int, write: Callable[[list[int]], object], beams: int = 1
) -> float:
    """Seconds of answering all prompts before and after training, were every answer as long as allowed.

    lengths: tokens of each prompt. write: answers the prompts of these numbers with ``TRIED`` tokens each.
    """
    groups = answer_groups(lengths, max_new_tokens, beams)
    some = groups[len(groups) // 2]
    return 2 * second_time(lambda: write(some)) * len(groups) * max_new_tokens / TRIED
