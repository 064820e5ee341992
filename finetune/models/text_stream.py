"""Between tokens and text: whole characters as they come, and strings that end a text."""

import codecs
from collections.abc import Sequence

from finetune.errors import RecipeError
from finetune.tokenizer import Tokenizer


class StopStrings:
    """Whether tokens end with one of these strings just completed; the `stop` of ``generate``."""

    def __init__(self, tokenizer: Tokenizer, strings: Sequence[str]):
        if not all(strings):
            raise RecipeError("a stop string is empty")
        self.tokenizer = tokenizer
        self.strings = [string.encode() for string in strings]
        self.longest = max(map(len, self.strings), default=0)  # in bytes, so in tokens at most

    def __call__(self, ids: list[int]) -> bool:
        """True if the newest of these tokens completes one of the strings."""
        text = self.tokenizer.decode_bytes(ids[-self.longest :])
        return any(string in text for string in self.strings)


class TextStream:
    """The text of tokens as they come: whole characters only, and nothing of a stop string or of what follows it."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()):
        self.tokenizer, self.stop = tokenizer, stop
        self.stopped = False
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""  # may be the beginning of a stop string

    def push(self, token: int) -> str:
        """The text that is certain now; often nothing, sometimes of several tokens."""
        return self._release(self._characters.decode(self.tokenizer.decode_bytes([token])))

    def close(self) -> str:
        """What was held back, now that nothing follows."""
        return self._release(self._characters.decode(b"", final=True), last=True)

    def _release(self, new: str, last: bool = False) -> str:
        if self.stopped:
            return ""
        text = self._held + new
        found = [at for at in map(text.find, self.stop) if at >= 0]
        self.stopped = bool(found)
        keep = min(found) if found else len(text) - (0 if last else self._begun(text))
        self._held = "" if found else text[keep:]
        return text[:keep]

    def _begun(self, text: str) -> int:
        """How many characters at the end may be the beginning of a stop string."""
        return max(
            (size for string in self.stop for size in range(1, len(string)) if text.endswith(string[:size])), default=0
        )
