"""Shared by the tasks that generate text: splitting and tokenizing rows, generating in batches, dry runs."""

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
from finetune.evaluation.compare_runs import TestedRows
from finetune.evaluation.leakage import OverlapCounts, clean_rows
from finetune.evaluation.slices import length_slices, text_slices, value_slices
from finetune.evaluation.written import References, ScoreRows, WrittenTexts, row_scores
from finetune.files import atomic_write
from finetune.recipe import Recipe, Split, Train
from finetune.records import PreparedRow, R
from finetune.run import Run
from finetune.tables.card import SplitSize
from finetune.tables.cells import escape_formula, table_writer
from finetune.tables.splits import SPLITS, fold_text, grouped_split, ordered_split, text_keys
from finetune.tasks.base import Prepared, read_tested
from finetune.tokenizer import Tokenizer
from finetune.training.batching import inference_batches, micro_batches
from finetune.training.job import Job
from finetune.training.sharing import share
from finetune.training.token_rows import TokenRows
from finetune.training.trial import Probe, choose, second_time

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

TOKENS = 8192  # prompt and answer tokens in one generated batch
SAMPLES = 10  # test rows that the report shows
TRIED = 8  # new tokens generated per batch in a dry run


@dataclass(frozen=True)
class WrittenPrepared(Prepared):
    """The result of ``prepare``; ``splits`` counts the records that fit."""

    records: int
    max_length: int  # maximum input tokens
    end: int  # the id of the end-of-text token


def refuse_balanced(recipe: Recipe) -> None:
    """Raise RecipeError for a split protocol that needs labels or a column of times."""
    if recipe.split.protocol in ("balanced", "time"):
        raise RecipeError(f"split.protocol={recipe.split.protocol} needs a labelled table", known="grouped, ordered")


@dataclass(frozen=True)
class Examples(ABC):
    """The rows of a split that fit into a model, as a view of the tokens that ``prepare`` wrote.

    tokens: a dataclass of ``TokenRows`` with the untruncated tokens of every row of the split.
    """

    at: list[int]  # positions, within the split, of the rows that fit
    rows: list[int]  # their row numbers in the file
    cut: list[int]  # row numbers of those that are truncated
    left_out: list[int]  # row numbers of those that do not fit
    max_length: int  # maximum input tokens
    tokens: Any

    @classmethod
    def of(cls, records: Sequence[PreparedRow], fits: np.ndarray, long: np.ndarray, **own: Any) -> Self:
        """The records of a split that fit, of which the long ones are truncated. own: the other fields."""
        rows = np.array([record.row for record in records])
        at, used, cut, left_out = (
            numbers.tolist() for numbers in (np.flatnonzero(fits), rows[fits], rows[fits & long], rows[~fits])
        )
        return cls(at, used, cut, left_out, **own)

    @abstractmethod
    def lengths(self) -> list[int]:
        """Tokens of each row."""

    @abstractmethod
    def loss_tokens(self) -> list[int]:
        """Supervised tokens of each row."""

    def take(self, positions: list[int]) -> Self:
        """The rows at these positions."""
        return replace(
            self, at=[self.at[i] for i in positions], rows=[self.rows[i] for i in positions], cut=[], left_out=[]
        )


AnyExamples = TypeVar("AnyExamples", bound=Examples)
AnyTokens = TypeVar("AnyTokens", bound="DataclassInstance")
Row = TypeVar("Row")


def divide(texts: list[str], split: Split, val_fraction: float, test_fraction: float) -> dict[str, list[int]]:
    """The positions of each split's rows: in file order, or at random with equal texts in the same split.

    Texts are compared after folding case and white space, but not digits.
    """
    if split.protocol == "ordered":
        return ordered_split(len(texts), val_fraction, test_fraction)
    return grouped_split(
        texts, [""] * len(texts), val_fraction, test_fraction, split.seed, keys=text_keys(texts, fold_text)
    )


def count_different(texts: list[str]) -> int:
    """The number of different texts, compared as in ``divide``."""
    return len(set(map(fold_text, texts)))


def tokenize_splits(
    records: dict[str, list[R]], tokenize: Callable[[list[R]], AnyExamples], max_length: int, row: str, different: str
) -> dict[str, AnyExamples]:
    """The examples of each split. Raises DataError if a split has none.

    row, different: for the error, the name of a row and a phrase with the number of different ones.
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
    """Write data/SPLIT.FIELD for each field of the tokens of each split."""
    for name, part in found.items():
        for field in fields(part.tokens):
            getattr(part.tokens, field.name).save(run.path("data", f"{name}.{field.name}"))


def load_tokens(run: Run, split: str, kind: type[AnyTokens]) -> AnyTokens:
    """The tokens that ``prepare`` wrote for a split, memory-mapped. kind: a dataclass of ``TokenRows``."""
    return kind(*(TokenRows.load(run.path("data", f"{split}.{field.name}")) for field in fields(kind)))


def split_sizes(records: Mapping[str, Sequence[PreparedRow]], found: dict[str, AnyExamples]) -> dict[str, SplitSize]:
    """Rows and tokens of each split, for the data card."""
    return {
        name: SplitSize(len(records[name]), len(part.rows), sum(part.lengths()), sum(part.loss_tokens()))
        for name, part in found.items()
    }


def overlap_notes(overlap: dict[str, OverlapCounts], asked: str) -> list[str]:
    """A sentence for each pair of splits that share rows. asked: the name of the part of a row that was compared."""
    return [
        f"{counts.normalised} of {counts.n} {name.replace('_in_', f' {asked}s also occur in ')} after normalising"
        for name, counts in overlap.items()
        if counts.normalised
    ]


@dataclass(frozen=True)
class Answer:
    """A generated text, and whether the model ended it with the end token."""

    text: str
    tokens: int
    ended: bool


def answer_groups(lengths: list[int], max_new_tokens: int, beams: int = 1) -> list[list[int]]:
    """The prompts, by their number, that are answered in one batch. lengths: tokens of each prompt."""
    return micro_batches(list(range(len(lengths))), [length + max_new_tokens for length in lengths], TOKENS // beams)


def write_answers(
    lengths: list[int],
    tokenizer: Tokenizer,
    max_new_tokens: int,
    write: Callable[[list[int]], Tensor],
    show: str,
    beams: int = 1,
) -> list[Answer]:
    """An answer to each prompt, in the order of the prompts.

    lengths: tokens of each prompt. write: numbers of B prompts -> their new tokens (B, T).
    """
    groups = answer_groups(lengths, max_new_tokens, beams)
    with progress(show, len(lengths), unit="prompts") as advance:
        written = share(groups, lambda rows: write(rows).tolist(), lambda rows: advance(len(rows)))
    answers = {
        row: _answer(new, tokenizer)
        for rows, found in zip(groups, written, strict=True)
        for row, new in zip(rows, found, strict=True)
    }
    return [answers[row] for row in range(len(lengths))]


def _answer(new: list[int], tokenizer: Tokenizer) -> Answer:
    ended = tokenizer.end_of_text in new
    own = new[: new.index(tokenizer.end_of_text)] if ended else new
    return Answer(tokenizer.decode_bytes(own).decode("utf-8", "replace").strip(), len(own), ended)


@dataclass(frozen=True)
class TestRows(Generic[R]):
    """The test rows that fit into the model, with the nearest training answers."""

    records: list[R]
    asked: list[str]  # questions or sources
    wanted: list[str]  # reference answers or targets
    nearest: list[str]  # the answer of the most similar training row
    clean: np.ndarray  # bool (n,), whether a row's question occurs in no other split
    members: dict[str, np.ndarray]  # name of a slice by what the texts look like -> bool (n,)


def gather_test_rows(
    records: dict[str, list[R]],
    used: list[int],
    asked: Callable[[R], str],
    wanted: Callable[[R], str],
    words: tuple[str, str] = ("question", "answer"),
) -> TestRows[R]:
    """The test rows with these row numbers. asked, wanted: get the question and the reference of a record.

    words: the task's names for the two.
    """
    keep = set(used)
    test = [record for record in records["test"] if record.row in keep]
    questions = {name: [asked(record) for record in part] for name, part in (records | {"test": test}).items()}
    nearest = nearest_answers(questions["train"], [wanted(record) for record in records["train"]], questions["test"])
    clean = clean_rows(questions["train"] + questions["val"], questions["test"], fold_text)
    references = [wanted(record) for record in test]
    members = text_slices(questions["test"], questions["train"], words[0])
    members |= {f"{words[1]}: {name}": inside for name, inside in length_slices(references).items()}
    return TestRows(test, questions["test"], references, nearest, clean, members)


def column_slices(recipe: Recipe, column: dict[int, str] | None, rows: list[int]) -> dict[str, np.ndarray]:
    """A slice for each value of the column evaluate.slice_by. column: row number -> value; rows: of the test rows (n,)."""
    return value_slices(recipe.evaluate.slice_by or "", [column.get(row, "") for row in rows]) if column else {}


def result_rows(kind: type[Row], test: TestRows[Any], written: dict[str, WrittenTexts]) -> list[Row]:
    """One row of the results for each test row.

    kind: a dataclass with the fields row number, question, reference, output after training, output before training and
    the nearest training answer, in this order.
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
    """Answers in the form that is scored. nats, right: fields of ``WrittenTexts``."""
    return WrittenTexts([own.text for own in answers], [own.ended for own in answers], nats, right)


def spread_rows(rows: Sequence[Row], most: int = SAMPLES) -> list[Row]:
    """Evenly spaced rows, not selected by quality."""
    shown = min(most, len(rows))
    return [rows[len(rows) * (2 * i + 1) // (2 * shown)] for i in range(shown)]


def write_rows(path: Path, rows: Sequence["DataclassInstance"]) -> None:
    """Write records as a CSV table with a column per field; formulas are escaped for spreadsheets."""
    with atomic_write(path) as file:
        writer = table_writer(file)
        writer.writerow(field.name for field in fields(rows[0]))
        writer.writerows([escape_formula(str(value)) for value in astuple(row)] for row in rows)


def tested_texts(path: Path, columns: tuple[str, str, str], given: str, metric: str, score: ScoreRows) -> TestedRows:
    """The texts of a table that ``evaluate`` wrote, with the score of each by a metric. columns, given: as in ``read_tested``."""
    rows, texts = read_tested(path, columns, given)
    references = References([wanted for *_, wanted in rows], np.zeros(len(rows)))
    found = score(WrittenTexts(texts), references)[metric]
    return TestedRows(rows, texts, metric, row_scores(found), found.share, texts=True)


def probe_training(
    train: AnyExamples, val: AnyExamples, settings: Train, build: Callable[[AnyExamples, AnyExamples], Job]
) -> Probe:
    """The steps that a dry run measures, with a validation of a single forward pass, the largest one."""
    whole, lengths = build(train, val), val.lengths()
    largest = max(inference_batches(lengths, settings.tokens_per_pass), key=lambda rows: len(rows) * lengths[rows[-1]])
    return Probe(build(train, val.take(largest)), choose(whole.lengths, settings), whole)


def writing_seconds(
    lengths: list[int], max_new_tokens: int, write: Callable[[list[int]], object], beams: int = 1
) -> float:
    """Upper estimate of the seconds to answer all prompts before and after training, with answers of maximum length.

    lengths: tokens of each prompt. write: answers the prompts with these numbers with ``TRIED`` tokens each.
    """
    groups = answer_groups(lengths, max_new_tokens, beams)
    some = groups[len(groups) // 2]
    return 2 * second_time(lambda: write(some)) * len(groups) * max_new_tokens / TRIED
