"""How long texts are read, in words, and the effect of reading them whole: for card, dry run and report."""

from dataclasses import dataclass, replace

import numpy as np

from finetune.evaluation.intervals import paired_bootstrap, wilson
from finetune.evaluation.results import Difference, Metric
from finetune.records import Record
from finetune.report.blocks import Section, Text, percent
from finetune.report.metric_text import metric_text
from finetune.tasks.classify.data import TokenCounts
from finetune.tokenizer import Tokenizer
from finetune.training.pieces import CUT, HEAD_TAIL, WINDOWS, Pieces, count_windows
from finetune.training.token_rows import encode

SAMPLE = 200  # maximum number of test rows that are also read in windows
TOKENS = 50_000  # maximum tokens of their windows, or as many as the test split has


@dataclass(frozen=True)
class LongTexts(Record):
    """The test rows of more than max_length tokens, and the model's accuracy on some of them as read and in windows."""

    way: str  # classify.long_texts
    max_length: int
    rows: int
    unread: float = 0.0  # share of the tokens of these rows
    as_read: Metric | None = None  # accuracy on the sampled rows; with many labels, the share of exactly right sets
    in_windows: Metric | None = None
    difference: Difference | None = None  # in windows minus as read


@dataclass(frozen=True)
class Sample:
    """The long rows of a split, and the windows of those that were drawn to be read whole."""

    rows: int
    unread: float  # share of their tokens
    at: list[int]  # positions of the drawn rows in the split
    windows: Pieces


def draw_sample(
    tokenizer: Tokenizer, texts: list[str], read: np.ndarray, way: str, most: int, budget: int, seed: int
) -> Sample:
    """Long rows at random whose windows have at most `budget` tokens in all; none if windows are read anyway.

    read: the number of tokens (n,) read of each row; only rows with at least `most` are tokenized again.
    """
    full = np.flatnonzero(read > most if way == WINDOWS else read >= most)
    ids = encode(tokenizer, [] if way == WINDOWS else [texts[i] for i in full])
    if way == WINDOWS:
        return Sample(len(full), 0.0, [], Pieces.of(ids, WINDOWS, most, []))
    lengths = np.array(ids.lengths(), dtype=int)
    long = np.flatnonzero(lengths > most)
    drawn = np.random.default_rng(seed).permutation(long)[:SAMPLE]
    tokens = lengths[drawn] + (count_windows(lengths[drawn], most) - 1) * (most // 4)
    kept = drawn[: int(np.searchsorted(np.cumsum(tokens), budget, side="right"))]
    unread = (lengths[long] - most).sum() / max(lengths[long].sum(), 1)
    return Sample(len(long), float(unread), full[kept].tolist(), Pieces.of(ids, WINDOWS, most, kept.tolist()))


def compare_windows(
    found: LongTexts, as_read: np.ndarray, in_windows: np.ndarray, targets: np.ndarray, resamples: int, seed: int
) -> LongTexts:
    """The rows with the accuracies on n sampled ones. Decisions and targets: (n,), or (n, K) with many labels."""
    n = len(targets)
    if not n:
        return found
    before, after = ((decided == targets).reshape(n, -1).all(axis=1) for decided in (as_read, in_windows))
    shares = [Metric(float(right.mean()), *wilson(int(right.sum()), n), n) for right in (before, after)]
    return replace(
        found, as_read=shares[0], in_windows=shares[1], difference=paired_bootstrap(after, before, resamples, seed)
    )


def told_of(tokens: TokenCounts) -> str:
    """How the rows longer than max_length are read: "12 truncated to 256"."""
    most, rows = tokens.max_length, f"{tokens.cut_rows:,}"
    if tokens.long_texts == HEAD_TAIL:
        return (
            f"{rows} longer than {most}: the first {most // 4} and the last {most - most // 4} tokens of each are read"
        )
    if tokens.long_texts == WINDOWS:
        windows = tokens.ways[WINDOWS].pieces - tokens.ways[CUT].pieces + tokens.cut_rows
        return f"{rows} longer than {most}, read in {windows:,} windows that share {most // 4} tokens with the next"
    return f"{rows} truncated to {most}"


def not_read(tokens: TokenCounts) -> str:
    """A phrase on tokens of the rows in use that the model never reads; empty for a card of an earlier version."""
    if tokens.long_texts not in tokens.ways:
        return ""
    unread = tokens.ways[tokens.long_texts].unread
    return f"{unread:,} of {tokens.total:,} ({percent(unread, tokens.total)})" if unread else "none"


def what_ways_cost(tokens: TokenCounts) -> list[str]:
    """The cost of each way to read long texts, relative to the chosen one; time is proportional to tokens."""
    if not tokens.cut_rows:
        return [f"long texts: none has more than {tokens.max_length} tokens; classify.long_texts changes nothing"]
    own, lines = tokens.ways[tokens.long_texts], []
    for way, read in tokens.ways.items():
        unread = f"{percent(read.unread, tokens.total)} of all tokens unread" if read.unread else "all tokens read"
        lines.append(
            f"  {way:10} {read.tokens:>12,} tokens, {read.pieces:,} model inputs; {unread}; time x "
            f"{read.tokens / own.tokens:.2f}" + (" (chosen)" if way == tokens.long_texts else "")
        )
    return [
        f"long texts: {tokens.cut_rows:,} have more than {tokens.max_length} tokens; classify.long_texts chooses:",
        *(line.replace("\u00a0", " ") for line in lines),
    ]


def use_note(found: LongTexts | None) -> list[Text]:
    """A note that transformers' pipeline reads long texts differently."""
    if found is None or found.way == CUT:
        return []
    note = "transformers' pipeline truncates long texts; export/hf/README.md shows how to read them as in training."
    return [Text(note, small=True)]


def long_texts_section(found: LongTexts | None, rows: int) -> list[Section]:
    """The report's section; none for an evaluation by an earlier version. rows: number of test rows."""
    if found is None:
        return []
    longer = f"{found.rows:,} of {rows:,} test texts have more than {found.max_length} tokens"
    if not found.rows:
        return [Section("long", "Long texts", [Text(f"No test text has more than {found.max_length} tokens.")])]
    quarter = found.max_length // 4
    if found.way == WINDOWS:
        said = f"{longer}. They are read whole, in windows that share {quarter} tokens with the next."
        return [Section("long", "Long texts", [Text(said)])]
    part = (
        f"the first {found.max_length}"
        if found.way == CUT
        else (f"the first {quarter} and the last {found.max_length - quarter}")
    )
    blocks = [
        Text(f"{longer}. Of each, {part} are read; {percent(found.unread, 1)} of the tokens of these texts are not.")
    ]
    if found.as_read is None or found.in_windows is None or found.difference is None:
        blocks.append(
            Text(
                "None of them was read in windows for comparison: that would take longer than evaluating the whole test set."
            )
        )
        return [Section("long", "Long texts", blocks)]
    value, low, high = (100 * number for number in found.difference.known())
    blocks.append(
        Text(
            f"The same model on {found.as_read.n:,} of them, drawn at random: accuracy "
            f"{metric_text(found.as_read, 'accuracy')} as read, and {metric_text(found.in_windows, 'accuracy')} when "
            f"a text's windows decide together: a difference of {value:+.1f} points (95 % interval {low:+.1f} to {high:+.1f})."
        )
    )
    blocks.append(Text("The model was not trained on windows. To train on them, add --long-texts windows.", small=True))
    return [Section("long", "Long texts", blocks)]
