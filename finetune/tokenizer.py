"""GPT-2's byte-level BPE, run by tiktoken from a checkpoint's own ``vocab.json`` and ``merges.txt``.

Sources: Sennrich et al. 2016, arXiv:1508.07909 (BPE); Radford et al. 2019, section 2.2 (over bytes).
"""

import hashlib
import json
import re
from collections.abc import Iterable
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import tiktoken

from finetune.errors import RecipeError, WeightsError

END_OF_TEXT, MASK = "<|endoftext|>", "<|mask|>"
SPECIAL_TOKENS = ("<|pad|>", MASK, "<|sep|>", END_OF_TEXT)  # last in a vocabulary trained here, in this order
SHORT = 1000  # characters of a text, on average, below which threads are of no use
SPECIAL = re.compile(r"<.+>|\[.+\]")  # any other token after the merges lacks its merge
SPLIT_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""


def byte_alphabet() -> dict[int, str]:
    """The printable character that stands for each byte in GPT-2's vocabulary files."""
    printable = [byte for byte in range(256) if chr(byte).isprintable() and chr(byte) != " "]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def split_pieces(text: str) -> list[str]:
    """The words, numbers, signs and white space that a text is split into; no merge crosses their borders."""
    import regex  # type: ignore[import-untyped]  # of tiktoken's requirements

    return regex.findall(SPLIT_PATTERN, text)


def merge_once(parts: list[bytes], ranks: dict[tuple[bytes, bytes], int]) -> list[bytes]:
    """Join the adjacent pair of the lowest rank, the first of equal ones; the same parts if no pair has a rank.

    Sennrich et al. 2016, algorithm 1, as it is applied.
    """
    places = [place for place, pair in enumerate(pairwise(parts)) if pair in ranks]
    if not places:
        return parts
    at = min(places, key=lambda place: ranks[parts[place], parts[place + 1]])
    return [*parts[:at], parts[at] + parts[at + 1], *parts[at + 2 :]]


class Tokenizer:
    """Text to token ids and back.

    Special tokens typed in a text are encoded as text; only tasks insert special ids.
    """

    def __init__(self, vocab_json: str, merges_txt: str, source: str = "vocabulary"):
        self.vocab_json, self.merges_txt = vocab_json, merges_txt
        alphabet = {ord(character): byte for byte, character in byte_alphabet().items()}
        to_bytes = {byte: None for byte in range(256)} | alphabet  # of a character outside the alphabet: nothing
        try:
            vocab: dict[str, int] = json.loads(vocab_json)
            merges = [line.split(" ") for line in merges_txt.split("\n") if line and not line.startswith("#version")]
            ranked = 256 + len(merges)
            special = {token: rank for token, rank in vocab.items() if rank >= ranked}
            ordinary = [token for token, rank in vocab.items() if rank < ranked]
            ranks = {token.translate(to_bytes).encode("latin-1"): vocab[token] for token in ordinary}
            whole = (
                all(bytes([byte]) in ranks for byte in range(256))
                and sum(map(len, ranks)) == sum(map(len, ordinary))
                and {*map(type, vocab.values())} == {int}
                and sorted(vocab.values()) == list(range(len(vocab)))
            )
            in_order = all(
                vocab[left + right] == 256 + i > max(vocab[left], vocab[right])
                for i, (left, right) in enumerate(merges)
            )
            named = all(SPECIAL.fullmatch(token) and token.isprintable() for token in special)
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            raise WeightsError(
                f"{source}: not a byte-level BPE vocabulary",
                got=repr(error),
                known="vocab.json and merges.txt in GPT-2's format",
            ) from error
        if not (whole and in_order and named):
            raise WeightsError(
                f"{source}: vocab.json does not fit merges.txt",
                known="256 bytes, then a token for each merge in order, then <special> tokens",
            )
        if END_OF_TEXT not in special:
            raise WeightsError(f"{source}: the vocabulary has no {END_OF_TEXT}", got=", ".join(special) or "none")
        self.special_tokens = special
        self.end_of_text: int = special[END_OF_TEXT]
        self._encoding = tiktoken.Encoding(
            source, pat_str=SPLIT_PATTERN, mergeable_ranks=ranks, special_tokens=special, explicit_n_vocab=len(vocab)
        )

    @classmethod
    def from_directory(cls, directory: Path) -> "Tokenizer":
        """Read ``vocab.json`` and ``merges.txt``, or the same content from ``tokenizer.json``."""
        directory = Path(directory)
        try:
            if (directory / "vocab.json").exists():
                files = [(directory / name).read_text(encoding="utf-8") for name in ("vocab.json", "merges.txt")]
            else:
                model = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))["model"]
                pairs = (pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"])
                files = [json.dumps(model["vocab"], ensure_ascii=False), "\n".join(pairs) + "\n"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise WeightsError(
                f"{directory}: no readable tokenizer",
                got=str(error),
                known="vocab.json with merges.txt, or tokenizer.json",
            ) from error
        return cls(files[0], files[1], source=directory.name or "vocabulary")

    @classmethod
    def of_bytes(cls) -> "Tokenizer":
        """The smallest possible vocabulary: the 256 bytes and ``<|endoftext|>``, without merges."""
        vocab = {character: rank for rank, character in enumerate(byte_alphabet().values())} | {END_OF_TEXT: 256}
        return cls(json.dumps(vocab, ensure_ascii=False), "#version: 0.2\n", source="bytes")

    def with_tokens(self, *tokens: str) -> "Tokenizer":
        """This vocabulary with these special tokens, added behind all others where they are not there."""
        new = [token for token in tokens if token not in self.special_tokens]
        if not new:
            return self
        vocab = json.loads(self.vocab_json) | {token: self.vocab_size + i for i, token in enumerate(new)}
        return Tokenizer(json.dumps(vocab, ensure_ascii=False), self.merges_txt, source=self._encoding.name)

    @property
    def vocab_size(self) -> int:
        """Number of tokens, including special ones."""
        return self._encoding.n_vocab

    def fingerprint(self) -> str:
        """A sha256 over the ordered vocabulary, which determines every id."""
        ordered = sorted(json.loads(self.vocab_json).items(), key=lambda item: item[1])
        return hashlib.sha256(json.dumps(ordered).encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        """The ids of a text; ``<|endoftext|>`` typed in it is encoded as text."""
        return self._encoding.encode_ordinary(text)

    def encode_batch(self, texts: list[str], threads: int = 2) -> list[list[int]]:
        """The ids of many texts. Short ones are encoded in this thread: handing one to another costs more than it saves.

        Measured by benchmarks/tokens.py.
        """
        if threads < 2 or sum(map(len, texts)) < SHORT * len(texts):
            return list(map(self._encoding.encode_ordinary, texts))
        return self._encoding.encode_ordinary_batch(texts, num_threads=threads)

    def decode(self, ids: list[int]) -> str:
        """Decode ids to text; invalid UTF-8 becomes U+FFFD."""
        unknown = [token for token in ids if not 0 <= token < self.vocab_size]
        if unknown:
            raise WeightsError("no such token id", got=str(unknown[0]), known=f"0 to {self.vocab_size - 1}")
        return self._encoding.decode(ids)

    @cached_property
    def merges(self) -> dict[tuple[bytes, bytes], int]:
        """The merges of ``merges.txt`` with their ranks: the pair with the lowest rank is joined first."""
        byte_of = {character: byte for byte, character in byte_alphabet().items()}
        lines = (line for line in self.merges_txt.split("\n") if line and not line.startswith("#version"))
        pairs = ([bytes(byte_of[c] for c in part) for part in line.split(" ")] for line in lines)
        return {(left, right): rank for rank, (left, right) in enumerate(pairs)}

    def merge_steps(self, piece: str) -> list[list[bytes]]:
        """How a piece of text becomes tokens: its bytes, then its parts after each merge."""
        steps = [[bytes([byte]) for byte in piece.encode("utf-8", "replace")]]
        while (merged := merge_once(steps[-1], self.merges)) != steps[-1]:
            steps.append(merged)
        return steps

    def label(self, token: int) -> str:
        """A token's text; of a token that is part of a character only, its bytes, as in ``\\xe6\\x97``."""
        if token in self.special_tokens.values():
            return self.decode([token])
        raw = self._encoding.decode_single_token_bytes(token)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            return "".join(f"\\x{byte:02x}" for byte in raw)

    def decode_bytes(self, ids: list[int]) -> bytes:
        """Decode ids to bytes; special tokens give no bytes."""
        special = set(self.special_tokens.values())
        return self._encoding.decode_bytes([token for token in ids if token not in special])

    def byte_lengths(self) -> list[int]:
        """Number of bytes that each id decodes to; 0 for special tokens."""
        special = set(self.special_tokens.values())
        return [
            0 if token in special else len(self._encoding.decode_single_token_bytes(token))
            for token in range(self.vocab_size)
        ]

    def save(self, directory: Path) -> None:
        """Write ``vocab.json`` and ``merges.txt`` as they were read."""
        for name, text in (("vocab.json", self.vocab_json), ("merges.txt", self.merges_txt)):
            (Path(directory) / name).write_text(text, encoding="utf-8", newline="\n")


def train_vocabulary(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn merges from texts with the `tokenizers` library.

    The vocabulary is the 256 bytes, the merges in order, then the special tokens.

    Raises RecipeError if `vocab_size` leaves no room for a merge, or `tokenizers` is not installed.
    """
    merges_wanted = vocab_size - 256 - len(SPECIAL_TOKENS)
    if merges_wanted < 1:
        raise RecipeError(
            "the vocabulary is too small",
            got=str(vocab_size),
            known=f"at least {257 + len(SPECIAL_TOKENS)}: the bytes, a merge, the special tokens",
        )
    try:
        from tokenizers import Regex, models, pre_tokenizers, trainers
        from tokenizers import Tokenizer as Trainable
    except ImportError as error:
        raise RecipeError("training a tokenizer needs the package tokenizers", do="pip install tokenizers") from error
    alphabet = list(byte_alphabet().values())
    learner = Trainable(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERN.replace("++", "+")), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    learner.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=256 + merges_wanted, initial_alphabet=alphabet, show_progress=False)
    )
    found = json.loads(learner.to_str())["model"]["merges"]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in found]
    tokens = [*alphabet, *(pair.replace(" ", "") for pair in merges), *SPECIAL_TOKENS]
    vocab = json.dumps({token: rank for rank, token in enumerate(tokens)}, ensure_ascii=False)
    return Tokenizer(vocab, "\n".join(["#version: 0.2", *merges]) + "\n", source="trained")
