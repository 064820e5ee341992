"""Plain text as a stream of documents, in bounded memory.

Reads a text or JSONL file, compressed or not, a folder of such files, or a folder saved by `datasets`.
"""

import hashlib
import json
import lzma
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from finetune.console import progress
from finetune.errors import DataError
from finetune.hub import streams
from finetune.hub.datasets import PREFIX, get_hub_dataset
from finetune.tables.detect import Detected
from finetune.tables.sources import DataSource, sample_source, samples
from finetune.tables.tables import TableFormat, is_saved_dataset
from finetune.tasks.pretrain.exclusion import Exclusion, evaluation_files, evaluation_rows
from finetune.tasks.pretrain.packing import TokenWriter, goes_to_val
from finetune.tasks.pretrain.results import EvaluationText, Excluded, PartCounts, SourceCounts, TextCounts
from finetune.tasks.pretrain.settings import Pretrain
from finetune.tokenizer import END_OF_TEXT, Tokenizer

ENDINGS = (".txt", ".md", ".jsonl", ".txt.xz", ".jsonl.xz")
TABLES = (".csv", ".tsv", ".parquet", ".xlsx")
PIECE = 1 << 20  # characters; longer documents are passed on in pieces
JSON_LINE = 1 << 25  # characters of a line of JSONL, which is read whole; a few KB of xz can unpack to gigabytes


def text_files(path: Path, stream: bool = False) -> list[Path]:
    """The path itself, or all text files below a folder, sorted by name. stream: only those that can be read as a stream."""
    path, endings = Path(path), streams.ENDINGS if stream else ENDINGS
    if is_saved_dataset(path):
        return [path]
    if path.is_dir():
        found = sorted(file for file in path.rglob("*") if file.is_file() and file.name.endswith(endings))
        if not found:
            raise DataError(f"{path}: no text files in this folder", known=", ".join(endings))
        return found
    if not path.is_file():
        raise DataError(f"{path}: no such file or folder")
    if stream and not path.name.endswith((*endings, streams.PINNED)):
        raise DataError(f"{path}: not a file that can be read as a stream", known=", ".join(endings))
    if path.suffix.lower() in TABLES and not stream:
        raise DataError(
            f"{path}: a table, whose labels and delimiters would be learned as text",
            known=", ".join(ENDINGS),
            do='Write its texts to a .jsonl file, one {"text": "..."} per line, without those you will test on.',
        )
    return [path]


def iterate_pieces(path: Path) -> Iterator[tuple[str, bool]]:
    """Yield (text, ends) for each piece of each document of a file; `ends` marks a document's last piece.

    In a text file a line ``<|endoftext|>`` separates documents. In JSONL each line's "text" is a document, in a saved
    data set each row's "text" (of the split "train" if there are splits).
    """
    read = _dataset_rows if is_saved_dataset(path) else _jsonl_lines if ".jsonl" in path.name else _text_lines
    return pieces_of(read(path))


def pieces_of(lines: Iterable[str | None]) -> Iterator[tuple[str, bool]]:
    """Join the lines of documents, each of which ends with None, into pieces; nothing is read beyond a document's end."""
    held: list[str] = []
    size = 0
    for line in lines:
        if line is None:
            if size:
                yield "".join(held), True
            held, size = [], 0
            continue
        if size > PIECE:
            yield "".join(held), False
            held, size = [], 0
        held.append(line)
        size += len(line)
    if size:
        yield "".join(held), True


def _text_lines(path: Path) -> Iterator[str | None]:
    """Lines with their line ends, long ones in parts, and None at the end of a document."""
    begins = True
    with _open(path) as file:
        while line := _read_line(path, file, PIECE):
            yield None if begins and line.strip() == END_OF_TEXT else line
            begins = line.endswith("\n")


def _read_line(path: Path, file: TextIO, most: int) -> str:
    """The next line, or its first `most` characters; empty at the end. Raises DataError."""
    try:
        return file.readline(most)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not UTF-8", got=f"byte {error.object[error.start]:#x}", do="Save the file as UTF-8."
        ) from error
    except EOFError as error:
        raise DataError(
            f"{path}: the file is truncated", got=str(error), do="Download or compress the file again."
        ) from error
    except (OSError, lzma.LZMAError) as error:
        raise DataError(f"{path}: cannot be read", got=str(error)) from error


def _jsonl_lines(path: Path) -> Iterator[str | None]:
    with _open(path) as file:
        number = 0
        while line := _read_line(path, file, JSON_LINE):
            number += 1
            if not line.strip():
                continue
            if len(line) == JSON_LINE:
                raise DataError(
                    f"{path}, line {number}: too long",
                    got=f"{JSON_LINE:,} characters or more",
                    do="Write a document as several lines, or as a text file.",
                )
            try:
                text = json.loads(line)["text"]
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise DataError(
                    f"{path}, line {number}: not a JSON object with a text",
                    got=line[:60].strip(),
                    known='{"text": "..."}',
                ) from error
            if not isinstance(text, str):
                raise DataError(f"{path}, line {number}: text is not a string", got=type(text).__name__)
            yield text
            yield None


def _dataset_rows(path: Path) -> Iterator[str | None]:
    import datasets

    try:
        found = datasets.load_from_disk(str(path))
    except (OSError, ValueError, LookupError) as error:
        raise DataError(f"{path}: not a readable data set", got=str(error).split("\n")[0][:200]) from error
    if isinstance(found, datasets.DatasetDict):
        if "train" not in found:
            raise DataError(
                f"{path}: the data set has no split named train",
                got=", ".join(found),
                do="Give a data set that has one, or a file of texts.",
            )
        found = found["train"]
    if "text" not in found.column_names or found.features["text"].dtype not in ("string", "large_string"):
        raise DataError(
            f"{path}: the data set has no column of strings named text",
            got=", ".join(found.column_names),
            do='Rename it: dataset.rename_column("...", "text")',
        )
    for batch in found.select_columns("text").iter(batch_size=1000):
        for text in batch["text"]:
            yield text or ""
            yield None


def _open(path: Path) -> TextIO:
    if path.suffix == ".xz":
        return lzma.open(path, "rt", encoding="utf-8-sig", newline="\n")
    return open(path, encoding="utf-8-sig", newline="\n")


def locate_text(name: str, stream: bool = False) -> DataSource:
    """Find the plain text called `name`. Raises DataError.

    name: a file, a folder of text files or saved by `datasets`, ``hf:OWNER/NAME``, or the bundled ``text-sample``; for a
    stream also a URL. A remote stream is located by the file that pins it.
    """
    if stream and streams.is_elsewhere(name):
        return DataSource(name, streams.pin_stream(name), Detected(TableFormat()), "read as a stream")
    bundled = samples("txt")
    if name in bundled:
        return sample_source(name)
    if name.startswith(PREFIX):
        return DataSource(name, get_hub_dataset(name), Detected(TableFormat()), "a data set of the Hugging Face hub")
    path = Path(name).expanduser()
    if not path.exists():
        raise DataError(
            f"{name!r} is neither a bundled text nor an existing file or folder",
            known=", ".join([*bundled, f"{PREFIX}OWNER/NAME"]),
            do="Give --set pretrain.stream=true to read an address."
            if streams.is_elsewhere(name)
            else "Give a text file or a folder, for example --set data=my.txt",
        )
    return DataSource(path.name, path, Detected(TableFormat()), "the user's text")


def write_tokens(path: Path, directory: Path, tokenizer: Tokenizer, settings: Pretrain, seed: int) -> TextCounts:
    """Tokenize a file or a folder into ``train.bin`` and ``val.bin`` in bounded memory.

    A hash of a document's beginning decides whether it is held out; a single document is split at its paragraphs. If no
    document is held out, val_fraction is doubled until one is. Documents that contain a row of the evaluation sets of
    ``pretrain.exclude`` are left out of both files and counted by source.
    """
    files = text_files(path)
    check_shares(files, settings)
    exclusion = Exclusion(row for file in evaluation_files(settings.exclude) for row in evaluation_rows(file))
    writer, sources = _write_splits(files, directory, tokenizer, settings, seed, exclusion)
    while writer.tokens["val"] < 2 and settings.val_fraction < 0.5:
        settings = settings.model_copy(update={"val_fraction": 2 * settings.val_fraction})
        writer, sources = _write_splits(files, directory, tokenizer, settings, seed, exclusion)
    for split in ("train", "val"):
        if writer.tokens[split] < 2:
            raise DataError(
                f"{path}: too little text: the {split} part is empty",
                do="Give more text, or another pretrain.val_fraction.",
            )
    excluded = Excluded(len(exclusion), sum(source.excluded for source in sources.values())) if exclusion else None
    return TextCounts(
        documents=writer.documents, tokens=writer.tokens, bytes=writer.bytes, sources=sources, excluded=excluded
    )


def check_shares(files: list[Path], settings: Pretrain) -> None:
    """Raise DataError if ``pretrain.shares`` names a file that is not among these."""
    if unknown := set(settings.shares) - {source_name(file) for file in files}:
        raise DataError(
            "pretrain.shares names missing files",
            got=", ".join(sorted(unknown)),
            known=", ".join(source_name(file) for file in files),
        )


def _write_splits(
    files: list[Path], directory: Path, tokenizer: Tokenizer, settings: Pretrain, seed: int, exclusion: Exclusion
) -> tuple[TokenWriter, dict[str, SourceCounts]]:
    """One pass over the files: the closed writer with its counts, and the counts of each source."""
    sources = {}
    with TokenWriter(directory, tokenizer) as writer, progress("tokenizing", None, unit="characters") as advance:
        for file in files:
            before = {split: (writer.documents[split], writer.tokens[split]) for split in writer.tokens}
            share, excluded = settings.shares.get(source_name(file), 1.0), 0
            pieces = iterate_pieces(file)
            if is_one_document(iterate_pieces(file)):
                pieces = paragraphs(line for text, _ in pieces for line in text.splitlines(keepends=True))
            for piece in place_pieces(pieces, settings.val_fraction, share, seed, exclusion):
                excluded += not piece.times
                for _ in range(piece.times):
                    writer.add(piece.split, piece.text, piece.begins)
                advance(len(piece.text))
            sources[source_name(file)] = SourceCounts(
                share,
                excluded=excluded,
                **{
                    split: PartCounts(
                        writer.documents[split] - before[split][0], writer.tokens[split] - before[split][1]
                    )
                    for split in writer.tokens
                },
            )
    return writer, sources


def write_evaluation_tokens(path: Path, directory: Path, tokenizer: Tokenizer) -> EvaluationText:
    """Tokenize a text that is only evaluated into ``eval.bin``. Returns its counts."""
    with TokenWriter(directory, tokenizer, splits=("eval",)) as writer:
        for file in text_files(path):
            begins = True
            for text, ends in iterate_pieces(file):
                writer.add("eval", text, begins)
                begins = ends
    return EvaluationText(path.name, writer.tokens["eval"], writer.bytes["eval"])


def source_name(file: Path) -> str:
    """A file's name without its endings, as in ``pretrain.shares``."""
    return file.name.split(".")[0]


@dataclass(frozen=True)
class Piece:
    """A piece of a document, and where and how often it is written."""

    text: str
    split: str  # train or val
    begins: bool  # whether it begins a document
    times: int  # how often it is written; 0: left out, because it contains a row of an evaluation set


def place_pieces(
    pieces: Iterable[tuple[str, bool]], val_fraction: float, share: float, seed: int, exclusion: Exclusion
) -> Iterator[Piece]:
    """Decide for each piece of a source where it is written; pieces of documents that its share leaves out are dropped.

    A long document is checked piece by piece; the piece after one that was left out begins a new document.
    """
    begins, split, times, held = True, "train", 1, False
    for text, ends in pieces:
        if begins:
            split = "val" if goes_to_val(text, val_fraction, seed) else "train"
            times = 1 if split == "val" else _times(text, share, seed)
        if times:
            opens = begins or held
            held = exclusion.holds(text)
            yield Piece(text, split, opens, 0 if held else times)
        begins = ends


def _times(text: str, share: float, seed: int) -> int:
    """How often a document is written. share: 2.3 means twice, and a third time for 30 % of the documents."""
    digest = hashlib.sha256(f"share/{seed}/{text[:4096]}".encode("utf-8", "replace")).digest()
    return int(share) + (int.from_bytes(digest[:8], "big") < (share % 1) * 2**64)


def is_one_document(pieces: Iterable[tuple[str, bool]]) -> bool:
    """Whether these pieces are of fewer than two documents."""
    return sum(1 for _ in zip(range(2), (ends for _, ends in pieces if ends), strict=False)) < 2


def paragraphs(lines: Iterable[str]) -> Iterator[tuple[str, bool]]:
    """A single document in parts of just over 2,000 characters, so that some can be held out.

    A part ends at an empty line, or without one at the first line end after 4,000 characters.
    """
    held = ""
    for line in lines:
        held += line
        if len(held) > (4000 if line.strip() else 2000):
            yield held, True
            held = ""
    if held:
        yield held, True
