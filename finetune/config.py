"""Settings: the base of every schema, TOML files, KEY=VALUE overrides, and validation errors."""

import contextlib
import difflib
import json
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from finetune.errors import RecipeError, listed

S = TypeVar("S", bound="Settings")
TOML_LIMIT, DOTS_LIMIT = 1_000_000, 100  # characters of a file, and dots on one of its lines


class Settings(BaseModel):
    """Frozen, without unknown keys, without NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


def field_names(schema: type[Settings], prefix: str = "") -> list[str]:
    """Every key of a schema in dotted form: ``train.lr``."""
    names = []
    for name, field in schema.model_fields.items():
        nested = field.annotation
        if isinstance(nested, type) and issubclass(nested, Settings):
            names += field_names(nested, f"{prefix}{name}.")
        else:
            names.append(prefix + name)
    return names


def chosen_values(settings: Settings, keys: Iterable[str]) -> dict[str, Any]:
    """Dotted key -> value, for every field in `keys`, which may name fields or whole sections."""
    wanted = tuple(keys)
    return {name: value_of(settings, name) for name in field_names(type(settings)) if under(name, wanted)}


def value_of(settings: Settings, key: str) -> Any:
    """The value of a dotted key, with tuples as lists."""
    value: Any = settings
    for part in key.split("."):
        value = getattr(value, part)
    return list(value) if isinstance(value, tuple) else value


def under(key: str, sections: Iterable[str]) -> bool:
    """Whether a dotted key, or its section, is one of these."""
    return any(key == section or key.startswith(section + ".") for section in sections)


def nearest(word: str, known: Iterable[str]) -> str:
    """'did you mean ...?' for the known word nearest to `word`, or an empty string.

    A match that differs only in case comes first, then one that differs in a letter. Else the last part of a dotted key
    is compared, so that ``lr`` and ``learning_rate`` find ``train.lr``.
    """
    known = list(known)
    if same := [name for name in known if name.casefold() == word.casefold() and name != word]:
        return f"did you mean {same[0]!r}?"
    if almost := difflib.get_close_matches(word, known, n=1, cutoff=0.93):
        return f"did you mean {almost[0]!r}?"
    tails = {name.rsplit(".", 1)[-1]: name for name in known}
    tail = word.rsplit(".", 1)[-1]
    initials = "".join(part[:1] for part in tail.split("_")) if "_" in tail else tail
    close = [t for t in (tail, initials) if t in tails] or difflib.get_close_matches(tail, tails, n=1, cutoff=0.6)
    matches = [tails[close[0]]] if close else difflib.get_close_matches(word, known, n=1, cutoff=0.8)
    return f"did you mean {matches[0]!r}?" if matches else ""


def read_toml(path: Path) -> dict:
    """The tables of a TOML file; a syntax error names the file and the line."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(TOML_LIMIT + 1)
        dots = max((line.count(".") for line in text.splitlines()), default=0)
        if len(text) > TOML_LIMIT or dots > DOTS_LIMIT:  # the parser's time grows with the square of a key's dots
            raise RecipeError(
                f"{path}: not a recipe or a registry",
                got=f"over {TOML_LIMIT:,} characters" if len(text) > TOML_LIMIT else f"a line with {dots:,} dots",
                known=f"at most {TOML_LIMIT:,} characters, and {DOTS_LIMIT} dots on a line",
            )
        return tomllib.loads(text)
    except FileNotFoundError as error:
        raise RecipeError(f"{path}: no such file") from error
    except (OSError, ValueError, RecursionError) as error:
        raise RecipeError(f"{path}: cannot be read as TOML", got=str(error)) from error


def parse_overrides(pairs: list[str]) -> dict:
    """``["train.lr=1e-4"]`` as nested dictionaries of strings; quoted or bracketed values are parsed as TOML.

    Numbers stay strings: the schema converts them, and a string field keeps a label like ``01`` as typed.
    """
    settings: dict = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.strip():
            raise RecipeError("--set takes KEY=VALUE", got=repr(pair), do="For example: --set train.epochs=3")
        value: Any = text
        if text.startswith(('"', "'", "[", "{")) and text.count(".") <= DOTS_LIMIT * 10:
            with contextlib.suppress(ValueError):
                value = tomllib.loads(f"value = {text}")["value"]
        for part in reversed(key.strip().split(".")):
            value = {part: value}
        settings = merge(settings, value)
    return settings


def merge(base: dict, changes: dict) -> dict:
    """`base` updated recursively with `changes`; neither is modified."""
    merged = dict(base)
    for key, value in changes.items():
        nested = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if nested else value
    return merged


def validate(schema: type[S], values: dict, source: str, see: str = "finetune show spam-classifier") -> S:
    """Build `schema` from plain values; the first problem is an error that names `source` and the key."""
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            raise RecipeError(
                f"{source}: unknown key {key!r}", known=nearest(key, field_names(schema)), do=f"See: {see}"
            ) from error
        got = json.dumps(problem["input"], default=str)[:80]
        raise RecipeError(f"{source}: {key}: {problem['msg']}", got=got, do=f"See: {see}") from error


def check_names(kind: str, asked: tuple[str, ...], known: Iterable[str], again: str) -> None:
    """Raise RecipeError if a name is unknown or given twice. again: advice for a name given twice."""
    if unknown := [name for name in asked if name not in known]:
        raise RecipeError(f"unknown {kind}", got=listed(unknown), known=", ".join(known))
    if len(set(asked)) < len(asked):
        raise RecipeError(f"a {kind} is given twice", got=listed(list(asked)), do=again)
