"""Plain text as a stream of documents, in bounded memory.

A text file, a folder of them, JSONL, compressed or not, or a folder that `datasets` saved.
"""

import json
import lzma
from collections.abc import Iterator
from pathlib import Path

from finetune.errors import DataError
from finetune.tables.tables import is_saved_dataset
from finetune.tokenizer import END_OF_TEXT

ENDINGS = (".txt", ".md", ".jsonl", ".txt.xz", ".jsonl.xz")
TABLES = (".csv", ".tsv", ".parquet", ".xlsx")
PIECE = 1 << 20  # characters; a longer document is handed on in pieces


def text_files(path: Path) -> list[Path]:
    """The files that a path stands for: itself, or all text files below a folder, in the order of their names."""
    path = Path(path)
    if is_saved_dataset(path):
        return [path]
    if path.is_dir():
        found = sorted(file for file in path.rglob("*") if file.is_file() and file.name.endswith(ENDINGS))
        if not found:
            raise DataError(f"{path}: no text files in this folder", known=", ".join(ENDINGS))
        return found
    if not path.is_file():
        raise DataError(f"{path}: no such file or folder")
    if path.suffix.lower() in TABLES:
        raise DataError(f"{path}: a table, whose labels and delimiters would be learnt as text",
                        known=", ".join(ENDINGS),
                        do='Write its texts to a .jsonl file, {"text": "..."} a line, without those you will test on.')
    return [path]


def iterate_pieces(path: Path) -> Iterator[tuple[str, bool]]:
    """Yield (text, ends) for each piece of each document of a file; `ends` marks a document's last piece.

    In a text file a line ``<|endoftext|>`` separates documents; in JSONL each line's "text" is one, and in a saved
    data set each row's (of the split "train", where there are splits).
    """
    read = _dataset_rows if is_saved_dataset(path) else _jsonl_lines if ".jsonl" in path.name else _text_lines
    lines = read(path)
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
    """Lines with their ends; none where a document ends."""
    with _open(path) as file:
        try:
            for line in file:
                yield None if line.strip() == END_OF_TEXT else line
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not UTF-8", got=f"byte {error.object[error.start]:#x}",
                            do="Save the file as UTF-8.") from error
        except (OSError, lzma.LZMAError, EOFError) as error:
            raise DataError(f"{path}: cannot be read", got=str(error)) from error


def _jsonl_lines(path: Path) -> Iterator[str | None]:
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                text = json.loads(line)["text"]
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise DataError(f"{path}, line {number}: no JSON object with a text", got=line[:60].strip(),
                                known='{"text": "..."}') from error
            if not isinstance(text, str):
                raise DataError(f"{path}, line {number}: text is no string", got=type(text).__name__)
            yield text
            yield None


def _dataset_rows(path: Path) -> Iterator[str | None]:
    import datasets
    try:
        found = datasets.load_from_disk(str(path))
    except (OSError, ValueError, LookupError) as error:
        raise DataError(f"{path}: no data set that can be read", got=str(error).split("\n")[0][:200]) from error
    if isinstance(found, datasets.DatasetDict):
        if "train" not in found:
            raise DataError(f"{path}: the data set has no split named train", got=", ".join(found))
        found = found["train"]
    if "text" not in found.column_names or found.features["text"].dtype not in ("string", "large_string"):
        raise DataError(f"{path}: the data set has no column of strings named text",
                        got=", ".join(found.column_names), do='Rename it: dataset.rename_column("...", "text")')
    for batch in found.select_columns("text").iter(batch_size=1000):
        for text in batch["text"]:
            yield text or ""
            yield None


def _open(path: Path):
    if path.suffix == ".xz":
        return lzma.open(path, "rt", encoding="utf-8-sig", newline="\n")
    return open(path, encoding="utf-8-sig", newline="\n")
