"""The building blocks of a report and the format of its numbers. Both templates show the same blocks."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from finetune.evaluation.results import Metric
from finetune.report.metric_text import METRIC_NAMES, metric_interval, metric_value
from finetune.report.plots import Picture

NONE = "\N{EN DASH}"
LOWER_IS_BETTER = {"log_loss", "ece", "brier", "hamming_loss"}


@dataclass(frozen=True)
class Text:
    """A paragraph. small: a note below the block that it explains. quotes: whether it shows texts of the data."""

    text: str
    small: bool = False
    quotes: bool = False
    kind: str = "text"


@dataclass(frozen=True)
class Code:
    """Commands or text to copy. quotes: whether it shows texts of the data; instead: what to show without them."""

    text: str
    quotes: bool = False
    instead: str = ""
    kind: str = "code"


@dataclass(frozen=True)
class Table:
    """Rows of strings; line breaks in a cell of numbers are kept.

    numbers: right-aligned columns. strong: highlighted rows. prose: columns of long text. headed: whether the first
    cell of a row is its heading. quotes: columns that show texts of the data. folded: shown on request.
    """

    caption: str
    columns: list[str]
    rows: list[list[str]]
    numbers: frozenset[int] = frozenset()
    strong: frozenset[int] = frozenset()
    prose: frozenset[int] = frozenset()
    headed: bool = True
    quotes: frozenset[int] = frozenset()
    folded: bool = False
    kind: str = "table"


@dataclass(frozen=True)
class Figure:
    """A picture with its caption. table: the same content, where no picture can be shown. quotes: as in Text."""

    picture: Picture
    title: str
    alt: str
    caption: str
    table: Table | None = None
    wide: bool = False
    quotes: bool = False
    kind: str = "figure"


@dataclass(frozen=True)
class Tile:
    """One of the main results at the top of a page."""

    name: str
    value: str
    interval: str
    note: str


@dataclass(frozen=True)
class Notice:
    """A warning at the top of the page, and the commands that fix its cause."""

    text: str
    commands: str


@dataclass(frozen=True)
class Section:
    """A heading with its blocks. The page shows the introduction first, then the figures, then all other blocks.

    training: whether texts that it shows are from training rows.
    """

    id: str
    title: str
    blocks: list = field(default_factory=list)
    introduction: str = ""
    training: bool = False


@dataclass(frozen=True)
class PageContent:
    """Everything that the templates read: the top of the page and its sections in order."""

    kind: str  # the kind of page, shown above its name
    name: str
    verdict: str
    sections: list[Section]
    about: list[str] = field(default_factory=list)  # data, weights and method, a few words each
    tiles: list[Tile] = field(default_factory=list)
    notice: Notice | None = None
    quoting: str = ""  # a note on the texts of the data that the page shows


def metric_name(name: str) -> str:
    """A metric's name in the report."""
    return METRIC_NAMES.get(name, name.replace("_", " ").capitalize())


def metric_cell(name: str, metric: Metric) -> str:
    """The value with its interval below."""
    return f"{metric_value(name, metric.value)}\n({metric_interval(name, metric)})"


def sentence(text: str) -> str:
    """A note as a sentence, with a capital letter and a full stop."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def percent(part: float, whole: float) -> str:
    """A share in percent, or a dash if the whole is zero."""
    return f"{100 * part / whole:.1f}\u00a0%" if whole else NONE


def seconds_text(seconds: float | None) -> str:
    """0.4 s, 12 s, 3 min 20 s, 2 h 5 min."""
    if seconds is None:
        return NONE
    if seconds < 10:
        return f"{seconds:.1f}\u00a0s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}\u00a0s"
    if whole < 3600:
        return f"{whole // 60}\u00a0min {whole % 60}\u00a0s"
    return f"{whole // 3600}\u00a0h {whole % 3600 // 60}\u00a0min"


def bytes_text(size: float | None) -> str:
    """A size in MB or GB."""
    if size is None:
        return NONE
    return f"{size / 1e9:.2f}\u00a0GB" if size >= 1e9 else f"{size / 1e6:.0f}\u00a0MB"


def value_text(value: object) -> str:
    """Any JSON value in a table cell."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, list):
        return ", ".join(map(value_text, value)) or "none"
    if isinstance(value, dict):
        return "; ".join(f"{key}: {value_text(item)}" for key, item in value.items()) or "none"
    return str(value)


def flatten(values: dict, prefix: str = "") -> list[tuple[str, object]]:
    """Nested tables as dotted keys and values, in order."""
    rows = []
    for key, value in values.items():
        if isinstance(value, dict) and value:
            rows += flatten(value, f"{prefix}{key}.")
        else:
            rows.append((prefix + str(key), value))
    return rows


def facts(caption: str, pairs: Iterable[tuple[str, object]], headings: tuple[str, str] = ("", "")) -> list[Table]:
    """A two-column table of the pairs that have a value; an empty list if none has."""
    rows = [
        [name, value if isinstance(value, str) else value_text(value)]
        for name, value in pairs
        if value is not None and value != ""
    ]
    return [Table(caption, list(headings), rows, prose=frozenset({1}))] if rows else []
