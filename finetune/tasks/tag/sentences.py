"""Read sentences of words and tags from CoNLL files and from tables of any kind; dropped ones are counted."""

import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune.errors import DataError, counted, listed, shorten
from finetune.hub.datasets import PREFIX
from finetune.records import PreparedRow
from finetune.tables.detect import Detected, byte_order
from finetune.tables.readers import find_column
from finetune.tables.sources import DataSource, sample_source, samples, table_source
from finetune.tables.tables import SPLIT_COLUMN, TableFormat, is_utf8, iterate_table, look_at_bytes, refuse_packed
from finetune.tasks.tag.settings import Tag
from finetune.tasks.tag.spans import OUTSIDE, as_iob2, is_prefixed

WORD_NAMES = ("tokens", "words", "token", "word", "form", "text")
TAG_NAMES = ("ner_tags", "tags", "ner", "ner_tag", "tag", "labels", "label")
SENTENCE_NAMES = ("sentence_id", "sent_id", "sentence #", "sentence", "sentence_number", "sent", "id")
HEADER_NAMES = frozenset((*WORD_NAMES, *TAG_NAMES, *SENTENCE_NAMES)) - {"text", "word", "form", "id"}
CONLL = (".conll", ".conll03", ".bio", ".iob", ".iob2", ".txt", "")
DOCUMENT = "-DOCSTART-"
FEWEST = 3  # sentences: one each for training, validation and test
KNOWN = "a word and its tag on each line, and an empty line after each sentence"

Tagged = tuple[str, list[str], list[str]]  # location, words, tags


@dataclass(frozen=True)
class Sentence(PreparedRow):
    """A sentence with an IOB2 tag for each word."""

    words: list[str]
    tags: list[str]

    @property
    def text(self) -> str:
        """The words joined with spaces, as the model reads them."""
        return " ".join(self.words)


@dataclass
class Sentences:
    """The sentences of a file in file order, with notes on how it was read."""

    sentences: list[Sentence]
    notes: list[str] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=dict)  # reason -> sentences or words left out


def locate_sentences(name: str, encoding: str | None = None) -> DataSource:
    """Find the data called `name`: the bundled ``tag-sample``, a CoNLL file, a table, or a data set. Raises DataError."""
    bundled = samples(folder="tag")
    if name in bundled:
        return sample_source(name)
    path = Path(name).expanduser()
    if path.exists() and is_conll(path):
        return DataSource(path.name, path, Detected(TableFormat()), "the user's file")
    if found := table_source(name, encoding, HEADER_NAMES):
        return found
    raise DataError(
        f"{name!r} is neither a bundled set of sentences nor an existing file",
        known=", ".join([*bundled, f"{PREFIX}OWNER/NAME"]),
        do="Give a .conll, .jsonl, .json, .csv, .tsv or .parquet file, for example --set data=my.conll",
    )


def is_conll(path: Path) -> bool:
    """Whether a file is a CoNLL file: by its extension, or a .tsv file whose sentences end in empty lines."""
    if path.is_dir():
        return False
    if path.suffix.lower() in CONLL:
        return True
    if path.suffix.lower() not in (".tsv", ".tab"):
        return False
    with open(path, encoding=byte_order(path)[0], errors="replace") as file:
        lines = [line.strip() for line in itertools.islice(file, 1000)]
    header = {cell.strip().casefold() for cell in lines[0].split("\t")} & HEADER_NAMES if lines else set()
    return not header and "" in lines[: max((n for n, line in enumerate(lines) if line), default=0)]


def read_sentences(source: DataSource, settings: Tag, encoding: str | None = None, fewest: int = FEWEST) -> Sentences:
    """Every sentence with its tags as IOB2.

    Raises DataError for a file of another kind, for unequal numbers of words and tags, and if fewer are found.
    """
    notes = list(source.detected.notes)
    if is_conll(source.path):
        rows: Iterable[Tagged] = _conll(source.path, encoding)
    else:
        rows = _table(source.path, source.layout, settings, notes)
    found, dropped = [], {"a sentence without words": 0, "an empty word": 0}
    for row, (where, words, tags) in enumerate(rows):
        pairs = [(word.strip(), tag.strip()) for word, tag in zip(words, tags, strict=True)]
        kept = [(word, tag) for word, tag in pairs if word]
        if untagged := [word for word, tag in kept if not tag]:
            raise DataError(
                f"{where}: a word without a tag",
                got=repr(untagged[0]),
                known=f"{OUTSIDE} for a word outside any entity",
            )
        dropped["an empty word"] += len(pairs) - len(kept)
        if kept:
            found.append(Sentence(row, [word for word, _ in kept], [tag for _, tag in kept]))
        else:
            dropped["a sentence without words"] += 1
    if len(found) < fewest:
        raise DataError(
            f"{source.path}: too few sentences",
            got=f"{len(found)}",
            known=f"at least {fewest}, and {KNOWN}",
            do="Add some.",
        )
    sentences, said = _in_iob2(found, source.path)
    return Sentences(sentences, [*notes, *said], {why: count for why, count in dropped.items() if count})


def _in_iob2(found: list[Sentence], path: Path) -> tuple[list[Sentence], list[str]]:
    """The sentences with IOB2 tags, and a note on the conversion."""
    kinds = {tag for sentence in found for tag in sentence.tags} - {OUTSIDE}
    prefixed = {tag for tag in kinds if is_prefixed(tag)}
    if prefixed and prefixed != kinds:
        raise DataError(
            f"{path}: some tags have no B- or I- prefix, others do",
            got=listed(sorted(kinds - prefixed)),
            known=f"{listed(sorted(prefixed))} and {OUTSIDE}",
            do="Write every tag as B-TYPE, I-TYPE or O.",
        )
    if not any(OUTSIDE in sentence.tags for sentence in found):
        raise DataError(
            f"{path}: every word is in an entity",
            got=listed(sorted(kinds)),
            known=f"B-TYPE and I-TYPE for the words of an entity, {OUTSIDE} for all others",
        )
    mended = [Sentence(own.row, own.words, as_iob2(own.tags, bool(prefixed))) for own in found]
    changed = sum(old.tags != new.tags for old, new in zip(found, mended, strict=True))
    if kinds and not prefixed:
        return mended, ["tags have no B- or I- prefix: neighbouring words of the same type are read as one entity"]
    return mended, [f"converted the tags of {counted(changed, 'sentence')} to IOB2"] * bool(changed)


def _conll(path: Path, encoding: str | None) -> Iterator[Tagged]:
    """One word per line, first cell the word, last cell the tag; empty lines between sentences."""
    refuse_packed(path)
    proven, why = byte_order(path)
    used = proven if encoding is None or why or is_utf8(path) else encoding
    words: list[str] = []
    tags: list[str] = []
    begins = 1
    try:
        with open(path, encoding=used) as file:
            for number, line in enumerate(itertools.chain(file, [""]), 1):
                cells = line.rstrip("\r\n").split("\t") if "\t" in line else line.split()
                if not any(cell.strip() for cell in cells) or cells[0] == DOCUMENT:
                    if words:
                        yield f"{path}, line {begins}", words, tags
                    words, tags = [], []
                elif not words and line.startswith("# ") and (len(cells) != 2 or "=" in line):
                    continue  # a comment above a sentence
                elif len(cells) < 2:
                    raise DataError(
                        f"{path}, line {number}: a word without a tag", got=repr(shorten(line.strip(), 80)), known=KNOWN
                    )
                else:
                    begins = begins if words else number
                    words.append(cells[0])
                    tags.append(cells[-1])
    except (UnicodeDecodeError, LookupError) as error:
        do = look_at_bytes(path).fix() if used.startswith("utf-8") else "Save it as UTF-8."
        raise DataError(f"{path}: not {used}", got=str(error)[:100], do=do) from error


def _table(path: Path, layout: TableFormat, settings: Tag, notes: list[str]) -> Iterator[Tagged]:
    """A table with one sentence per row (lists of words and of tags), or one word per row."""
    table = iterate_table(path, layout)
    first = next(table, None)
    if first is None:
        raise DataError(
            f"{path}: no rows", known="one sentence per row with lists of words and tags, or one word per row"
        )
    names, cells = first
    words_at = find_column(names, settings.words, WORD_NAMES, "words", path, _mend("words"))
    tags_at = find_column(names, settings.tags, TAG_NAMES, "tags", path, _mend("tags"))
    notes.append(f"words column {names[words_at]!r}, tags column {names[tags_at]!r}")
    if layout.kind == "dataset" and SPLIT_COLUMN in names:
        notes.append("the data set's own splits are merged, then split again")
    rows = (row for _, row in itertools.chain([first], table))
    if cells[words_at].startswith("["):
        tag_names = _class_names(path, names[tags_at]) if layout.kind == "dataset" else None
        for number, row in enumerate(rows):
            where = f"{path}, row {number}"
            words, tags = (_list(row[at], names[at], where) for at in (words_at, tags_at))
            if len(words) != len(tags):
                raise DataError(
                    f"{where}: {counted(len(words), 'word')} and {counted(len(tags), 'tag')}",
                    known="the same number of both",
                )
            yield where, _strings(words, names[words_at], where), _tag_names(tags, tag_names, where)
        return
    at = find_column(names, settings.sentence, SENTENCE_NAMES, "sentence", path, _mend("sentence"))
    notes.append(f"one word per row, sentence column {names[at]!r}")
    yield from _by_sentence(path, rows, words_at, tags_at, at)


def _by_sentence(path: Path, rows: Iterable[list[str]], words_at: int, tags_at: int, at: int) -> Iterator[Tagged]:
    """The sentences of a table with one word per row; an empty cell means the sentence of the previous row."""
    current, begins = "", 0
    words: list[str] = []
    tags: list[str] = []
    for number, row in enumerate(rows):
        name = row[at].strip() or current
        if words and name != current:
            yield f"{path}, row {begins}", words, tags
            words, tags = [], []
        begins = begins if words else number
        current = name
        words.append(row[words_at])
        tags.append(row[tags_at])
    if words:
        yield f"{path}, row {begins}", words, tags


def _list(cell: str, name: str, where: str) -> list[Any]:
    try:
        value = json.loads(cell)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, list):
        raise DataError(f"{where}: {name} is not a list", got=repr(shorten(cell, 80)), known='["Anna", "slept"]')
    return value


def _strings(words: list[Any], name: str, where: str) -> list[str]:
    if odd := [word for word in words if not isinstance(word, str)]:
        raise DataError(f"{where}: {name} contains a value that is not text", got=repr(odd[0]))
    return words


def _tag_names(tags: list[Any], names: list[str] | None, where: str) -> list[str]:
    """The tags by name. Raises DataError for numbers without a name."""
    if names:
        return [names[tag] if isinstance(tag, int) else tag for tag in tags]
    if odd := [tag for tag in tags if not isinstance(tag, str)]:
        raise DataError(
            f"{where}: tags are numbers without names",
            got=repr(odd[0]),
            known=f"B-TYPE, I-TYPE, {OUTSIDE}",
            do="Write the names of the tags.",
        )
    return tags


def _class_names(path: Path, column: str) -> list[str] | None:
    """The names of a saved data set's tags, if they are numbers."""
    import datasets

    found = datasets.load_from_disk(str(path))
    part = next(iter(found.values())) if isinstance(found, datasets.DatasetDict) else found
    return getattr(getattr(part.features[column], "feature", None), "names", None)


def _mend(what: str) -> str:
    return f"Name it with --set tag.{what}=NAME."
