"""Documents packed into full sequences, read from a memory-mapped file of token ids."""

import hashlib
import mmap
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from finetune.errors import DataError
from finetune.files import sha256_file, writing
from finetune.records import Record
from finetune.tokenizer import Tokenizer

SPLITS = ("train", "val")


def token_dtype(vocab_size: int) -> np.dtype:
    """The smallest unsigned integer type for all ids."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


def goes_to_val(first_piece: str, val_fraction: float, seed: int) -> bool:
    """Whether a document is held out. Depends on its beginning, not on its position in the file."""
    digest = hashlib.sha256(f"{seed}/{first_piece[:4096]}".encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:8], "big") < val_fraction * 2**64


@dataclass(frozen=True)
class Written(Record):
    """The size of a file of ids, and its hash. bytes: of the text."""

    documents: int = 0
    tokens: int = 0
    bytes: int = 0
    sha256: str = hashlib.sha256().hexdigest()


class TokenWriter:
    """Writes documents into one file of ids per split; every document begins with the end-of-text id.

    That id is the only context of a document's first token, and the target after the last token of the one before.
    splits: names of the files, or also the state that each continues from (``save``); anything after it is cut off.
    """

    def __init__(self, directory: Path, tokenizer: Tokenizer, splits: Iterable[str] | Mapping[str, Written] = SPLITS):
        self.tokenizer, self.dtype = tokenizer, token_dtype(tokenizer.vocab_size)
        begun = splits if isinstance(splits, Mapping) else {name: Written() for name in splits}
        self.files = {
            name: open(Path(directory) / f"{name}.bin", "ab" if own.tokens else "wb")  # noqa: SIM115
            for name, own in begun.items()
        }
        self.tokens = {name: own.tokens for name, own in begun.items()}
        self.documents = {name: own.documents for name, own in begun.items()}
        self.bytes = {name: own.bytes for name, own in begun.items()}
        for name, file in self.files.items():
            if self.tokens[name]:
                file.truncate(self.tokens[name] * self.dtype.itemsize)

    def __enter__(self) -> "TokenWriter":
        return self

    def __exit__(self, *error: object) -> None:
        for name, file in self.files.items():
            with writing(Path(file.name)):
                if error == (None, None, None):
                    self._put(name, [self.tokenizer.end_of_text])
                file.close()

    def add(self, split: str, piece: str, begins: bool) -> None:
        """Append a piece of a document; begins: whether it is the first."""
        if begins:
            self._put(split, [self.tokenizer.end_of_text])
            self.documents[split] += 1
        self._put(split, self.tokenizer.encode(piece))
        self.bytes[split] += len(piece.encode("utf-8", "replace"))

    def save(self, split: str) -> Written:
        """Flush a split's file to the disk. Returns the state from which another writer can continue."""
        file = self.files[split]
        path = Path(file.name)
        with writing(path):
            file.flush()
            os.fsync(file.fileno())
        return Written(self.documents[split], self.tokens[split], self.bytes[split], sha256_file(path))

    def _put(self, split: str, ids: Iterable[int]) -> None:
        array = np.asarray(ids, dtype=self.dtype)
        with writing(Path(self.files[split].name)):
            self.files[split].write(array.tobytes())
        self.tokens[split] += array.size


class TokenBlocks(ABC):
    """Token ids as blocks of `context` inputs, each with the token that follows as its target."""

    groups: Sequence[int] = ()  # sizes of groups of consecutive blocks that are available together; empty: one

    def __init__(self, context: int, end_of_text: int, across: bool):
        self.context, self.end_of_text, self.across = context, end_of_text, across

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def length(self, block: int) -> int:
        """Number of inputs in a block: the context, or fewer in the last block."""

    @abstractmethod
    def inputs(self, block: int) -> list[int]:
        """The ids of a block."""

    @abstractmethod
    def batch(self, blocks: list[int], ignore: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets (B, T) of blocks; a short block is padded with ignored targets."""

    @abstractmethod
    def read_ahead(self, blocks: list[int]) -> None:
        """Prepare for reading blocks while something else is computed; nothing waits for it."""

    def layout(self, inputs: Tensor, causal: bool = True) -> tuple[Tensor | None, Tensor | None]:
        """(mask, positions) that keep documents apart, or (None, None) if attention may cross between them."""
        return (None, None) if self.across else document_layout(inputs, self.end_of_text, causal)


class PackedTokens(TokenBlocks):
    """A file of token ids as blocks of `context` inputs, each with the token that follows as its target.

    start, stop: the part of the file to read, in tokens; its last target is the token at `stop`.
    """

    def __init__(
        self,
        path: Path,
        context: int,
        vocab_size: int,
        end_of_text: int,
        across: bool = False,
        start: int = 0,
        stop: int | None = None,
    ):
        ids = np.memmap(path, dtype=token_dtype(vocab_size), mode="r")
        self.ids = ids[start : len(ids) if stop is None else stop + 1]
        self.map: mmap.mmap = ids._mmap  # type: ignore[attr-defined]  # numpy's own map of the whole file
        self.first_byte = start * ids.itemsize
        super().__init__(context, end_of_text, across)
        if len(self.ids) < 2:
            raise DataError(f"{path.name}: no tokens", do="Give more text.")

    def __len__(self) -> int:
        return -(-(len(self.ids) - 1) // self.context)

    def length(self, block: int) -> int:
        """As in ``TokenBlocks``."""
        return min(self.context, len(self.ids) - 1 - block * self.context)

    def inputs(self, block: int) -> list[int]:
        """As in ``TokenBlocks``."""
        start = block * self.context
        return self.ids[start : start + self.length(block)].astype(np.int64).tolist()

    def targets(self, block: int) -> np.ndarray:
        """The target ids of a block (T,)."""
        start = block * self.context + 1
        return self.ids[start : start + self.length(block)]

    def batch(self, blocks: list[int], ignore: int) -> tuple[Tensor, Tensor]:
        """As in ``TokenBlocks``."""
        longest = max(map(self.length, blocks))
        inputs = torch.full((len(blocks), longest), self.end_of_text)
        targets = torch.full((len(blocks), longest), ignore)
        for row, block in enumerate(blocks):
            start, size = block * self.context, self.length(block)
            piece = torch.from_numpy(self.ids[start : start + size + 1].astype(np.int64))
            inputs[row, :size], targets[row, :size] = piece[:-1], piece[1:]
        return inputs, targets

    def stretches(self) -> Iterator[tuple[list[int], list[int]]]:
        """Inputs and targets of every stretch in which a token attends to all earlier ones: documents, or whole blocks."""
        for block in range(len(self)):
            start, targets = block * self.context, self.targets(block).tolist()
            inputs = self.ids[start : start + len(targets)].tolist()
            ends = [] if self.across else [at for at, token in enumerate(inputs) if at and token == self.end_of_text]
            for first, stop in pairwise([0, *ends, len(inputs)]):
                yield inputs[first:stop], targets[first:stop]

    def read_ahead(self, blocks: list[int]) -> None:
        """Let the system read blocks from the disk while something else is computed; nothing waits for them."""
        if not hasattr(mmap, "MADV_WILLNEED"):  # Windows
            return
        for block in blocks:
            begin = self.first_byte + block * self.context * self.ids.itemsize
            end = begin + (self.length(block) + 1) * self.ids.itemsize
            page = begin // mmap.PAGESIZE * mmap.PAGESIZE
            self.map.madvise(mmap.MADV_WILLNEED, page, end - page)


def document_layout(inputs: Tensor, end_of_text: int, causal: bool = True) -> tuple[Tensor, Tensor]:
    """The attention mask (B, 1, T, T) and the positions (B, T) of packed documents.

    A token attends to its own document, if causal up to itself; positions restart at 0 with each end-of-text id.
    """
    T = inputs.shape[1]
    begins = inputs == end_of_text
    document = begins.cumsum(dim=1)  # (B, T)
    index = torch.arange(T, device=inputs.device).expand_as(inputs)
    start = torch.where(begins, index, 0).cummax(dim=1).values
    same = document[:, :, None] == document[:, None, :]
    if causal:
        same = same & torch.ones(T, T, dtype=torch.bool, device=inputs.device).tril()
    return same[:, None], index - start
