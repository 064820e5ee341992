"""Streaming detokenisation in whole characters, and stop strings."""

import codecs
from collections.abc import Sequence

from finetune.errors import RecipeError
from finetune.tokenizer import Tokenizer


class StopStrings:
    """Detects whether the tokens have just completed one of these strings; the `stop` of ``generate``."""

    def __init__(self, tokenizer: Tokenizer, strings: Sequence[str]):
        if not all(strings):
            raise RecipeError("a stop string is empty")
        self.tokenizer = tokenizer
        self.strings = [string.encode() for string in strings]
        self.longest = max(map(len, self.strings), default=0)  # in bytes, so in tokens at most

    def __call__(self, ids: list[int]) -> bool:
        """True if the latest token completes one of the strings."""
        text = self.tokenizer.decode_bytes(ids[-self.longest :])
        return any(string in text for string in self.strings)


class TextStream:
    """Streamed text of tokens: whole characters only, cut before the first stop string."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()):
        self.tokenizer, self.stop = tokenizer, stop
        self.stopped = False
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""  # may be the beginning of a stop string

    def push(self, token: int) -> str:
        """The text that is final so far; often empty, sometimes from several tokens."""
        return self._release(self._characters.decode(self.tokenizer.decode_bytes([token])))

    def close(self) -> str:
        """The text held back, once generation has ended."""
        return self._release(self._characters.decode(b"", final=True), last=True)

    def _release(self, new: str, last: bool = False) -> str:
        if self.stopped:
            return ""
        text = self._held + new
        found = [at for at in map(text.find, self.stop) if at >= 0]
        self.stopped = bool(found)
        keep = min(found) if found else len(text) - (0 if last else self._begun(text))
        self._held = text[keep:]
        return text[:keep]

    def _begun(self, text: str) -> int:
        """Number of trailing characters that could start a stop string."""
        return max(
            (size for string in self.stop for size in range(1, len(string)) if text.endswith(string[:size])), default=0
        )
