"""Stream texts that may be larger than the disk: from files, URLs, and data sets of the hub.

A remote source is pinned in our cache: a small file records the revision of a data set, or the URL, and its hash
represents the data. `datasets` reads the stream and provides its state, from which it can resume.
"""

import lzma
import zlib
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlparse

from finetune.errors import DataError, FetchError, FinetuneError, shorten
from finetune.files import home, read_json, write_json
from finetune.hub.datasets import PREFIX
from finetune.hub.errors import explain
from finetune.hub.fetch import network_available
from finetune.records import Record

if TYPE_CHECKING:
    from datasets import IterableDataset

ADDRESSES = ("https://", "http://")
PACKED = (".xz", ".gz", ".bz2", ".zst")
KINDS = {".txt": "text", ".md": "text", ".jsonl": "json", ".parquet": "parquet"}
ENDINGS = tuple(KINDS) + tuple(kind + packed for kind in (".txt", ".md", ".jsonl") for packed in PACKED)
PINNED = ".stream"  # extension of the files that pin a remote source
UNREADABLE = (OSError, ValueError, RuntimeError, LookupError, EOFError, StopIteration, lzma.LZMAError, zlib.error)
PARTS = 1024  # shards of a saved data set, so that a row is found fast

State = dict[str, Any]  # plain JSON from `datasets`


@dataclass(frozen=True)
class Pin(Record):
    """The remote source of a stream: a URL, or a revision of a data set of the hub."""

    address: str = ""
    repo: str = ""
    config: str = ""
    revision: str = ""


def is_elsewhere(name: str) -> bool:
    """Whether this is a URL or names a data set of the hub."""
    return name.startswith((PREFIX, *ADDRESSES))


def pin_stream(name: str) -> Path:
    """The file that pins ``hf:OWNER/NAME[:CONFIG]`` or a URL, written at its first use. Raises FetchError."""
    path = home() / "streams" / (quote(name, safe="") + PINNED)
    if path.exists():
        return path
    pin = Pin(address=name) if name.startswith(ADDRESSES) else _newest_revision(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, pin.to_json())
    return path


def _newest_revision(name: str) -> Pin:
    repo, _, config = name.removeprefix(PREFIX).partition(":")
    if not repo or not network_available():
        raise FetchError(
            f"the data set {name!r} cannot be streamed: the hub does not answer",
            known=f"{PREFIX}OWNER/NAME or {PREFIX}OWNER/NAME:CONFIG",
            do="Connect to the network, or give files that are on this machine.",
        )
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        revision = HfApi().dataset_info(repo).sha
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise explain(error, f"the data set {name!r}", "the hub", "") from error
    return Pin(repo=repo, config=config, revision=revision or "main")


class TextStream:
    """The texts of a stream in order, from its beginning or from an earlier state.

    The texts are the column ``text`` of JSONL, Parquet and data sets, and the lines of text files.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        self.pin = Pin.from_json(read_json(path), path) if path.suffix == PINNED else None
        self.name = (self.pin.address or self.pin.repo) if self.pin else path.name
        self.gives_lines = _kind(self.name) == "text" and not self.path.is_dir()
        self.rows: IterableDataset | None = None

    def state(self) -> State:
        """The state after the last text yielded, independent of where the stream began."""
        assert self.rows is not None, "texts() opens the stream"
        return self.rows.state_dict()

    def texts(self, state: State | None = None) -> Iterator[str]:
        """The texts after a state. Raises DataError for unreadable data, FetchError if the network fails."""
        import datasets

        read = 0
        try:
            self.rows = self._open()
            earlier = state and _row_before(state)
            if state:
                self.rows.load_state_dict(earlier or state)
            for row in islice(self.rows, 1 if earlier else 0, None):
                read += 1
                text = row.get("text")
                if "text" not in row or not isinstance(text, str | None):
                    raise self._no_texts(row)
                yield text or ""
        except FinetuneError:
            raise
        except (*UNREADABLE, datasets.exceptions.DatasetsError) as error:
            raise self._unreadable(error, read) from error

    def _open(self) -> "IterableDataset":
        """The stream at its beginning."""
        import datasets

        if self.path.is_dir():
            saved = datasets.load_from_disk(str(self.path))
            saved = saved["train"] if isinstance(saved, datasets.DatasetDict) else saved
            return saved.select_columns("text").to_iterable_dataset(num_shards=min(PARTS, max(len(saved), 1)))
        if self.pin and self.pin.repo:
            found = datasets.load_dataset(
                self.pin.repo, self.pin.config or None, revision=self.pin.revision, split="train", streaming=True
            )
        else:
            kind = _kind(self.name)
            lines = {"keep_linebreaks": True, "encoding": "utf-8-sig"} if kind == "text" else {}
            place = self.pin.address if self.pin else str(self.path)
            found = datasets.load_dataset(kind, data_files=[place], split="train", streaming=True, **lines)
        if found.column_names and "text" in found.column_names:
            found = found.select_columns("text")
        return (
            found.reshard()
        )  # the row groups of Parquet, so that a position is found without reading everything before it

    def _no_texts(self, row: dict[str, Any]) -> DataError:
        return DataError(
            f"{self.name}: the stream has no column of strings named text",
            got=", ".join(map(str, row)),
            do='Give rows such as {"text": "..."}.',
        )

    def _unreadable(self, error: Exception, read: int) -> FinetuneError:
        what = f"{self.name}: the stream cannot be read" + (f" after {read:,} rows" if read else "")
        if self.pin:
            return FetchError(
                what,
                got=shorten(f"{type(error).__name__}: {error}", 200),
                known="data sets of the hub that run no code of their own, and addresses of " + ", ".join(KINDS),
                do="Check the network, then run the same command: it continues from the last checkpoint.",
            )
        return DataError(
            what, got=shorten(str(error), 200) or "an empty file", known=", ".join(ENDINGS), do="Check the file."
        )


def _row_before(state: State) -> State | None:
    """The state one row earlier; a stream resumed from it has the same states as an uninterrupted one.

    When `datasets` reads Arrow tables, a state is the beginning of a table and a number of rows after it. A stream
    resumed from the state itself would count from another table than an uninterrupted one.
    None: a state of another kind, which does not need this.
    """
    found = deepcopy(state)
    inner = found.get("examples_iterable")
    while inner:
        if inner.get("previous_state") and inner["num_chunks_since_previous_state"] > 0:
            inner["examples_iterable"], inner["previous_state"] = inner["previous_state"], None
            inner["num_chunks_since_previous_state"] -= 1  # a chunk has one row
            inner["batch_idx"] -= 1
            return found
        inner = inner.get("examples_iterable")
    return None


def _kind(name: str) -> str:
    """The name of a file's format in `datasets`; empty for a data set."""
    path = Path(urlparse(name).path if name.startswith(ADDRESSES) else name)
    suffix = Path(path.stem).suffix if path.suffix in PACKED else path.suffix
    return KINDS.get(suffix, "")
