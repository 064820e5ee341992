"""Cut a stream of text into shards of tokens, in one pass that can be resumed.

Whenever a shard is full, the position in the stream is saved. A resumed pass continues at the piece of text in which
that shard ends, and writes the same bytes as an uninterrupted one.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from finetune import __version__
from finetune.console import progress, say
from finetune.errors import DataError, RecipeError, RunError, counted
from finetune.files import read_json, remove, sha256_json, write_json
from finetune.hub.streams import TextStream
from finetune.records import Record
from finetune.tasks.pretrain.documents import Piece, check_shares, is_one_document, source_name
from finetune.tasks.pretrain.packing import TokenWriter, Written, token_dtype
from finetune.tasks.pretrain.results import Excluded, PartCounts, SourceCounts, TextCounts
from finetune.tasks.pretrain.settings import Pretrain
from finetune.tasks.pretrain.streaming import (
    INDEX,
    Place,
    Read,
    Shard,
    ShardFolder,
    Source,
    StreamIndex,
    pieces_from,
    read_stream,
    train_ids,
)
from finetune.tokenizer import Tokenizer

PROGRESS = "stream-progress.json"  # in data/, until the stage ends
CUTS = (
    "val_fraction",
    "shares",
    "exclude",
    "shard_tokens",
    "stream_tokens",
    "val_tokens",
)  # settings that the bytes depend on


@dataclass
class Size(Record):
    """The amount read so far of a source's training or held-out part."""

    pieces: int = 0
    documents: int = 0
    tokens: int = 0
    bytes: int = 0

    def add(self, piece: Piece, tokens: int) -> None:
        """Count a piece."""
        self.pieces += 1
        self.documents += piece.begins * piece.times
        self.tokens += tokens
        self.bytes += len(piece.text.encode("utf-8", "replace")) * piece.times

    def counts(self) -> PartCounts:
        """The size for the report."""
        return PartCounts(self.documents, self.tokens)


@dataclass
class Progress(Record):
    """How far a stream was read: up to the piece of text in which the last full shard ends."""

    inputs: str  # the hash of everything that the result depends on
    index: StreamIndex  # with the full shards
    train: list[Size]  # sizes of each source, without that piece
    held_out: list[Size]
    excluded: list[Size]
    val: Written = field(default_factory=Written)  # the file of held-out documents
    unused: int = 0  # held-out documents that were not written
    next: Place = field(default_factory=Place)  # where the next shard begins
    piece: Place = field(default_factory=Place)  # that piece's document, and its number of tokens before the piece
    pieces: int = 0  # number of the document's pieces before it

    def reads(self) -> Iterator[Read]:
        """The rest of the stream."""
        return islice(read_stream(self.index, self.piece), self.pieces, None)


class ShardCutter:
    """Cuts training tokens into shards of `size` inputs; a shard's last token is only a target, and begins the next shard.

    place: where the first shard to fill begins. begun: where the first tokens to be added begin, in the same document
    and not after `place`.
    """

    def __init__(self, size: int, dtype: np.dtype, place: Place, begun: Place):
        self.size, self.dtype = size, dtype
        self.place = place  # where the shard being filled begins
        self.begun = begun  # the current document, and the number of its tokens added
        self.known = place.skip - begun.skip  # tokens to be added that are already in earlier shards
        self.held: list[np.ndarray] = []
        self.count = 0  # tokens held

    def add(self, read: Read | None, ids: list[int]) -> Iterator[tuple[Place, np.ndarray]]:
        """Add tokens of a document, and yield the shards that they fill. read: None for the tokens after the last document."""
        if read is not None and (read.source, read.state) != (self.begun.source, self.begun.state):
            self.begun = Place(read.source, read.state)
        array, start = np.array(ids, self.dtype), self.known
        self.known = 0
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
        """The last shard, if any tokens are left."""
        if self.count > 1:
            yield self.place, np.concatenate(self.held)


def check_room(settings: Pretrain, token_bytes: int = 2) -> None:
    """Raise RecipeError if the disk has no room for even one shard."""
    needed = (settings.shard_tokens + 1) * token_bytes
    if needed > settings.disk_megabytes * 1e6:
        raise RecipeError(
            "pretrain.disk_megabytes is too small for one shard",
            got=f"{settings.disk_megabytes:g} MB for shards of {settings.shard_tokens:,} tokens, {needed / 1e6:.3g} MB each",
            do="Raise it, or lower pretrain.shard_tokens.",
        )


def write_stream(
    files: list[Path],
    directory: Path,
    folder: ShardFolder,
    tokenizer: Tokenizer,
    settings: Pretrain,
    seed: int,
    hashes: dict[str, str],
) -> TextCounts:
    """Read a stream once, and write ``val.bin`` with held-out documents and ``stream.json``, the index of its shards.

    A hash of a document's beginning decides whether it is held out. After ``pretrain.val_tokens`` held-out tokens, more
    such documents are dropped, so that no copy of one can be trained on. Shards stay on the disk while there is room.
    If an earlier call was stopped, this one resumes from its ``stream-progress.json``, which the caller deletes.

    hashes: of the files; if one of them has changed, the stream is read from its beginning. Raises DataError if a
    part is empty.
    """
    dtype = token_dtype(tokenizer.vocab_size)
    check_room(settings, dtype.itemsize)
    check_shares(files, settings)
    cuts = settings.model_dump(mode="json", include=set(CUTS))
    inputs = sha256_json([__version__, list(map(str, files)), hashes, cuts, seed, tokenizer.fingerprint()])
    done = _stopped(directory, inputs, dtype)
    if done is None:
        remove(directory / PROGRESS)
        remove(folder.folder)
        sources = [_source(file, settings) for file in files]
        index = StreamIndex(sources, settings.val_fraction, seed, list(settings.exclude), settings.shard_tokens, [])
        train, held_out, excluded = ([Size() for _ in files] for _ in range(3))
        done = Progress(inputs, index, train, held_out, excluded)
    else:
        say(f"  this stage was stopped: resuming after shard {len(done.index.shards):,} of the stream")
        folder.keep_first(len(done.index.shards))
    counts = StreamWriter(done, directory, folder, tokenizer, settings).write()
    if done.unused:
        say(
            f"  held-out text beyond the first {settings.val_tokens:,} tokens is not used: {counted(done.unused, 'document')}"
        )
    for split, size in counts.tokens.items():
        if size < 2:
            raise DataError(
                f"too little text: the {split} part of the stream is empty",
                do="Give more text, another pretrain.val_fraction, or separate documents by lines <|endoftext|>.",
            )
    write_json(directory / INDEX, done.index.to_json())
    return counts


class StreamWriter:
    """Writes what is left of a stream: held-out documents into ``val.bin``, the others into shards.

    done: how far the stream was read; it is updated, and saved whenever a shard is full.
    """

    def __init__(self, done: Progress, directory: Path, folder: ShardFolder, tokenizer: Tokenizer, settings: Pretrain):
        self.done, self.directory, self.folder = done, directory, folder
        self.tokenizer, self.settings = tokenizer, settings
        dtype = token_dtype(tokenizer.vocab_size)
        self.cutter = ShardCutter(settings.shard_tokens, dtype, done.next, done.piece)
        self.total = sum(own.tokens for own in done.train)  # training tokens
        self.room = True  # for the current held-out document

    def write(self) -> TextCounts:
        """Write all of it, or as much as the settings ask for."""
        with TokenWriter(self.directory, self.tokenizer, {"val": self.done.val}) as val:
            self._read(val)
        self._keep(self.cutter.rest())
        done, exclusion = self.done, self.done.index.exclusion
        return TextCounts(
            documents={"train": sum(own.documents for own in done.train)} | val.documents,
            tokens={"train": self.total} | val.tokens,
            bytes={"train": sum(own.bytes for own in done.train)} | val.bytes,
            sources={
                source.name: SourceCounts(
                    source.share, done.train[at].counts(), done.held_out[at].counts(), done.excluded[at].pieces
                )
                for at, source in enumerate(done.index.sources)
            },
            excluded=Excluded(len(exclusion), sum(own.pieces for own in done.excluded)) if exclusion else None,
        )

    def _read(self, val: TokenWriter) -> None:
        with progress("reading the stream", None, unit="characters") as advance:
            for read in self.done.reads():
                piece = read.piece
                advance(len(piece.text))
                if not piece.times:
                    self.done.excluded[read.source].add(piece, 0)
                elif piece.split == "val":
                    self._hold_out(read, val)
                else:
                    self._train_on(read, val)
                    if self.total == self.settings.stream_tokens:
                        return
        self._keep(self.cutter.add(None, train_ids(None, self.tokenizer)))
        self.total += 1

    def _hold_out(self, read: Read, val: TokenWriter) -> None:
        before = val.tokens["val"]
        if read.piece.begins:
            self.room = before < self.settings.val_tokens
            self.done.unused += not self.room
        if self.room:
            val.add("val", read.piece.text, read.piece.begins)
            self.done.held_out[read.source].add(read.piece, val.tokens["val"] - before)

    def _train_on(self, read: Read, val: TokenWriter) -> None:
        done, limit = self.done, self.settings.stream_tokens
        ids = train_ids(read, self.tokenizer)[: limit - self.total if limit else None]
        full = len(done.index.shards)
        self._keep(self.cutter.add(read, ids))
        if len(done.index.shards) > full:
            done.next, done.val = self.cutter.place, val.save("val")
            done.piece = Place(read.source, read.state, self.cutter.begun.skip - len(ids))
            done.pieces = read.number
            write_json(self.directory / PROGRESS, done.to_json())
        done.train[read.source].add(read.piece, len(ids))
        self.total += len(ids)

    def _keep(self, shards: Iterable[tuple[Place, np.ndarray]]) -> None:
        """Add shards to the index, and write those for which there is room on the disk."""
        known = self.done.index.shards
        for place, ids in shards:
            if self.folder.bytes() + ids.nbytes <= self.folder.most_bytes:
                self.folder.write(len(known), ids)
            known.append(Shard(place, len(ids), hashlib.sha256(ids.tobytes()).hexdigest()))


def _stopped(directory: Path, inputs: str, dtype: np.dtype) -> Progress | None:
    """The progress of a call that was stopped, if its files are intact and depend on the same inputs."""
    path, val = directory / PROGRESS, directory / "val.bin"
    if not path.exists() or not val.exists():
        return None
    try:
        found = Progress.from_json(read_json(path), path)
    except RunError:  # damaged
        return None
    with open(val, "rb") as file:
        digest = hashlib.sha256(file.read(found.val.tokens * dtype.itemsize)).hexdigest()
    return found if (found.inputs, found.val.sha256) == (inputs, digest) else None


def _source(file: Path, settings: Pretrain) -> Source:
    stream, name = TextStream(file), source_name(file)
    one_document = stream.gives_lines and is_one_document(pieces_from(stream, None, one_document=False))
    return Source(stream.name if stream.pin else name, str(file), settings.shares.get(name, 1.0), one_document)
