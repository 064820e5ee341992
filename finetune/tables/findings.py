"""The result of a check of a table: a finding, with its code, level and worst rows."""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import zip_longest
from typing import Any

import numpy as np

from finetune.errors import shorten
from finetune.tables.codes import BY_NAME
from finetune.tables.readers import LabelledTexts, place

LEVELS = ("stop", "warning", "note")
SAMPLED = 100_000  # rows whose characters and words are checked


@dataclass(frozen=True)
class Finding:
    """One finding about a table. level: stop (results would be meaningless), warning or note."""

    check: str  # name in codes.py, which also gives the code
    level: str
    what: str
    do: str = ""
    count: int = 0
    rows: list[int] = field(default_factory=list)  # the worst rows, as row numbers in the file
    examples: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)  # the file of each of these rows, if there are several files

    def __post_init__(self) -> None:
        assert self.check in BY_NAME, f"{self.check!r} has no code: list it in codes.py"
        assert (self.level == "stop") == BY_NAME[self.check].stops, f"{self.check!r} cannot be a {self.level}"

    @property
    def code(self) -> str:
        """The code for muting and look-up, such as ``FT012``."""
        return BY_NAME[self.check].code

    @property
    def places(self) -> list[str]:
        """The worst rows for a message: ``test.csv row 6``."""
        return [place(row, self.files[at] if at < len(self.files) else "") for at, row in enumerate(self.rows)]

    @property
    def examples_by_place(self) -> list[str]:
        """Each example preceded by its row; a row or an example without the other is given alone."""
        pairs = zip_longest(self.places, self.examples, fillvalue="")
        return [": ".join(filter(None, pair)) for pair in pairs]

    def with_rows(self, source: LabelledTexts, positions: Sequence[int] | np.ndarray) -> "Finding":
        """The finding with the rows (and files) at these positions of the source as its worst rows."""
        files = [source.files[i] for i in positions] if source.files else []
        return replace(self, rows=[source.rows[i] for i in positions], files=files)

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON, with the code first."""
        return {"code": self.code} | asdict(self)


def without_muted(findings: Sequence[Finding], codes: Collection[str]) -> list[Finding]:
    """The findings whose code is not in `codes`."""
    return [finding for finding in findings if finding.code not in codes]


def located(finding: Finding) -> str:
    """A finding's message, with the worst rows."""
    return finding.what + (f" ({', '.join(finding.places)})" if finding.rows else "")


def by_severity(findings: list[Finding]) -> list[Finding]:
    """Sort by severity: stops, then warnings, then notes."""
    return sorted(findings, key=lambda finding: LEVELS.index(finding.level))


def sample_of(source: LabelledTexts) -> list[int]:
    """Evenly spaced positions; all positions if the file is small."""
    return list(range(0, len(source.texts), max(1, len(source.texts) // SAMPLED)))


def quote(text: str, most: int = 60) -> str:
    """A text as Python writes it, shortened."""
    return repr(shorten(text, most))
