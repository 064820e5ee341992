"""Text as shards of tokens in bounded disk space, for a stream that is larger than the disk.

``prepare`` reads the stream once (``sharding``). It keeps some held-out documents, and records for each shard where in
the stream it begins and the hash of its tokens. Training recreates a shard that is not on the disk when it needs it, so
that the order of the batches is a function of (seed, epoch) and the same in a resumed run.
"""

import hashlib
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from threading import Thread

import numpy as np
from torch import Tensor

from finetune.errors import DataError, FinetuneError
from finetune.files import atomic_write, is_leftover, read_json, remove, sha256_file, try_lock
from finetune.hub.streams import State, TextStream
from finetune.records import Record
from finetune.tasks.pretrain.documents import Piece, paragraphs, pieces_of, place_pieces
from finetune.tasks.pretrain.exclusion import Exclusion, evaluation_files, evaluation_rows
from finetune.tasks.pretrain.packing import PackedTokens, TokenBlocks, token_dtype
from finetune.tokenizer import END_OF_TEXT, Tokenizer

INDEX = "stream.json"  # in data/
SHARDS = "shards"  # the folder in a run


@dataclass(frozen=True)
class Place(Record):
    """Where a shard begins: a document of a source, and the number of its training tokens in earlier shards."""

    source: int = 0
    state: State | None = None  # the stream's state where the document begins; None: the stream's beginning
    skip: int = 0


@dataclass(frozen=True)
class Shard(Record):
    """A shard's place, its number of tokens (the last is only a target), and their hash."""

    place: Place
    tokens: int
    sha256: str


@dataclass(frozen=True)
class Source(Record):
    """A file, or a pinned stream. one_document: whether it is split at its paragraphs."""

    name: str
    path: str
    share: float
    one_document: bool


@dataclass(frozen=True)
class StreamIndex(Record):
    """How to recreate every shard: the content of ``data/stream.json``."""

    sources: list[Source]
    val_fraction: float
    seed: int
    exclude: list[str]
    shard_tokens: int  # inputs of every shard but the last
    shards: list[Shard]

    @cached_property
    def exclusion(self) -> Exclusion:
        """Finds rows of the excluded evaluation sets."""
        return Exclusion(row for file in evaluation_files(self.exclude) for row in evaluation_rows(file))


@dataclass(frozen=True)
class Read:
    """A piece of text, where its document begins, and its number among the document's pieces."""

    source: int
    state: State | None
    piece: Piece
    number: int


def read_stream(index: StreamIndex, place: Place) -> Iterator[Read]:
    """The pieces of all documents, starting at a place."""
    for number in range(place.source, len(index.sources)):
        source = index.sources[number]
        stream = TextStream(Path(source.path))
        begun = [place.state if number == place.source else None]  # the state at the beginning of the document
        pieces = _noting(stream, pieces_from(stream, begun[0], source.one_document), begun)
        document, count = begun[0], 0
        for piece in place_pieces(pieces, index.val_fraction, source.share, index.seed, index.exclusion):
            if begun[0] is not document:
                document, count = begun[0], 0
            yield Read(number, document, piece, count)
            count += 1


def pieces_from(stream: TextStream, state: State | None, one_document: bool) -> Iterator[tuple[str, bool]]:
    """The pieces as ``iterate_pieces`` yields them for a file."""
    if one_document:
        return paragraphs(text for text in stream.texts(state) if text.strip() != END_OF_TEXT)
    if not stream.gives_lines:
        return pieces_of(chain.from_iterable((text, None) for text in stream.texts(state)))
    return pieces_of(None if text.strip() == END_OF_TEXT else text for text in stream.texts(state))


def _noting(
    stream: TextStream, pieces: Iterator[tuple[str, bool]], begun: list[State | None]
) -> Iterator[tuple[str, bool]]:
    for text, ends in pieces:
        yield text, ends
        if ends:
            begun[0] = stream.state()  # nothing was read beyond the document's end


def train_ids(read: Read | None, tokenizer: Tokenizer) -> list[int]:
    """The training tokens of a piece. None: the stream's end, with the token that ends the last document."""
    if read is None:
        return [tokenizer.end_of_text]
    if read.piece.split != "train" or not read.piece.times:
        return []
    return ([tokenizer.end_of_text] * read.piece.begins + tokenizer.encode(read.piece.text)) * read.piece.times


class ShardFolder:
    """The shards on the disk: never more than `most_bytes`, even while one is written."""

    def __init__(self, folder: Path, most_bytes: int):
        self.folder, self.most_bytes = folder, most_bytes
        self.used: list[int] = []  # numbers of shards, the most recent last

    def path(self, number: int) -> Path:
        """The file of a shard."""
        return self.folder / f"{number:08d}.bin"

    def write(self, number: int, ids: np.ndarray, keep: Collection[int] = ()) -> None:
        """Write a shard, after deleting the most recently used ones, which are needed last, in the next epoch."""
        self.folder.mkdir(exist_ok=True)
        self._clear()
        for old in self._in_order_of_need():
            if self.bytes() + ids.nbytes <= self.most_bytes:
                break
            if old not in keep:
                remove(self.path(old))
        with atomic_write(self.path(number), "wb") as file:
            file.write(ids.tobytes())

    def keep_first(self, count: int) -> None:
        """Delete all shards but the first `count`, and the last of these until the rest fits."""
        self._clear()
        for number in sorted(self._there(), reverse=True):
            if number >= count or self.bytes() > self.most_bytes:
                remove(self.path(number))

    def _clear(self) -> None:
        """Delete drafts of processes that were killed."""
        for draft in filter(is_leftover, self.folder.glob(".*")):
            remove(draft)

    def _there(self) -> list[int]:
        return [int(file.stem) for file in self.folder.glob("*.bin")]

    def bytes(self) -> int:
        """The size of all files in the folder."""
        return sum(file.stat().st_size for file in self.folder.iterdir()) if self.folder.exists() else 0

    def _in_order_of_need(self) -> list[int]:
        return sorted(
            self._there(), key=lambda number: self.used.index(number) if number in self.used else -1, reverse=True
        )

    def note(self, number: int) -> None:
        """Record that a shard is used now."""
        self.used = [other for other in self.used if other != number] + [number]

    @contextmanager
    def one_at_a_time(self) -> Iterator[None]:
        """Let one of the processes that train together make a shard, which the others then find."""
        self.folder.mkdir(exist_ok=True)
        with open(self.folder / "lock", "a") as file:
            while not try_lock(file):
                time.sleep(0.05)
            yield


class StreamedTokens(TokenBlocks):
    """The training blocks of a stream. The blocks of a shard are available together."""

    def __init__(self, index: StreamIndex, folder: ShardFolder, tokenizer: Tokenizer, context: int, across: bool):
        super().__init__(context, tokenizer.end_of_text, across)
        self.index, self.folder, self.tokenizer = index, folder, tokenizer
        self.per_shard = -(-index.shard_tokens // context)
        self.groups: Sequence[int] = [-(-(shard.tokens - 1) // context) for shard in index.shards]
        self.number = -1
        self.opened: PackedTokens | None = None
        self.making: Thread | None = None

    def __len__(self) -> int:
        return sum(self.groups)

    def length(self, block: int) -> int:
        """As in ``TokenBlocks``."""
        number, inside = divmod(block, self.per_shard)
        return min(self.context, self.index.shards[number].tokens - 1 - inside * self.context)

    def inputs(self, block: int) -> list[int]:
        """As in ``TokenBlocks``."""
        return self._shard(block // self.per_shard).inputs(block % self.per_shard)

    def batch(self, blocks: list[int], ignore: int) -> tuple[Tensor, Tensor]:
        """As in ``TokenBlocks``; the blocks are of one shard. Raises DataError if the stream has changed."""
        [number] = {block // self.per_shard for block in blocks}
        return self._shard(number).batch([block % self.per_shard for block in blocks], ignore)

    def read_ahead(self, blocks: list[int]) -> None:
        """As in ``TokenBlocks``: a thread makes a missing shard if the disk has room for it beside the earlier ones."""
        if self.making is not None and self.making.is_alive():
            return
        keep, size = {self.number}, (self.index.shard_tokens + 1) * token_dtype(self.tokenizer.vocab_size).itemsize
        for number in dict.fromkeys(block // self.per_shard for block in blocks):
            keep.add(number)
            if not self.folder.path(number).exists():
                if len(keep) * size <= self.folder.most_bytes:
                    self.making = Thread(target=self._make_ahead, args=(number, keep), daemon=True)
                    self.making.start()
                return

    def _make_ahead(self, number: int, keep: Collection[int]) -> None:
        with suppress(FinetuneError, OSError):  # raised when the shard is needed and made again
            self._ensure(number, keep)

    def _ensure(self, number: int, keep: Collection[int] = ()) -> Path:
        """The file of a shard, recreated from the stream if it is missing or has changed."""
        path = self.folder.path(number)
        with self.folder.one_at_a_time():
            if not path.exists() or sha256_file(path) != self.index.shards[number].sha256:
                remove(path)
                self.folder.write(number, self._make(number), keep)
        return path

    def _shard(self, number: int) -> PackedTokens:
        if number != self.number or self.opened is None:
            if self.making is not None:
                self.making.join()
            self.opened = None  # closes the file, which may be deleted now
            path = self._ensure(number)
            self.folder.note(number)
            self.opened = PackedTokens(path, self.context, self.tokenizer.vocab_size, self.end_of_text, self.across)
            self.number = number
        return self.opened

    def _make(self, number: int) -> np.ndarray:
        shard = self.index.shards[number]
        wanted, skip, held = shard.tokens, shard.place.skip, []
        for read in chain(read_stream(self.index, shard.place), [None]):
            ids = train_ids(read, self.tokenizer)
            held.append(np.array(ids[skip : skip + wanted], token_dtype(self.tokenizer.vocab_size)))
            skip, wanted = max(skip - len(ids), 0), wanted - len(held[-1])
            if not wanted:
                break
        found = np.concatenate(held)
        if hashlib.sha256(found.tobytes()).hexdigest() != shard.sha256:
            raise DataError(
                f"the text has changed since it was prepared: shard {number} of the stream differs",
                known=", ".join(source.path for source in self.index.sources[:4]),
                do="Restore it, or run again with --from prepare.",
            )
        return found


def read_index(path: Path) -> StreamIndex:
    """The index of a run's shards. Raises RunError."""
    return StreamIndex.from_json(read_json(path), path)
