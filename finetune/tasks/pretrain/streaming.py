"""Text as shards of tokens in a bounded part of the disk, for more of it than the disk holds.

``prepare`` reads the stream once. It keeps some held-out documents, and notes of each shard where in the stream it
begins and the hash of its tokens. Training makes each shard again from there when its turn comes, if it is not there
still, so that the order of the batches is a function of (seed, epoch) and a resumed run has the same ones.
"""

import hashlib
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from threading import Thread

import numpy as np
from torch import Tensor

from finetune.console import progress, say
from finetune.errors import DataError, FinetuneError, RecipeError
from finetune.files import atomic_write, is_leftover, read_json, remove, sha256_file, try_lock, write_json
from finetune.hub.streams import State, TextStream
from finetune.records import Record
from finetune.tasks.pretrain.documents import (
    Piece,
    check_shares,
    is_one_document,
    paragraphs,
    pieces_of,
    place_pieces,
    source_name,
)
from finetune.tasks.pretrain.exclusion import Exclusion, evaluation_files, evaluation_rows
from finetune.tasks.pretrain.packing import PackedTokens, TokenBlocks, TokenWriter, token_dtype
from finetune.tasks.pretrain.results import Excluded, PartCounts, SourceCounts, TextCounts
from finetune.tasks.pretrain.settings import Pretrain
from finetune.tokenizer import END_OF_TEXT, Tokenizer

INDEX = "stream.json"  # in data/
SHARDS = "shards"  # the folder in a run


@dataclass(frozen=True)
class Place(Record):
    """Where a shard begins: at a document of a source, and how many of its training tokens are in shards before."""

    source: int = 0
    state: State | None = None  # of the stream where the document begins; None: at its beginning
    skip: int = 0


@dataclass(frozen=True)
class Shard(Record):
    """A shard's place, its number of tokens, of which the last is only a target, and their hash."""

    place: Place
    tokens: int
    sha256: str


@dataclass(frozen=True)
class Source(Record):
    """A file, or a pinned stream. one_document: whether it is divided at its paragraphs."""

    name: str
    path: str
    share: float
    one_document: bool


@dataclass(frozen=True)
class StreamIndex(Record):
    """How to make every shard: the content of ``data/stream.json``."""

    sources: list[Source]
    val_fraction: float
    seed: int
    exclude: list[str]
    shard_tokens: int  # inputs of every shard but the last
    shards: list[Shard]

    @cached_property
    def exclusion(self) -> Exclusion:
        """Finds the rows of the evaluation sets that are excluded."""
        return Exclusion(row for file in evaluation_files(self.exclude) for row in evaluation_rows(file))


@dataclass(frozen=True)
class Read:
    """A piece of text, and where its document begins."""

    source: int
    state: State | None
    piece: Piece


def read_stream(index: StreamIndex, place: Place) -> Iterator[Read]:
    """The pieces of all documents from a place on."""
    for number in range(place.source, len(index.sources)):
        source = index.sources[number]
        stream = TextStream(Path(source.path))
        begun = [place.state if number == place.source else None]  # the state where the document began
        pieces = _noting(stream, _pieces(stream, begun[0], source.one_document), begun)
        for piece in place_pieces(pieces, index.val_fraction, source.share, index.seed, index.exclusion):
            yield Read(number, begun[0], piece)


def _pieces(stream: TextStream, state: State | None, one_document: bool) -> Iterator[tuple[str, bool]]:
    """As ``iterate_pieces`` of a file."""
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
    """The training tokens of a piece. None: of the stream's end, the token that closes the last document."""
    if read is None:
        return [tokenizer.end_of_text]
    if read.piece.split != "train" or not read.piece.times:
        return []
    return ([tokenizer.end_of_text] * read.piece.begins + tokenizer.encode(read.piece.text)) * read.piece.times


class ShardCutter:
    """Cuts training tokens into shards of `size` inputs; a shard's last token, a target, is the first of the next."""

    def __init__(self, size: int, dtype: np.dtype):
        self.size, self.dtype = size, dtype
        self.place = Place()  # of the shard that is being filled
        self.begun = Place()  # of the document
        self.held: list[np.ndarray] = []
        self.count = 0  # tokens held

    def add(self, read: Read | None, ids: list[int]) -> Iterator[tuple[Place, np.ndarray]]:
        """Add tokens of a document, and yield the shards that they fill. read: None for those after the last one."""
        if read is not None and (read.source, read.state) != (self.begun.source, self.begun.state):
            self.begun = Place(read.source, read.state)
        array, start = np.array(ids, self.dtype), 0
        while self.count + len(array) - start > self.size:
            taken = self.size + 1 - self.count
            yield self.place, np.concatenate([*self.held, array[start : start + taken]])
            start += taken - 1
            self.place = Place(self.begun.source, self.begun.state, self.begun.skip + start)
            self.held, self.count = [], 0
        self.held.append(array[start:])
        self.count += len(array) - start
        self.begun = Place(self.begun.source, self.begun.state, self.begun.skip + len(array))

    def rest(self) -> Iterator[tuple[Place, np.ndarray]]:
        """The last shard, if anything is left for it."""
        if self.count > 1:
            yield self.place, np.concatenate(self.held)


class ShardFolder:
    """The shards on the disk: never more than `most_bytes` of them, also while one is written."""

    def __init__(self, folder: Path, most_bytes: int):
        self.folder, self.most_bytes = folder, most_bytes
        self.used: list[int] = []  # numbers of shards, the latest last

    def path(self, number: int) -> Path:
        """The file of a shard."""
        return self.folder / f"{number:08d}.bin"

    def write(self, number: int, ids: np.ndarray, keep: Collection[int] = ()) -> None:
        """Write a shard, after deleting others that were used last: they are needed last, in the next epoch."""
        self.folder.mkdir(exist_ok=True)
        for draft in filter(is_leftover, self.folder.iterdir()):  # of a process that was killed
            remove(draft)
        for old in self._in_order_of_need():
            if self.bytes() + ids.nbytes <= self.most_bytes:
                break
            if old not in keep:
                remove(self.path(old))
        with atomic_write(self.path(number), "wb") as file:
            file.write(ids.tobytes())

    def bytes(self) -> int:
        """The size of all files in the folder."""
        return sum(file.stat().st_size for file in self.folder.iterdir()) if self.folder.exists() else 0

    def _in_order_of_need(self) -> list[int]:
        there = [int(file.stem) for file in self.folder.glob("*.bin")]
        return sorted(there, key=lambda number: self.used.index(number) if number in self.used else -1, reverse=True)

    def note(self, number: int) -> None:
        """A shard is used now."""
        self.used = [other for other in self.used if other != number] + [number]

    @contextmanager
    def one_at_a_time(self) -> Iterator[None]:
        """Let one of the processes that train together make a shard; the others find it."""
        self.folder.mkdir(exist_ok=True)
        with open(self.folder / "lock", "a") as file:
            while not try_lock(file):
                time.sleep(0.05)
            yield


class StreamedTokens(TokenBlocks):
    """The training blocks of a stream. The blocks of a shard are at hand together."""

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
        """As in ``TokenBlocks``: a thread makes a shard that is missing, if the disk may hold it beside those before it."""
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
        with suppress(FinetuneError, OSError):  # raised where the shard is needed and is made again
            self._ensure(number, keep)

    def _ensure(self, number: int, keep: Collection[int] = ()) -> Path:
        """The file of a shard, made again from the stream if it is not on the disk as it was."""
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
                f"the text has changed since it was prepared: shard {number} of the stream is another",
                known=", ".join(source.path for source in self.index.sources[:4]),
                do="Restore it, or run again with --from prepare.",
            )
        return found


def check_room(settings: Pretrain, token_bytes: int = 2) -> None:
    """Raise RecipeError if the disk may not even hold one shard."""
    needed = (settings.shard_tokens + 1) * token_bytes
    if needed > settings.disk_megabytes * 1e6:
        raise RecipeError(
            "pretrain.disk_megabytes is too small for one shard",
            got=f"{settings.disk_megabytes:g} MB for shards of {settings.shard_tokens:,} tokens, {needed / 1e6:.3g} MB each",
            do="Raise it, or lower pretrain.shard_tokens.",
        )


def write_stream(
    files: list[Path], directory: Path, folder: ShardFolder, tokenizer: Tokenizer, settings: Pretrain, seed: int
) -> TextCounts:
    """Read a stream once, and write ``val.bin`` with held-out documents and ``stream.json``, the index of its shards.

    A hash of a document's beginning decides whether it is held out. After ``pretrain.val_tokens`` held-out tokens
    further such documents are left out, so that no copy of one can be trained on. Shards stay on the disk while there
    is room. Raises DataError if a part is empty.
    """
    dtype = token_dtype(tokenizer.vocab_size)
    check_room(settings, dtype.itemsize)
    check_shares(files, settings)
    sources = [_source(file, settings) for file in files]
    index = StreamIndex(sources, settings.val_fraction, seed, list(settings.exclude), settings.shard_tokens, [])
    cutter, total, unused = ShardCutter(settings.shard_tokens, dtype), 0, 0
    train, held_out, excluded = ([_Size() for _ in files] for _ in range(3))
    remove(folder.folder)

    def keep(shards: Iterable[tuple[Place, np.ndarray]]) -> None:
        for place, ids in shards:
            if folder.bytes() + ids.nbytes <= folder.most_bytes:
                folder.write(len(index.shards), ids)
            index.shards.append(Shard(place, len(ids), hashlib.sha256(ids.tobytes()).hexdigest()))

    with (
        TokenWriter(directory, tokenizer, splits=("val",)) as val,
        progress("reading the stream", None, unit="characters") as advance,
    ):
        room = True  # for the held-out document
        for read in read_stream(index, Place()):
            piece = read.piece
            advance(len(piece.text))
            if not piece.times:
                excluded[read.source].add(piece, 0)
            elif piece.split == "val":
                before = val.tokens["val"]
                if piece.begins:
                    room = before < settings.val_tokens
                    unused += not room
                if room:
                    val.add("val", piece.text, piece.begins)
                    held_out[read.source].add(piece, val.tokens["val"] - before)
            else:
                left = settings.stream_tokens - total if settings.stream_tokens else None
                ids = train_ids(read, tokenizer)[:left]
                keep(cutter.add(read, ids))
                train[read.source].add(piece, len(ids))
                total += len(ids)
                if total == settings.stream_tokens:
                    break
        else:
            keep(cutter.add(None, train_ids(None, tokenizer)))
            total += 1
    keep(cutter.rest())
    if unused:
        say(f"  {unused:,} held-out documents beyond the first {settings.val_tokens:,} tokens are not used")
    for split, size in (("train", total), ("val", val.tokens["val"])):
        if size < 2:
            raise DataError(
                f"too little text, the {split} part of the stream is empty",
                do="Give more text, another pretrain.val_fraction, or lines <|endoftext|> between documents.",
            )
    write_json(directory / INDEX, index.to_json())
    documents = sum(own.pieces for own in excluded)
    return TextCounts(
        documents={"train": sum(own.documents for own in train)} | val.documents,
        tokens={"train": total} | val.tokens,
        bytes={"train": sum(own.bytes for own in train)} | val.bytes,
        sources={
            source.name: SourceCounts(source.share, train[at].counts(), held_out[at].counts(), excluded[at].pieces)
            for at, source in enumerate(sources)
        },
        excluded=Excluded(len(index.exclusion), documents) if index.exclusion else None,
    )


@dataclass
class _Size:
    """What was read of a source's part."""

    pieces: int = 0
    documents: int = 0
    tokens: int = 0
    bytes: int = 0

    def add(self, piece: Piece, tokens: int) -> None:
        self.pieces += 1
        self.documents += piece.begins * piece.times
        self.tokens += tokens
        self.bytes += len(piece.text.encode("utf-8", "replace")) * piece.times

    def counts(self) -> PartCounts:
        return PartCounts(self.documents, self.tokens)


def _source(file: Path, settings: Pretrain) -> Source:
    stream, name = TextStream(file), source_name(file)
    one_document = stream.gives_lines and is_one_document(_pieces(stream, None, one_document=False))
    return Source(stream.name if stream.pin else name, str(file), settings.shares.get(name, 1.0), one_document)


def read_index(path: Path) -> StreamIndex:
    """The index of a run's shards. Raises RunError."""
    return StreamIndex.from_json(read_json(path), path)
