"""Fields inside the objects of a column, by dotted names: content.text of a column content."""

import json
from collections.abc import Iterator
from typing import Any

Values = Iterator[tuple[list[str], list[Any]]]


def with_nested(rows: Values, fields: tuple[str, ...]) -> Values:
    """The rows with a column added for each dotted name; where an object lacks the field, the value is missing."""
    for names, values in rows:
        yield [*names, *fields], [*values, *(_field(names, values, name) for name in fields)]


def is_field(name: str, names: list[str]) -> bool:
    """Whether a name is not a column but a field of one: content.text of the column content."""
    return name not in names and holder(name, names) is not None


def holder(name: str, names: list[str]) -> str | None:
    """The column that a dotted name starts with, the longest if there are several."""
    parts = name.split(".")
    starts = [".".join(parts[:length]) for length in range(len(parts) - 1, 0, -1)]
    return next((start for start in starts if start in names), None)


def _field(names: list[str], values: list[Any], name: str) -> Any:
    start = holder(name, names)
    assert start is not None, "a field is of a column"
    value = values[names.index(start)]
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    for part in name[len(start) + 1 :].split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
